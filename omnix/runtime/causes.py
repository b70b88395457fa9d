"""Name what breaks the streams: which function of the host was replaced, and which pack replaced it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .watch import JOIN, Block, Explain

_OWN = ("comfy", "comfy_extras", "torch", __name__.removesuffix(".omnix.runtime.causes"))
"""Packages whose functions replace nothing."""


class Place(NamedTuple):
    """A function that other packs may replace: its name, and the function that is there now."""

    name: str
    function: Any
    lasts: bool = False
    """Whether the replacement stays until the process ends, even if its node is removed."""


def method(owner: Any, name: str, called: str) -> Place:
    """Return the place of a host method; the replacement lasts if the class itself was changed."""
    of_the_host = type(owner).__module__.startswith("comfy.")
    return Place(called, getattr(owner, name, None), of_the_host and name not in vars(owner))


def explaining(places: Callable[[Block | None], Iterable[Place]]) -> Explain:
    """Return a function that makes the error for streams that did not meet or adapters that were not added.

    The error names the pack that caused it.
    """

    def explain(what: str, block: Block | None) -> Exception:
        where, who = f" in {block.name}" if block is not None else "", replacement(places(block))
        sentences = {JOIN: f"OmniX's streams did not meet{where}", "streams": "FLUX ran without OmniX's streams"}
        happened = sentences.get(what, f"OmniX's adapter was not added to {what}")
        return error_of(happened, who) if who or what in sentences else passed_over(happened)

    return explain


def error_of(happened: str, who: str | None) -> ValueError:
    """Return the error that says what happened and, if known, which function caused it."""
    return ValueError(
        f"{happened}, so the picture would be wrong: {who or 'a node on the model computes FLUX in its own way'}. "
        "Remove the node that does this from the model that goes into OmniX's sampler."
    )


def passed_over(happened: str) -> ValueError:
    """Return the error for a layer that was not called, although the function that calls it was not replaced."""
    return ValueError(
        f"{happened}, so the picture would be wrong: ComfyUI or a node ran this layer's weights without the layer, as "
        "fused kernels do. Load FLUX.1-dev in bf16 or fp8 instead of int8, and start ComfyUI without "
        "--fast fp16_accumulation."
    )


def replacement(places: Iterable[Place]) -> str | None:
    """Name the first place whose function is not from `_OWN` packages, and where that function comes from."""
    for place in places:
        if (function := place.function) is None:
            continue
        while (inner := getattr(function, "__func__", getattr(function, "func", None))) is not None:  # bound, partial
            function = inner
        # A wrapper copies the names of the function that it wraps, but keeps its own globals.
        module = getattr(function, "__globals__", {}).get("__name__") or type(function).__module__
        if not any(module == name or module.startswith(f"{name}.") for name in _OWN):
            code = getattr(function, "__code__", None)
            name = getattr(code, "co_name", None) or type(function).__name__
            lasting = ", which lasts until ComfyUI restarts" if place.lasts else ""
            return f"{place.name} is replaced by {name} of {pack_of(module)}{lasting}"
    return None


def pack_of(module: str) -> str:
    """Name a module by its pack: the part of the path after custom_nodes."""
    return module.replace("\\", "/").split("custom_nodes")[-1].lstrip("/.") or module
