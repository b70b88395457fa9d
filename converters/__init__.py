"""Convert FLUX.1 LoRAs from Diffusers layout to ComfyUI's fused layers, exactly. Needs only the standard library.

Only arithmetic (multiplying in a scale, another dtype, state dicts in memory) imports torch, and only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import AdapterError  # first, so that every module below can raise it

from .lora.adapter import open_adapter  # isort: skip
from .convert import Report, convert, split
from .files.header import read_metadata
from .files.slab import Slab
from .files.write import remove_stale, write_bytes
from .inspect import inspect
from .lora.layout import LAYOUT, Geometry
from .lora.plan import STREAM_KEY, TASK_KEY, AdapterFile, Alpha, Block, FusedLayer
from .tasks import Slot, find_adapters, slot_of_name
from .tree import Job, Outcome, convert_tree, jobs, run
from .verify import Verified, verify
from .version import VERSION

if TYPE_CHECKING:
    from .state import Converted, convert_state_dict, inspect_state_dict, split_state_dict, verify_state_dict

_NEEDS_TORCH = ("Converted", "convert_state_dict", "inspect_state_dict", "split_state_dict", "verify_state_dict")


def __getattr__(name: str) -> Any:
    """Import the functions for tensors in memory, and torch with them, at first use."""
    if name in _NEEDS_TORCH:
        from . import state

        return getattr(state, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LAYOUT",
    "STREAM_KEY",
    "TASK_KEY",
    "VERSION",
    "AdapterError",
    "AdapterFile",
    "Alpha",
    "Block",
    "Converted",
    "FusedLayer",
    "Geometry",
    "Job",
    "Outcome",
    "Report",
    "Slab",
    "Slot",
    "Verified",
    "convert",
    "convert_state_dict",
    "convert_tree",
    "find_adapters",
    "inspect",
    "inspect_state_dict",
    "jobs",
    "open_adapter",
    "read_metadata",
    "remove_stale",
    "run",
    "slot_of_name",
    "split",
    "split_state_dict",
    "verify",
    "verify_state_dict",
    "write_bytes",
]
