"""Small folders of maps, right and wrong, and the command line that measures them."""

import io
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from comfyui_omnix.evaluation.__main__ import main
from comfyui_omnix.mapfiles import layout

ROOT = Path(__file__).resolve().parents[2]
COLOURS = np.array([[200, 30, 40], [10, 120, 210], [60, 190, 80]], dtype=np.uint8)


def maps(seed: int, height: int = 16) -> dict[str, Any]:
    """One map of every kind; none of them is constant."""
    rng = np.random.default_rng(seed)
    shape = (height, 2 * height)
    normals = rng.normal(size=(*shape, 3))
    return {
        "rgb": rng.uniform(0, 1, (*shape, 3)),
        "depth": rng.uniform(0.5, 9, shape),
        "normal": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        "albedo": rng.uniform(0, 1, (*shape, 3)),
        "roughness": rng.uniform(0, 1, shape),
        "metallic": rng.uniform(0, 1, shape),
        "semantic": COLOURS[rng.integers(0, 3, shape)],
    }


class Room(NamedTuple):
    """Distances along the ray [H, W], and the normals that face the viewer [H, W, 3]: front, up, left."""

    depth: Any
    normal: Any


def box_room(height: int = 32, near: Sequence[float] = (2.0, 1.6, 1.5), far: Sequence[float] = (3.0, 1.1, 2.5)) -> Room:
    """An empty room: the viewer is `near` metres from back, floor and right, and `far` from front, ceiling and left."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(2 * height), indexing="ij")
    latitude, longitude = np.pi / 2 - (rows + 0.5) * np.pi / height, np.pi - (columns + 0.5) * np.pi / height
    ray = [np.cos(latitude) * np.cos(longitude), np.sin(latitude), np.cos(latitude) * np.sin(longitude)]
    way = np.stack(ray, axis=-1)
    walls = np.where(way > 0, np.asarray(far), np.asarray(near)) / np.maximum(np.abs(way), 1e-12)
    hit = walls.argmin(axis=-1)
    normal = -np.sign(np.take_along_axis(way, hit[..., None], -1)) * np.eye(3)[hit]
    return Room(walls.min(axis=-1), normal)


def write_maps(folder: Path, stem: str, found: dict[str, Any], depth: str = ".exr") -> None:
    for kind, values in found.items():
        layout.write(layout.place(folder, kind, stem, depth if kind == "depth" else ""), kind, values)


def sides(tmp_path: Path, stems: int = 2, height: int = 16) -> tuple[Path, Path]:
    """Predictions and truths of so many stems, without a predicted rgb."""
    for number in range(stems):
        predicted = maps(100 + number, height)
        del predicted["rgb"]
        write_maps(tmp_path / "predicted", f"{number:04d}", predicted)
        write_maps(tmp_path / "true", f"{number:04d}", maps(number, height))
    return tmp_path / "predicted", tmp_path / "true"


class Done(NamedTuple):
    """The output of a run and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: Any, without: str = "") -> Done:
    """Run omnix-evaluate; where some packages can't be imported, in a process of its own, from a clone."""
    if without:
        return _process(arguments, without)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def _process(arguments: Sequence[Any], without: str) -> Done:
    code = (
        f"import sys; sys.modules.update({{name: None for name in {without.split()!r}}});"
        "from evaluation.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)
