"""Adapter files made byte by byte with the standard library, right and wrong, and the command line as a process."""

import json
import math
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, RANK = 16, 2
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "U8": 1}


class Raw(NamedTuple):
    """A tensor as it is stored in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = dict[str, Raw]

DOUBLE = {
    "attn.to_q": (1, 1),
    "attn.to_k": (1, 1),
    "attn.to_v": (1, 1),
    "attn.to_out.0": (1, 1),
    "ff.net.0.proj": (1, 4),
    "ff.net.2": (4, 1),
}
SINGLE = {"attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1)}


def modules(double: int = 1, single: int = 1) -> dict[str, tuple[int, int]]:
    """Name OmniX's layers and their (columns, rows) in units of the hidden size."""
    found = {f"transformer_blocks.{i}.{name}": size for i in range(double) for name, size in DOUBLE.items()}
    return found | {
        f"single_transformer_blocks.{i}.{name}": size for i in range(single) for name, size in SINGLE.items()
    }


def pair(module: str, columns: int, rows: int, rank: int, dtype: str, noise: random.Random) -> Tensors:
    """Make a layer's factors of random bytes; as bytes of floating point numbers they may be anything, NaN included."""
    return {
        f"transformer.{module}.lora_{letter}.weight": Raw(
            dtype, shape, noise.randbytes(math.prod(shape) * SIZES[dtype])
        )
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank)))
    }


def adapter(
    seed: int = 0, hidden: int = HIDDEN, rank: int = RANK, dtype: str = "BF16", double: int = 1, single: int = 1
) -> Tensors:
    """Make an adapter of OmniX's layers."""
    noise = random.Random(seed)
    tensors: Tensors = {}
    for module, (columns, rows) in modules(double, single).items():
        tensors |= pair(module, columns * hidden, rows * hidden, rank, dtype, noise)
    return tensors


def alpha(value: float) -> Raw:
    """Make an alpha tensor."""
    return Raw("F32", (), struct.pack("<f", value))


def fields_of(tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the header's JSON of tensors one after another."""
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    return fields


def write_raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file of this header, with its true length before it or a false one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def write(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors as a safetensors file."""
    header = json.dumps(fields_of(tensors, metadata)).encode()
    return write_raw(path, header, b"".join(tensor.data for tensor in tensors.values()))


def read(path: Path) -> tuple[dict[str, str], Tensors]:
    """Read a file back, metadata and tensors, with an independent reader."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    fields = json.loads(content[8:start])
    metadata = fields.pop("__metadata__", {})
    cut = {name: [start + offset for offset in field["data_offsets"]] for name, field in fields.items()}
    return metadata, {
        name: Raw(field["dtype"], tuple(field["shape"]), content[cut[name][0] : cut[name][1]])
        for name, field in fields.items()
    }


def files_below(folder: Path) -> list[str]:
    """List all files below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- the command line -------------------------------------------------------------------------------------------------

_BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not here")

sys.meta_path.insert(0, Blocker())
"""

_PEAK = """
import atexit

def _note(path={path!r}):
    with open("/proc/self/status") as status, open(path, "w") as note:
        note.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))

atexit.register(_note)
"""

# As root, permissions bind only without these capabilities (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH).
ORDINARY_USER = """
import ctypes, os

if hasattr(os, "geteuid") and os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) or libc.capset(header, (ctypes.c_uint32 * 6)(sets[0] & ~6, *sets[1:])):
        raise OSError(ctypes.get_errno(), "no capabilities could be dropped")
"""


def prepared(folder: Path, start: str = "", blocked: Iterable[str] = ("torch", "numpy")) -> dict[str, str]:
    """Return an environment in which `start` runs before the program, and where the blocked modules can't be found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_BLOCKER.format(blocked=tuple(blocked)) + start)
    return {**os.environ, "PYTHONPATH": str(folder)}


def cli(
    tmp_path: Path, *arguments: object, start: str = "", blocked: Iterable[str] = ("torch", "numpy")
) -> subprocess.CompletedProcess[str]:
    """Run `python -m converters` from the clone, as a process, without torch and numpy unless they are let in."""
    return subprocess.run(
        [sys.executable, "-m", "converters", *map(str, arguments)],
        cwd=ROOT,
        env=prepared(tmp_path / "site", start, blocked),
        capture_output=True,
        text=True,
        timeout=300,
    )


def peak_of_cli(tmp_path: Path, *arguments: object, blocked: Iterable[str] = ("torch", "numpy")) -> float:
    """Run the command line; return the most memory that its process held at a time, in MB."""
    note = tmp_path / "peak"
    done = cli(tmp_path, *arguments, start=_PEAK.format(path=str(note)), blocked=blocked)
    assert done.returncode == 0, done.stderr
    return int(note.read_text()) / 1024
