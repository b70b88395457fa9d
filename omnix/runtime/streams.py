"""Run several adapters at once on one FLUX, each on its own stream, joined in attention.

A denoising step runs FLUX on a stack of S streams: the clean condition streams first, the noisy target stream
last. The stack is `(b s)`: row b * S + s is sequence b of stream s, so that where the host cuts a batch, into positive
and negative, it cuts between sequences. Every stream sees the same weights W; what is its own is a low-rank delta in
each adapted layer, y_s = W x_s + b + B_s (A_s x_s), and each stream's queries attend to the keys and values of all of
them. W itself is never touched: the deltas are added by forward hooks that exist only while a step runs, so an error
or an interrupt leaves nothing behind.

In the double blocks the text rows of all streams are equal (their layers carry no adapter and they attend to the
same keys), so their layers and their queries run once there. Of the last block only the target's rows are read, so the
other streams ask nothing there and skip its last layer. The result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .fused import asked, is_plain
from .low_rank import LowRank

Attention = Callable[..., Tensor]
Deltas = Mapping[str, LowRank]

# Layers outside the image rows of the double blocks: with an adapter here, the text rows of the streams differ.
_TEXT_LAYERS = ("txt_in", "time_in", "vector_in", "guidance_in", ".txt_")


class Stream(NamedTuple):
    """One stream's adapter: its layers by name, and its strength."""

    layers: Deltas
    strength: float


def layers_of(streams: Sequence[Stream]) -> list[str]:
    """Name the layers that have adapters on any of the streams."""
    return list(dict.fromkeys(layer for stream in streams for layer in stream.layers))


def stack(x: Tensor, streams: int) -> Tensor:
    """Repeat a per-sequence tensor [b, ...] for every stream: [(b s), ...]."""
    return repeat(x, "b ... -> (b s) ...", s=streams)


def by_stream(patches: Mapping[str, Sequence[Any]], streams: int) -> dict[str, Sequence[Any]]:
    """Return the host's patches, those of FLUX's inputs run once a stream: they add rows for one (USO's style tokens).

    A patch takes and returns FLUX's inputs by name, tensors [(b s), ...] among them; each stream sees what it adds.
    """

    def each(change: Callable[[dict[str, Any]], dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, value in given.items() if isinstance(value, Tensor)]
        made = [change({**given, **{name: given[name][one::streams] for name in names}}) for one in range(streams)]
        return {**made[0], **{name: rearrange([one[name] for one in made], "s b ... -> (b s) ...") for name in names}}

    inputs = [partial(each, change) for change in patches.get("post_input", ())]
    return {**patches, **({"post_input": inputs} if inputs else {})}


def text_is_shared(streams: Sequence[Stream]) -> bool:
    """Return whether the text rows of all streams are equal throughout the double blocks."""
    return not any(part in layer for layer in layers_of(streams) for part in _TEXT_LAYERS)


def _unheard(_layer: str) -> None:
    """Do nothing when a layer was adapted."""


@contextmanager
def adapted(
    model: nn.Module, streams: Sequence[Stream], added: Callable[[str], None] = _unheard, stacked: int | None = None
) -> Iterator[None]:
    """Add every stream's deltas to its rows of the stacked batch during the context; `added` is called for each layer.

    `model` is a FLUX in ComfyUI's layout; a hook works with any forward that a layer has then, also if quantised,
    offloaded or wrapped by another LoRA. All hooks are removed on the way out, also by an exception. Of the model's
    result only the last stream's part counts. Raises ValueError if a layer is called in an unknown way, or with other
    sequences than the `stacked` ones.
    """
    names = layers_of(streams)
    with ExitStack() as hooks:
        for name in names:
            layers = [(index, s.layers[name], s.strength) for index, s in enumerate(streams) if name in s.layers]
            hook = _delta_hook(name, [entry for entry in layers if entry[2] != 0], len(streams), added, stacked)
            hooks.callback(model.get_submodule(name).register_forward_hook(hook, with_kwargs=True).remove)
        for layer in text_layers(model) if text_is_shared(streams) else ():
            _run_on_part(hooks, layer, lambda x: x[:: len(streams)], lambda y: stack(y, len(streams)))
        if (last := last_layer(model)) not in names:
            layer = model.get_submodule(last)
            _run_on_part(hooks, layer, lambda x: of_target(x, len(streams)), lambda y: among_streams(y, len(streams)))
        yield


def last_layer(model: nn.Module) -> str:
    """Name the last layer of the last block; its results for streams other than the target are never used."""
    return f"single_blocks.{len(list(model.get_submodule('single_blocks').children())) - 1}.linear2"


def text_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that see only text rows: those of the double blocks."""
    for block in model.get_submodule("double_blocks").children():
        for name in ("txt_attn.qkv", "txt_attn.proj", "txt_mlp"):
            yield block.get_submodule(name)


Deltaed = Sequence[tuple[int, LowRank, float]]
"""The deltas of one layer: each with the number of its stream and its strength."""


def _delta_hook(
    name: str, layers: Deltaed, streams: int, added: Callable[[str], None], stacked: int | None
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], Tensor]:
    factors = [factor for _, layer, _ in layers for factor in layer.parameters()]

    def add_deltas(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x, scale = asked(name, args, kwargs, stacked)
        own = output.contiguous() if scale is None else torch.zeros_like(output, memory_format=torch.contiguous_format)
        if torch.is_grad_enabled() and any(part.requires_grad for part in (x, own, *factors)):
            own = _Differentiable.apply(own, x, layers, streams, *factors)
        else:
            _add_deltas(own, x, layers, streams)
        added(name)
        return own if scale is None else output + (scale * own).to(output)

    return add_deltas


def _add_deltas(output: Tensor, x: Tensor, layers: Deltaed, streams: int) -> None:
    """Add each stream's delta to its rows of a layer's `output` [(b s), ..., rows], in place."""
    x, y = (rearrange(rows, "bs ... d -> bs (...) d") for rows in (x, output))
    for stream, layer, strength in layers:
        layer.add_to(y[stream::streams], x[stream::streams], strength)


class _Differentiable(torch.autograd.Function):
    """`_add_deltas` for training: the same arithmetic in place, and its gradient in closed form.

    Recorded operation by operation, every addition to some rows would copy the gradient of the whole layer. Under
    autocast the factors follow the layer's output, as the layer's own weight does.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, layers: Deltaed, streams: int, *factors: Tensor) -> Tensor:
        x = x.to(output)
        with torch.autocast(output.device.type, enabled=False):
            _add_deltas(output, x, layers, streams)
        ctx.mark_dirty(output)
        ctx.save_for_backward(x, *factors)
        ctx.layers, ctx.streams = layers, streams
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, *_) = grads, ctx.saved_tensors
        grad_x, factors = torch.zeros_like(x), []
        for stream, layer, strength in ctx.layers:
            part, rows = (rearrange(whole[stream :: ctx.streams], "b ... d -> (b ...) d") for whole in (x, grad))
            inner, own = layer.gradients(rows, part, strength)
            grad_x[stream :: ctx.streams].copy_(inner.view_as(grad_x[stream :: ctx.streams]))
            factors += own
        return grad, grad_x, None, None, *factors


def _run_on_part(
    hooks: ExitStack, layer: nn.Module, part: Callable[[Tensor], Tensor], whole: Callable[[Tensor], Tensor]
) -> None:
    """Let a layer see only `part` of the stack, and expand its result to the `whole`.

    A layer that is not called as layer(x) sees the whole stack, because its other arguments may be for all streams.
    """

    def take(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return ((part(args[0]),), {}) if is_plain(args, kwargs) else None

    def give(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        return whole(output) if is_plain(args, kwargs) else output

    hooks.callback(layer.register_forward_pre_hook(take, with_kwargs=True).remove)
    hooks.callback(layer.register_forward_hook(give, with_kwargs=True).remove)


def joint_attention(inner: Attention | None, streams: int, text_rows: int, shared_text: bool) -> Attention:
    """Return an attention override in which each stream's queries see the keys and values of all streams.

    The streams are folded into the sequence, [(b s), heads, n, d] -> [b, heads, (s n), d], attended once and unfolded.
    `inner` is the override that was there before, if any; it gets the folded tensors. With `shared_text`, the equal
    text queries (the first `text_rows` rows) of the double blocks are asked once; their keys still count S times. In
    the last block only the target's queries are asked.
    """

    def attend(attention: Attention, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options")
        block = options if isinstance(options, Mapping) else {}
        once = shared_text and block.get("block_type") == "double"
        last = block.get("block_type") == "single" and block.get("block_index") == block.get("total_blocks", 0) - 1
        function = attention if inner is None else partial(inner, attention)
        return attend_jointly(function, *args, streams=streams, shared=text_rows if once else 0, last=last, **kwargs)

    return attend


def attend_jointly(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *args: Any,
    streams: int,
    shared: int,
    last: bool,
    **kwargs: Any,
) -> Tensor:
    """Attend with the streams folded into the sequence: [(b s), heads, n, d] -> [(b s), n, c].

    The first `shared` rows of all streams' queries are equal and computed once; in the `last` block only the target's.
    """
    q, k, v = map(_taken, (q, k, v))
    queries = fold_shared(q, streams, shared) if shared else of_target(q, streams) if last else fold(q, streams)
    out = attention(queries, fold(k, streams), fold(v, streams), *args, **kwargs)
    if last:
        return among_streams(out, streams)
    return unfold_shared(out, streams, shared) if shared else rearrange(out, "b (s n) c -> (b s) n c", s=streams)


def _taken(tensor: Any) -> Tensor:
    """Take a tensor out of the container in which newer hosts pass it to the attention."""
    return tensor if isinstance(tensor, Tensor) else tensor.take()


def of_target(x: Tensor, streams: int) -> Tensor:
    """Return the target's part of a stacked batch: [(b s), ...] -> [b, ...]."""
    return x[streams - 1 :: streams]


def among_streams(x: Tensor, streams: int) -> Tensor:
    """Put the target's part [b, ...] where it belongs in a stacked batch [(b s), ...], zeros elsewhere."""
    stacked = x.new_zeros(x.shape[0] * streams, *x.shape[1:])
    of_target(stacked, streams).copy_(x)
    return stacked


def fold(x: Tensor, streams: int) -> Tensor:
    """Fold the streams into the sequence: [(b s), heads, n, d] -> [b, heads, (s n), d]."""
    return rearrange(x, "(b s) h n d -> b h (s n) d", s=streams)


def fold_shared(q: Tensor, streams: int, text_rows: int) -> Tensor:
    """Fold queries whose text rows are equal in all streams: [b, heads, text + (s image), d]."""
    text, image = q[::streams, :, :text_rows], q[:, :, text_rows:]
    return torch.cat((text, *rearrange(image, "(b s) h n d -> s b h n d", s=streams)), dim=2)


def unfold_shared(out: Tensor, streams: int, text_rows: int) -> Tensor:
    """Undo `fold_shared` on an attention result: [b, text + (s image), c] -> [(b s), text + image, c]."""
    text, image = out[:, :text_rows], out[:, text_rows:]
    return torch.cat((stack(text, streams), rearrange(image, "b (s n) c -> (b s) n c", s=streams)), dim=1)
