"""Handle hosts that fuse a layer with an activation before it and a residual after it.

Newer hosts may call a layer with keywords; the result is then residual + scale * layer(activation(x)), and the adapter
must get the same input as the layer's weights. Or they run the weights in their own kernel (int8 weights, fp16
accumulation) without calling the layer at all, so that no hook would run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn.functional import gelu

CALLED = "_full_precision_mm"
"""The host's flag on a layer: while it is true, the host calls the layer and runs its weights in no other kernel.

A quantised layer's own forward also reads the flag: if it is true, the layer computes with dequantised weights.
"""

_ACTIVATIONS: Mapping[object, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}


class Asked(NamedTuple):
    """A call of a layer: its weights get `x`, and the result is scaled before a residual is added."""

    x: Tensor
    scale: Any = None


def is_plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a layer is called as layer(x)."""
    return len(args) == 1 and not kwargs


def asked(layer: str, args: Sequence[Any], kwargs: Mapping[str, Any], stacked: int | None = None) -> Asked:
    """Read a call of a layer.  Raises ValueError that names the layer and the call if OmniX does not know the call.

    `stacked` is the number of sequences of all streams together, if known: x is [stacked, ..., in].
    """
    named = {name: value for name, value in kwargs.items() if value is not None and name != "act_eps"}
    inputs = (*args, named.pop("input")) if "input" in named else tuple(args)
    how, residual, scale = (named.pop(name, None) for name in ("input_act", "residual", "residual_scale"))
    activation = _ACTIVATIONS.get(how, cast("Any", how) if callable(how) else None)
    x = inputs[0] if len(inputs) == 1 else None
    known = not named and (scale is None or residual is not None)
    if activation is None or not isinstance(x, Tensor) or not known or stacked not in (None, len(x)):
        raise ValueError(
            f"OmniX doesn't know the call {_shown(args, kwargs)} of {layer}, so its adapter can't be added there and "
            "the picture would be wrong. Update OmniX and remove nodes that change how FLUX computes; if that doesn't "
            "help, load FLUX.1-dev in bf16."
        )
    return Asked(activation(x), scale)


def _shown(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Write a call the way people write it."""

    def text(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"Tensor{list(value.shape)}"
        return repr(value) if value is None or isinstance(value, (str, int, float)) else type(value).__name__

    return f"layer({', '.join([*map(text, args), *(f'{name}={text(value)}' for name, value in kwargs.items())])})"


@contextmanager
def called(model: nn.Module, layers: Iterable[str]) -> Iterator[None]:
    """Make the host call these layers even where it would run their weights in its own kernel, until the context ends.

    Inside a layer's own forward, the host's flag has its original value.
    """
    with ExitStack() as undo:
        for layer in map(model.get_submodule, layers):
            before = getattr(layer, CALLED, None)
            undo.callback(partial(setattr, layer, CALLED, before) if CALLED in vars(layer) else partial(_drop, layer))
            setattr(layer, CALLED, True)
            if before is False:
                undo.callback(layer.register_forward_pre_hook(partial(_mark, value=False)).remove)
                undo.callback(layer.register_forward_hook(partial(_mark, value=True)).remove)
        yield


def _mark(layer: nn.Module, *_: Any, value: bool) -> None:
    setattr(layer, CALLED, value)


def _drop(layer: nn.Module) -> None:
    delattr(layer, CALLED)
