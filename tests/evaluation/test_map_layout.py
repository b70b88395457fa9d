"""The folders of maps that rooms, training and evaluation share: written maps can be read, other files are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.errors import MapError
from hypothesis import given, settings
from hypothesis import strategies as st
from map_trees import maps
from PIL import Image

# The largest error of what is written with so many bits, or as EXR.
STEPS = {8: 0.5 / 255, 16: 0.5 / 65535}
FORMS = [
    *(("rgb", ".png", bits, STEPS[bits]) for bits in (8, 16)),
    *(("albedo", ".png", bits, STEPS[bits]) for bits in (8, 16)),
    *((kind, ".png", bits, STEPS[bits]) for kind in ("roughness", "metallic") for bits in (8, 16)),
    *((kind, ".exr", 0, 0) for kind in ("roughness", "metallic")),
    ("depth", ".exr", 0, 0),
    ("depth", ".png", 0, 0.0005),
    # Normals are made unit again, which adds to the step of 2/255.
    ("normal", ".png", 8, 3 / 255),
    ("normal", ".png", 16, 3 / 65535),
    ("normal", ".exr", 0, 0),
    ("semantic", ".png", 0, 0),
]


@pytest.mark.parametrize(("kind", "suffix", "bits", "step"), FORMS)
def test_what_is_written_is_read(kind: str, suffix: str, bits: int, step: float, tmp_path: Path) -> None:
    path = layout.place(tmp_path, kind, "0001", suffix)
    values = maps(0)[kind]
    layout.write(path, kind, values, bits)
    found = layout.read(path, kind)
    assert found.shape == values.shape and found.dtype == (np.uint8 if kind == "semantic" else np.float32)
    assert np.abs(found.astype(np.float64) - values).max() <= step + 1e-6
    assert layout.find(tmp_path, kind, "0001") == path and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".exr", ".png"])
def test_none_is_kept(suffix: str, tmp_path: Path) -> None:
    for kind in ("depth", "normal"):
        values = maps(1)[kind]
        values[2, 3] = np.nan
        path = layout.place(tmp_path, kind, "1", suffix)
        layout.write(path, kind, values)
        found = layout.read(path, kind)
        assert np.isnan(found[2, 3]).all() and np.isfinite(np.delete(found.reshape(512, -1), 2 * 32 + 3, 0)).all()


def test_depths_that_are_none_in_an_exr(tmp_path: Path) -> None:
    path = tmp_path / "1.exr"
    layout.save(path, np.array([[0.0, -1.0, np.inf, 2.5]], dtype=np.float32))
    np.testing.assert_array_equal(layout.read(path, "depth"), [[np.nan, np.nan, np.nan, 2.5]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normals_that_are_none_in_a_png(dtype: type, tmp_path: Path) -> None:
    """Mid-grey, and the black of an empty canvas, which no unit vector is stored as."""
    full = np.iinfo(dtype).max
    stored = np.array([[[0, 0, 0], [full // 2 + 1] * 3, [full, full // 2, full // 2], [0, full // 2, full // 2]]])
    layout.save(tmp_path / "1.png", stored.astype(dtype))
    wanted = [[np.nan] * 3, [np.nan] * 3, [1, 0, 0], [-1, 0, 0]]
    np.testing.assert_allclose(layout.read(tmp_path / "1.png", "normal")[0], wanted, atol=0.01)


def test_equal_maps_are_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No date is written, whenever it is."""
    for name in ("a", "b"):
        monkeypatch.setenv("TZ", {"a": "UTC", "b": "Asia/Tokyo"}[name])
        layout.write(tmp_path / f"{name}.exr", "depth", maps(0)["depth"])
        layout.write(tmp_path / f"{name}.png", "normal", maps(0)["normal"])
    for suffix in (".exr", ".png"):
        first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
        assert first == second and b"2026" not in first


def test_other_programs_read_them(tmp_path: Path) -> None:
    found = maps(3)
    layout.write(tmp_path / "d.png", "depth", found["depth"])
    with Image.open(tmp_path / "d.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.rint(found["depth"] * 1000))
    layout.write(tmp_path / "n.png", "normal", found["normal"], 8)
    with Image.open(tmp_path / "n.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.rint((found["normal"] * 0.5 + 0.5) * 255))
    Image.fromarray((found["albedo"] * 255).astype(np.uint8)).convert("RGBA").save(tmp_path / "opaque.png")
    assert layout.read(tmp_path / "opaque.png", "albedo").shape == (16, 32, 3)
    Image.fromarray((found["roughness"] * 255).astype(np.uint8)).convert("RGB").save(tmp_path / "three.png")
    assert layout.read(tmp_path / "three.png", "roughness").shape == (16, 32)


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_a_picture_that_viewers_turn_is_refused(tmp_path: Path, form: str) -> None:
    """Its maps are not turned, so it would not show what they show."""
    picture, exif = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)), Image.Exif()
    for orientation in (1, 3):
        exif[0x0112] = orientation
        picture.save(tmp_path / f"{orientation}.{form}", exif=exif)
    assert layout.read(tmp_path / f"1.{form}", "rgb").shape == (4, 8, 3)
    with pytest.raises(MapError, match="EXIF orientation 3 turns or mirrors the picture"):
        layout.read(tmp_path / f"3.{form}", "rgb")


def test_stems_kinds_and_captions(tmp_path: Path) -> None:
    for kind, stems in (("rgb", "abc"), ("depth", "bcd")):
        for stem in stems:
            layout.write(layout.place(tmp_path, kind, stem), kind, maps(0)[kind])
    (tmp_path / "rgb" / ".hidden.png").write_bytes(b"")
    (tmp_path / "rgb" / "notes.md").write_text("")
    assert layout.kinds(tmp_path) == ("rgb", "depth")
    assert layout.stems(tmp_path, "rgb", "depth") == ["b", "c"]
    assert layout.stems(tmp_path, "rgb", "semantic") == layout.stems(tmp_path) == []
    layout.write_caption(tmp_path, "b", " a room\n")
    (tmp_path / "c.txt").write_text("a hall", encoding="utf-8")
    assert [layout.caption(tmp_path, stem) for stem in "abc"] == ["", "a room", "a hall"]
    (tmp_path / "c.txt").write_text("a hall", encoding="utf-8-sig")  # as Windows' editors save it
    assert layout.caption(tmp_path, "c") == "a hall"
    (tmp_path / "c.txt").write_text("a hall", encoding="utf-16")
    with pytest.raises(MapError, match=r"c\.txt: expected text in UTF-8"):
        layout.caption(tmp_path, "c")
    with pytest.raises(MapError, match=r"no depth of a; expected \.exr or \.png"):
        layout.find(tmp_path, "depth", "a")


WRONG = [
    ("depth", ".png", np.full((4, 8), 66.0), "depths outside 0.001 to 65.535 m don't fit into a PNG; write .exr"),
    ("depth", ".png", np.full((4, 8), 0.0001), "depths outside"),
    ("depth", ".exr", np.ones((4, 8, 3)), r"expected depth as \[H, W\], got \[4, 8, 3\]"),
    ("albedo", ".png", np.full((4, 8, 3), 1.5), "expected albedo in 0 to 1, got 1.5 to 1.5"),
    ("albedo", ".png", np.full((4, 8, 3), np.nan), "expected albedo in 0 to 1"),
    ("semantic", ".png", np.ones((4, 8, 3)), "expected semantic as uint8, got float64"),
    ("albedo", ".tiff", np.ones((4, 8, 3)), r"albedo is written as \.png"),
]


@pytest.mark.parametrize(("kind", "suffix", "values", "words"), WRONG)
def test_what_can_not_be_written_leaves_nothing(
    kind: str, suffix: str, values: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(MapError, match=words):
        layout.write(tmp_path / f"1{suffix}", kind, values)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "1.exr"
    layout.write(path, "depth", maps(0)["depth"])
    before = path.read_bytes()

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        layout.write(path, "depth", maps(1)["depth"])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_transparent_pixels_and_wrong_channels_are_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 4), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    with pytest.raises(MapError, match="some pixels are transparent"):
        layout.read(tmp_path / "clear.png", "albedo")
    Image.new("L", (8, 4), 9).save(tmp_path / "grey.png")
    with pytest.raises(MapError, match="expected normal in 3 channels, got 1"):
        layout.read(tmp_path / "grey.png", "normal")
    layout.save(tmp_path / "16.png", np.zeros((4, 8, 3), dtype=np.uint16))
    with pytest.raises(MapError, match="expected semantic as uint8, got uint16"):
        layout.read(tmp_path / "16.png", "semantic")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_sizes_of_any_kind(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(0.001, 60, (height, width)).astype(np.float32)
    path = tmp_path_factory.mktemp("sizes") / "1.exr"
    layout.write(path, "depth", values)
    np.testing.assert_array_equal(layout.read(path, "depth"), values)
