"""Name what keeps the streams from meeting: which function of the host is replaced, and by which pack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .watch import JOIN, Blame, Block

_OWN = ("comfy", "comfy_extras", "torch", __name__.removesuffix(".omnix.blame"))
"""Packages whose functions replace nothing."""


class Place(NamedTuple):
    """Something that other packs replace: what it is called, and the function that is there now."""

    name: str
    function: Any
    lasts: bool = False
    """For the whole process: the replacement does not go with its node."""


def method(owner: Any, name: str, called: str) -> Place:
    """Return the place of a method of the host's, which lasts where its class has got another."""
    of_the_host = type(owner).__module__.startswith("comfy.")
    return Place(called, getattr(owner, name, None), of_the_host and name not in vars(owner))


def blaming(places: Callable[[Block | None], Iterable[Place]]) -> Blame:
    """Return what makes the error for streams that do not meet and adapters that are not added: it names who did it."""

    def blame(what: str, block: Block | None) -> Exception:
        where, who = f" in {block.name}" if block is not None else "", replacement(places(block))
        sentences = {JOIN: f"OmniX's streams did not meet{where}", "streams": "FLUX ran without OmniX's streams"}
        happened = sentences.get(what, f"OmniX's adapter was not added to {what}")
        return accused(happened, who) if who or what in sentences else passed_over(happened)

    return blame


def accused(happened: str, who: str | None) -> ValueError:
    """Return the error that says what happened and who did it, as far as `replacement` knows."""
    return ValueError(
        f"{happened}, so the picture would be wrong: {who or 'a node on the model computes FLUX in its own way'}. "
        "Remove the node that does this from the model that goes into OmniX's sampler."
    )


def passed_over(happened: str) -> ValueError:
    """Return the error for a layer that was not called, though nobody has replaced what calls it."""
    return ValueError(
        f"{happened}, so the picture would be wrong: ComfyUI or a node ran this layer's weights without the layer, as "
        "fused kernels do. Load FLUX.1-dev in bf16 or fp8 instead of int8, and start ComfyUI without "
        "--fast fp16_accumulation."
    )


def replacement(places: Iterable[Place]) -> str | None:
    """Name the first place whose function is neither the host's nor ours, and the pack whose function it is."""
    for place in places:
        if (function := place.function) is None:
            continue
        while (inner := getattr(function, "__func__", getattr(function, "func", None))) is not None:  # bound, partial
            function = inner
        # A wrapped function bears the names of the one that it wraps, but not its globals.
        module = getattr(function, "__globals__", {}).get("__name__") or type(function).__module__
        if not any(module == name or module.startswith(f"{name}.") for name in _OWN):
            code = getattr(function, "__code__", None)
            name = getattr(code, "co_name", None) or type(function).__name__
            lasting = ", which lasts until ComfyUI restarts" if place.lasts else ""
            return f"{place.name} is replaced by {name} of {pack_of(module)}{lasting}"
    return None


def pack_of(module: str) -> str:
    """Name a module as people know its pack: what comes after custom_nodes."""
    return module.replace("\\", "/").split("custom_nodes")[-1].lstrip("/.") or module
