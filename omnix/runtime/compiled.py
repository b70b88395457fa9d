"""Run FLUX's blocks as graphs of torch.compile, with the streams joined and the adapters inside.

Hooks that are added and removed would force a new compilation each time. So each block gets a twin: a copy that shares
the block's weights and whose adapted layers contain their deltas. Factors and strengths, which change between runs, are
tensors of the twin, so one graph serves all blocks of a kind, all adapters of the same ranks and all strengths. During
a step the twins replace the blocks. A block that is called with arguments that its graph lacks runs uncompiled.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.functional import linear

from .fused import asked, called, is_plain
from .low_rank import LowRank
from .sampling import Run
from .streams import (
    Deltaed,
    Stream,
    among_streams,
    attend_jointly,
    last_layer,
    layers_of,
    of_target,
    stack,
    text_is_shared,
)
from .watch import OPTIONS, OVERRIDE, Block, Step, blocks_of, unwrapped

HOW = "torch_compile_kwargs"
"""The key in the host's model options with the arguments that the user's compile node passed to torch.compile."""

_TEXT = ("txt_attn.qkv", "txt_attn.proj", "txt_mlp.0", "txt_mlp.2")
_OUTSIDE = {"post_input"}
"""Patches of the host that have no effect inside a block."""
_MODES = (None, "default", "max-autotune-no-cudagraphs")


class _Instead(nn.Module):
    """Replaces a layer in a twin. It has no weights, so no kernel of the host can run them without calling it."""

    weight, _full_precision_mm = None, True  # fused.CALLED

    def __init__(self, base: nn.Module, streams: int) -> None:
        super().__init__()
        self.base, self.streams = base, streams


class _Deltas(_Instead):
    """A layer with every stream's delta, for a graph: everything that differs between runs or blocks is a tensor."""

    def __init__(self, base: nn.Module, name: str, deltas: Deltaed, streams: int, device: torch.device) -> None:
        super().__init__(base, streams)
        self.name, self.layers = name, nn.ModuleList(layer for _, layer, _ in deltas)
        self.numbers = tuple(number for number, _, _ in deltas)
        self.places = tuple(_places(layer) for _, layer, _ in deltas)
        for place, (_, layer, strength) in enumerate(deltas):
            self.register_buffer(f"gain_{place}", _gain(layer, strength, device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        x, scale = asked(self.name, args, kwargs)
        out = self.base.forward(*args, **kwargs)
        y = out.contiguous() if scale is None else torch.zeros_like(out)
        for number, (stream, layer, places) in enumerate(zip(self.numbers, self.layers, self.places)):
            hidden = linear(x[stream :: self.streams], layer.get_parameter("down").to(x))
            hidden = (hidden.float() * self.get_buffer(f"gain_{number}")).to(x)
            for block, (column, rank, start, size) in enumerate(places):
                up = layer.get_parameter(f"up_{block}").to(x)
                rows = y[stream :: self.streams, ..., start : start + size]
                rows += linear(hidden[..., column : column + rank], up)
        return y if scale is None else out + (scale * y).to(out)


def _places(layer: LowRank) -> tuple[tuple[int, int, int, int], ...]:
    """Return each block's first column among the down factor's results, its rank, first row and number of rows."""
    found, column = [], 0
    for up, rows in zip(layer.ups, layer.rows, strict=True):
        found.append((column, up.shape[1], rows.start, rows.size))
        column += up.shape[1]
    return tuple(found)


def _gain(layer: LowRank, strength: float, device: torch.device) -> Tensor:
    """Return strength * scale for each of the down factor's results, float32."""
    gains = [strength * rows.scale for up, rows in zip(layer.ups, layer.rows) for _ in range(up.shape[1])]
    with torch.inference_mode(False):  # always an ordinary tensor: graphs recompile for inference tensors
        return torch.tensor(gains, dtype=torch.float32, device=device)


class _Once(_Instead):
    """A layer whose input rows are equal in all streams; it runs once."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if not is_plain(args, kwargs):
            return self.base.forward(*args, **kwargs)
        return stack(self.base.forward(args[0][:: self.streams]), self.streams)


class _Target(_Instead):
    """A layer of which only the target's rows are used."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if not is_plain(args, kwargs):
            return self.base.forward(*args, **kwargs)
        return among_streams(self.base.forward(of_target(args[0], self.streams)), self.streams)


class _Double(nn.Module):
    """A double block with its streams joined."""

    def __init__(self, block: nn.Module, streams: int, shared: bool) -> None:
        super().__init__()
        self.block, self.streams, self.shared = block, streams, shared

    def forward(self, img: Tensor, txt: Tensor, **kwargs: Any) -> Any:
        rows = txt.shape[1] if self.shared else 0
        join = partial(attend_jointly, streams=self.streams, shared=rows, last=False)
        # A block changes its input in place. If part of its graph fails to compile, the block must run again from the
        # same input, so the graph gets a copy.
        img, txt = img.clone(), txt.clone()
        return self.block(img=img, txt=txt, transformer_options={OVERRIDE: join}, **kwargs)


class _Single(nn.Module):
    """A single block with its streams joined."""

    def __init__(self, block: nn.Module, streams: int, last: bool) -> None:
        super().__init__()
        self.block, self.streams, self.last = block, streams, last

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        join = partial(attend_jointly, streams=self.streams, shared=0, last=self.last)
        return self.block(x.clone(), transformer_options={OVERRIDE: join}, **kwargs)


Replacing = Mapping[str, Callable[[nn.Module], nn.Module]]
"""Replacements for layers of a twin, by the layer's name in its block."""


def _twin(module: nn.Module, replacing: Replacing, path: str = "") -> nn.Module:
    """Return a module that shares all weights with `module`, but has no hooks and has some layers replaced.

    Layers themselves are not copied, because the host may change at any time how a layer gets its weights.
    """
    if path in replacing:
        return replacing[path](module)
    if not module._modules or module._parameters:
        return module
    twin = copy.copy(module)
    vars(twin).update({name: value for name, value in vars(nn.Module()).items() if "hooks" in name})
    twin._modules = {}
    for name, child in module._modules.items():
        twin._modules[name] = child and _twin(child, replacing, f"{path}.{name}" if path else name)
    return twin


def _replacing(block: Block, streams: Sequence[Stream], last: str, device: torch.device) -> Replacing:
    """Return the layers that a block's twin replaces: layers with deltas, and layers that need not run in full."""
    count = len(streams)
    found: dict[str, Callable[[nn.Module], nn.Module]] = {}
    if block.kind == "double" and text_is_shared(streams):
        found |= dict.fromkeys(_TEXT, lambda base: _Once(base, count))
    if last.startswith(f"{block.name}."):
        found[last.removeprefix(f"{block.name}.")] = lambda base: _Target(base, count)
    for place in _layers_of(block, streams):
        name = f"{block.name}.{place}"
        deltas = [(number, s.layers[name], s.strength) for number, s in enumerate(streams) if name in s.layers]
        found[place] = partial(_Deltas, name=place, deltas=deltas, streams=count, device=device)
    return found


def _layers_of(block: Block, streams: Sequence[Stream]) -> list[str]:
    """List the layers of a block that have adapters, by their names inside the block."""
    layers = [layer for layer in layers_of(streams) if layer.startswith(f"{block.name}.")]
    return [layer.removeprefix(f"{block.name}.") for layer in layers]


class _Compiled(nn.Module):
    """Replaces a block during a step: runs its graph, or the block itself if the graph does not cover the call."""

    def __init__(
        self, block: Block, layers: Sequence[str], graphs: Mapping[str, Any], step: Step, failed: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.block, self.layers, self.graphs, self.step, self.failed = block, layers, graphs, step, failed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        options, graph = kwargs.get(OPTIONS) or {}, self.graphs.get(self.block.name)
        if graph is not None and self.step.alone(options) and not set(options.get("patches", {})) - _OUTSIDE:
            given = {name: value for name, value in kwargs.items() if name != OPTIONS}
            try:
                with torch.compiler.set_stance("default"):
                    out = graph(*args, **given)
            except TorchDynamoException as error:  # the block's inputs are unchanged
                self.failed(f"torch.compile fails ({type(error).__name__})")
            else:
                self.step.ran_whole()
                return out
        with called(self.block.module, self.layers):
            return self.block.module(*args, **kwargs)


class Graphs:
    """The compiled twins of a FLUX's blocks, made at first use and again when the model has changed."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        """`streams` are the streams that the graphs join, with the deltas that they add."""
        self._streams = streams
        self._known: list[Any] = []
        self._graphs: dict[str, Any] = {}

    @contextmanager
    def standing(
        self, flux: nn.Module, run: Run, device: torch.device, step: Step, replaced: Callable[[Block], str | None]
    ) -> Iterator[None]:
        """Run graphs instead of the blocks during one call of FLUX, if the user's graph compiles and it is possible.

        `replaced` names another pack's function that replaced part of a block, if any: a graph would not call it.
        """
        blocks = list(blocks_of(flux))

        def uncompiled(reason: str) -> None:
            logging.warning("OmniX: this model runs uncompiled: %s.", reason)
            run.compile, self._known = None, []
            self._graphs.clear()

        if run.compile is not None:
            found = why_uncompiled(blocks, run.compile) or next(filter(None, map(replaced, blocks)), None)
            if found is None:
                self._make(flux, blocks, run.compile, device)
            else:
                uncompiled(found)
        if run.compile is None:
            yield
            return
        layers = {each.name: _layers_of(each, self._streams) for each in blocks}
        twins = {each.name: _Compiled(each, layers[each.name], self._graphs, step, uncompiled) for each in blocks}
        with _in_place(flux, twins):
            yield

    def _make(self, flux: nn.Module, blocks: Sequence[Block], how: Mapping[str, Any], device: torch.device) -> None:
        known = [how, device, *(module for block in blocks for module in unwrapped(block.module).modules())]
        if self._known != known:
            last = last_layer(flux)
            graphs = {block.name: _graph(block, self._streams, last, how, device) for block in blocks}
            self._known, self._graphs = known, graphs


@contextmanager
def _in_place(flux: nn.Module, twins: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace a FLUX's blocks by other modules, by the blocks' names, until the context ends."""
    stood = {kind: flux.get_submodule(kind) for kind in ("double_blocks", "single_blocks")}
    try:
        for kind in stood:
            setattr(flux, kind, nn.ModuleList(twin for name, twin in twins.items() if name.startswith(kind)))
        yield
    finally:
        for kind, modules in stood.items():
            setattr(flux, kind, modules)


def _graph(block: Block, streams: Sequence[Stream], last: str, how: Mapping[str, Any], device: torch.device) -> Any:
    """Compile a block's twin with the options of the user's compile node, but allow graph breaks."""
    twin = _twin(unwrapped(block.module), _replacing(block, streams, last, device))
    count = len(streams)
    if block.kind == "double":
        joined: nn.Module = _Double(twin, count, text_is_shared(streams))
    else:
        joined = _Single(twin, count, block.number == block.total - 1)
    options = how.get("options")  # torch.compile removes the options it uses, so it gets a copy
    return torch.compile(joined, **{**how, "fullgraph": False, "options": options and dict(options)})


def why_uncompiled(blocks: Sequence[Block], how: Mapping[str, Any]) -> str | None:
    """Return why blocks can't be compiled (a twin would miss something, or it is untested), or None."""
    if not hasattr(torch.compiler, "set_stance"):
        return "torch is older than 2.6"
    if how.get("backend") == "cudagraphs" or how.get("mode") not in _MODES:
        return "CUDA graphs are not supported; choose the backend inductor and the mode default"
    for block in blocks:
        for name, module in unwrapped(block.module).named_modules():
            hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
            if "forward" in vars(module) or not all(map(_is_ours, hooks)):
                return f"another node has changed {block.name}{name and '.'}{name}"
    return None


def _is_ours(hook: Any) -> bool:
    """Return whether a hook belongs to this runtime; graphs do the same work as these hooks."""
    return getattr(hook, "__module__", None) in (Stream.__module__, Step.__module__)
