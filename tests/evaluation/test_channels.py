"""EXR files with the channels of renderers: many channels by name, several parts, one channel of any name."""

from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO as oiio
import pytest
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.errors import MapError

SHAPE = (4, 8)


def spec(names: list[str], formats: list[str] | None = None) -> Any:
    found = oiio.ImageSpec(SHAPE[1], SHAPE[0], len(names), "float")
    found.channelnames = names
    if formats:
        found.channelformats = [oiio.TypeDesc(one) for one in formats]
    return found


def write(path: Path, names: list[str], formats: list[str] | None = None) -> dict[str, Any]:
    """Write an EXR whose channel number i holds i + 1 + something; return name -> values."""
    values = {name: 1 + i + np.random.default_rng(i).uniform(0, 0.5, SHAPE) for i, name in enumerate(names)}
    values |= {name: np.ones(SHAPE) for name in names if name.rpartition(".")[2] == "A"}
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), spec(names, formats)), target.geterror()
    target.write_image(np.stack([values[name] for name in names], axis=-1).astype(np.float32))
    assert target.close()
    return values


RGBA = ["R", "G", "B", "A"]
DEPTHS = {
    "Depth.Z": ["Combined.R", "Combined.G", "Combined.B", "Combined.A", "Depth.Z"],
    "ViewLayer.Depth.Z": [*(f"ViewLayer.Combined.{c}" for c in "RGBA"), "ViewLayer.Depth.Z"],
    "Depth.V": ["Combined.R", "Combined.G", "Combined.B", "Depth.V", "Normal.X", "Normal.Y", "Normal.Z"],
    "Z": [*RGBA, "Z"],
    "depth": [*RGBA, "depth"],
    "distance": ["distance"],
    "Y": ["Y"],
    "anything at all": ["anything at all"],
    "depth.Z": ["depth.Z", "mist.Z", "ZBack"],
}


@pytest.mark.parametrize("name", DEPTHS)
def test_a_depth_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    values = write(tmp_path / "1.exr", DEPTHS[name])
    np.testing.assert_allclose(layout.read(tmp_path / "1.exr", "depth"), values[name], rtol=1e-6)


def test_channels_of_half_and_float_stay_what_they_are(tmp_path: Path) -> None:
    values = write(tmp_path / "1.exr", [*RGBA, "Z"], ["half"] * 4 + ["float"])
    np.testing.assert_allclose(layout.read(tmp_path / "1.exr", "depth"), values["Z"], rtol=1e-6)


def test_a_film_that_is_transparent_does_not_spoil_the_depth(tmp_path: Path) -> None:
    path = tmp_path / "1.exr"
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), spec([*RGBA, "Z"]))
    target.write_image(np.concatenate([np.zeros((*SHAPE, 4)), np.full((*SHAPE, 1), 3)], axis=-1).astype(np.float32))
    assert target.close()
    assert (layout.read(path, "depth") == 3).all()


NORMALS = [
    ["Combined.R", "Combined.G", "Combined.B", "Normal.X", "Normal.Y", "Normal.Z", "Depth.Z"],
    ["Position.X", "Position.Y", "Position.Z", "ViewLayer.Normal.X", "ViewLayer.Normal.Y", "ViewLayer.Normal.Z"],
    ["R", "G", "B", "Z"],
    ["X", "Y", "Z"],
]


@pytest.mark.parametrize("names", NORMALS)
def test_normals_are_found_by_their_name(names: list[str], tmp_path: Path) -> None:
    values = write(tmp_path / "1.exr", names)
    three = [name for name in names if "Normal" in name] or names[:3]
    wanted = np.stack([values[name] for name in three], axis=-1)
    wanted /= np.linalg.norm(wanted, axis=-1, keepdims=True)
    np.testing.assert_allclose(layout.read(tmp_path / "1.exr", "normal"), wanted, rtol=1e-5)


def test_parts_of_one_file_are_searched_too(tmp_path: Path) -> None:
    path, parts = tmp_path / "1.exr", {"Combined": ["R", "G", "B"], "Depth": ["Z"]}
    specs = []
    for name, channels in parts.items():
        one = spec(channels)
        one.attribute("oiio:subimagename", name)
        specs.append(one)
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), specs), target.geterror()
    target.write_image(np.ones((*SHAPE, 3), dtype=np.float32))
    assert target.open(str(path), specs[1], "AppendSubimage")
    target.write_image(np.full((*SHAPE, 1), 7, dtype=np.float32))
    assert target.close()
    assert (layout.read(path, "depth") == 7).all()


UNCLEAR = [
    ("depth", ["R", "G", "B", "A", "u", "v"]),
    ("depth", ["Left.Depth.Z", "Right.Depth.Z"]),
    ("depth", ["Position.X", "Position.Y", "Position.Z", "Index"]),
    ("normal", ["A.X", "A.Y", "A.Z", "B.X", "B.Y", "B.Z"]),
    ("roughness", ["R", "G", "B", "Z"]),
]


@pytest.mark.parametrize(("kind", "names"), UNCLEAR)
def test_names_that_do_not_decide_are_an_error_that_lists_them(kind: str, names: list[str], tmp_path: Path) -> None:
    write(tmp_path / "1.exr", names)
    with pytest.raises(MapError, match=f"unclear which channels contain {kind}; it has ") as caught:
        layout.read(tmp_path / "1.exr", kind)
    assert all(name in str(caught.value) for name in names) and str(tmp_path / "1.exr") in str(caught.value)
