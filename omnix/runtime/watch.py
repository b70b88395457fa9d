"""Check in every step that each block joined the streams and that each adapter was added.

Other packs replace FLUX's forward, its blocks or its attention. If they leave something out, the result would be wrong
without a message: streams that do not meet, adapters that are not added, or plain FLUX. So each block's own hook passes
the join to the block, no matter which code calls it and with which options, and checks afterwards what the block did. A
block that is skipped on purpose, by a cache for example, is not an error.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn

from .streams import Attention

OVERRIDE = "optimized_attention_override"
"""The host's name for a function that replaces its attention."""
OPTIONS = "transformer_options"

JOIN = "attention"
"""The block's other duty, next to running its adapted layers: joining the streams."""
_QUERIES = {"double": "img_attn.qkv", "single": "linear1"}
_MODULATION = {"double": "img_mod", "single": "modulation"}

Explain = Callable[[str, "Block | None"], Exception]
"""Makes the error for something that went wrong, in one block or in the whole model."""


class Block(NamedTuple):
    """One block of FLUX: its kind ("double" or "single"), its number, how many of its kind there are, the module."""

    kind: str
    number: int
    total: int
    module: nn.Module

    @property
    def name(self) -> str:
        """The block's name in the model."""
        return f"{self.kind}_blocks.{self.number}"


def blocks_of(model: nn.Module) -> Iterator[Block]:
    """Yield the blocks of a FLUX in ComfyUI's layout, in the order in which they run."""
    for kind in ("double", "single"):
        blocks = list(model.get_submodule(f"{kind}_blocks").children())
        yield from (Block(kind, number, len(blocks), block) for number, block in enumerate(blocks))


class Step:
    """The record of one call of FLUX so far, and the attention that joins its streams."""

    def __init__(
        self,
        inner: Attention | None,
        joining: Callable[[Attention | None], Attention],
        wanted: Mapping[str, frozenset[str]],
    ) -> None:
        """`joining(inner)` makes an override that joins the streams around another override; `wanted`: `wanted_of`."""
        self._inner, self._make, self._joint = inner, joining, joining(inner)
        self._wanted = wanted
        self._seen: set[str] = set()
        self._block: Block | None = None
        self._joining = False
        self._outside: Counter[str] = Counter()
        """How often each layer ran with its adapters, and the join (`JOIN`) ran, outside of a block's call."""
        self.blocks = 0

    def join(self, attention: Attention, *args: Any, **kwargs: Any) -> Any:
        """Attend with the streams joined. This is the override that the host calls."""
        return self._joined(self._joint, attention, *args, **kwargs)

    def _joined(self, joint: Attention, attention: Attention, *args: Any, **kwargs: Any) -> Any:
        if self._joining:  # called by an override around ours, with tensors that are already joined
            return attention(*args, **kwargs) if self._inner is None else self._inner(attention, *args, **kwargs)
        self._seen.add(JOIN)
        self._outside[JOIN] += self._block is None
        self._joining = True
        try:
            return joint(attention, *args, **kwargs)
        finally:
            self._joining = False

    def added(self, layer: str) -> None:
        """Record that a layer ran with its adapters, inside a block or called by code that runs the layers itself."""
        self._seen.add(layer)
        if self._block is None:
            self._outside[layer] += 1
            self.blocks += layer.endswith(tuple(_QUERIES.values()))

    def enter(self, block: Block, kwargs: Mapping[str, Any], takes_options: bool) -> dict[str, Any]:
        """Return the arguments for a block; they always include the join."""
        self._block, self._seen = block, set()
        self.blocks += 1
        options = {OPTIONS: self._options(block, kwargs.get(OPTIONS) or {})} if takes_options else {}
        return {**kwargs, **options}

    def _options(self, block: Block, given: Mapping[str, Any]) -> dict[str, Any]:
        theirs = given.get(OVERRIDE, self.join)
        place = {"block_type": block.kind, "block_index": block.number, "total_blocks": block.total}
        return {**given, **place, OVERRIDE: theirs if theirs == self.join else self._joined_with(theirs)}

    def _joined_with(self, theirs: Attention) -> Attention:
        joint = self._make(theirs)

        def attend(attention: Attention, *args: Any, **kwargs: Any) -> Any:
            return self._joined(joint, attention, *args, **kwargs)

        return attend

    def alone(self, given: Mapping[str, Any]) -> bool:
        """Return whether no other attention override is around or inside ours, in a block with these options."""
        return self._inner is None and given.get(OVERRIDE, self.join) == self.join

    def ran_whole(self) -> None:
        """Count a block whose graph contains the join and the adapters."""
        self.blocks += 1

    def computes(self) -> None:
        """Record that the block computes, so it is not skipped."""
        self._seen.add("modulation")

    def leave(self, block: Block, given: Iterable[Any], output: Any) -> str | None:
        """Return what a finished block left out, the join or an adapted layer; None if nothing is missing."""
        seen, self._seen, self._block = self._seen, set(), None
        missing = (self._wanted.get(block.name) or {JOIN}) - seen
        if not missing or not (seen or _computed(given, output)):
            return None
        return JOIN if JOIN in missing else min(missing)

    def check(self, explain: Explain) -> None:
        """Raise if blocks ran without being called as modules, and the join or some of their adapters are missing."""
        outside = self._outside
        wanted = [layers - {JOIN} for name, layers in self._wanted.items() if "_blocks." in name]
        blocks = [sorted((outside[layer], layer) for layer in layers) for layers in wanted]
        runs = sum(each[-1][0] for each in blocks)
        if outside[JOIN] < runs:
            raise explain(JOIN, None)
        least = 1 if outside[JOIN] > runs else 0  # a block was joined, and none of its adapters was added
        short = [each[0][1] for each in blocks if each[0][0] < max(least, each[-1][0])]
        if short:
            raise explain(short[0], None)


def _computed(given: Iterable[Any], output: Any) -> bool:
    """Return whether a block's output differs from its input; if it doesn't, the block was skipped."""
    known = {id(each) for each in given}
    return any(id(each) not in known for each in (output if isinstance(output, tuple) else (output,)))


def wanted_of(layers: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return each block's duties, by the block's name: join the streams, and run the adapted layers."""
    found: dict[str, set[str]] = {}
    for layer in layers:
        found.setdefault(".".join(layer.split(".")[:2]), {JOIN}).add(layer)
    return {name: frozenset(wanted) for name, wanted in found.items()}


def _takes(function: Any, name: str) -> bool:
    """Return whether a function accepts an argument of this name."""
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return name in named or bool(code.co_flags & inspect.CO_VARKEYWORDS)


_STEP: ContextVar[Step | None] = ContextVar("step", default=None)


def eager() -> AbstractContextManager[Any]:
    """Run compiled modules uncompiled: their graphs would miss hooks that are added and removed, or compile each time.

    The blocks have their own graphs, which do the work of the hooks (`compiled.Graphs`). torch before 2.6 has no such
    setting. The setting applies to all threads, so the threads of one run must not set and reset it one after another.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


@contextmanager
def current(step: Step, explain: Explain) -> Iterator[None]:
    """Give the hooks of `guarded` their step during one call of FLUX, then raise `explain`'s error if it failed."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)
    step.check(explain)


@contextmanager
def guarded(model: nn.Module, explain: Explain, called: Callable[[], None]) -> Iterator[None]:
    """Join the streams in the blocks of a FLUX and check the blocks, while sampling runs; `called` runs at each call.

    Meanwhile all threads run compiled modules uncompiled (`eager`).

    Raises `explain`'s error as soon as a block runs without streams, without joining them or without its adapters.
    """

    def hear(_module: nn.Module, _args: Sequence[Any]) -> None:
        if not torch.compiler.is_compiling():
            called()

    def compute(_module: nn.Module, _args: Sequence[Any]) -> None:
        if not torch.compiler.is_compiling():
            _current(explain).computes()

    with ExitStack() as undo:
        undo.enter_context(eager())
        undo.callback(model.register_forward_pre_hook(hear).remove)
        for block in blocks_of(model):
            enter, leave = _hooks(block, explain)
            undo.callback(block.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            undo.callback(block.module.register_forward_hook(leave, with_kwargs=True).remove)
            modulation = getattr(block.module, _MODULATION[block.kind], None)
            if isinstance(modulation, nn.Module):
                undo.callback(modulation.register_forward_pre_hook(compute).remove)
        yield


def _hooks(block: Block, explain: Explain) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Return the hooks that run before and after a block."""
    takes_options = _takes(unwrapped(block.module).forward, OPTIONS)

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():  # another node runs the block in its own graph
            return None
        return args, _current(explain).enter(block, kwargs, takes_options)

    def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.compiler.is_compiling():
            missing = _current(explain).leave(block, (*args, *kwargs.values()), output)
            if missing is not None:
                raise explain(missing, block)

    return enter, leave


def _current(explain: Explain) -> Step:
    """Return the current step; raise `explain`'s error if FLUX runs without one, bypassing our wrapper."""
    step = _STEP.get()
    if step is None:
        raise explain("streams", None)
    return step


def unwrapped(module: Any) -> Any:
    """Return the module inside the wrappers of torch.compile and parallel runs."""
    while isinstance(module, nn.Module):
        inner = [child for name, child in module.named_children() if name in ("_orig_mod", "module")]
        if len(inner) != 1 or len(list(module.children())) != 1:
            break
        module = inner[0]
    return module
