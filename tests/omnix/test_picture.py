"""Pictures as files: every kind of pixel is read unchanged, nothing is cropped, and written files can be read back."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import OpenImageIO
import pytest
import torch
from comfyui_omnix.lab.pages import sample
from comfyui_omnix.omnix.pictures import decode, exr, fit, picture
from comfyui_omnix.omnix.runtime import save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from whole import read_picture

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 16, 32


@pytest.fixture
def values() -> Any:
    return np.random.default_rng(0).random((HEIGHT, WIDTH, 4)).astype(np.float32)


def as8(values: Any) -> Any:
    return np.round(values * 255).astype(np.uint8)


def linear(path: Path, values: Any, kind: str) -> Path:
    """Write an EXR file with PyAV alone."""
    codec = av.CodecContext.create("exr", "w")
    codec.height, codec.width = values.shape[:2]
    codec.pix_fmt, codec.time_base = kind, Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(values, format=kind)
    frame.pts = 0
    path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))
    return path


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("L", 1), ("LA", 2)])
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_eight_bits_are_read_exactly(tmp_path: Path, values: Any, mode: str, channels: int, ending: str) -> None:
    if (mode, ending) == ("LA", "tiff"):
        mode, channels = "L", 1
    pixels = as8(values[..., :channels])
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode).save(tmp_path / f"p.{ending}")
    colours, opacity = read_picture(tmp_path / f"p.{ending}")
    expected = pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, -1)
    assert np.array_equal(np.round(colours.numpy() * 255), expected)
    clear = pixels[..., -1] if channels in (2, 4) else np.full((HEIGHT, WIDTH), 255)
    assert np.array_equal(np.round(opacity.numpy() * 255), clear)


def test_a_palette_and_black_and_white_are_read(tmp_path: Path, values: Any) -> None:
    for mode in ("P", "1"):
        image = Image.fromarray(as8(values[..., :3])).convert(mode)
        image.save(tmp_path / "p.png")
        colours, opacity = read_picture(tmp_path / "p.png")
        assert np.array_equal(np.round(colours.numpy() * 255), np.asarray(image.convert("RGB")))
        assert bool((opacity == 1).all())


def test_sixteen_bits_keep_all_of_them(tmp_path: Path, values: Any) -> None:
    grey = np.round(values[..., 0] * 65535).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "p.png")
    colours, _ = read_picture(tmp_path / "p.png")
    assert np.array_equal(np.round(colours.numpy().astype(np.float64) * 65535), np.repeat(grey[..., None], 3, -1))
    (tmp_path / "rgb.png").write_bytes(save.encoded(torch.from_numpy(values[..., :3]), save.PNG16))
    colours, _ = read_picture(tmp_path / "rgb.png")
    assert np.abs(colours.numpy() - values[..., :3]).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("kind", ["gbrpf32le", "grayf32le", "gbrapf32le"])
def test_linear_light_becomes_srgb_and_ends_at_one(tmp_path: Path, values: Any, kind: str) -> None:
    channels = {"gbrpf32le": 3, "grayf32le": 1, "gbrapf32le": 4}[kind]
    light = values[..., :channels] * np.float32(1.5) - np.float32(0.1)
    path = linear(tmp_path / "p.exr", light[..., 0] if channels == 1 else light, kind)
    colours, opacity = read_picture(path)
    cut = np.repeat(light, 3, -1).clip(0, 1) if channels == 1 else light[..., :3].clip(0, 1)
    curve = np.where(cut <= 0.0031308, cut * 12.92, 1.055 * np.maximum(cut, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(colours.numpy() - curve).max() < 1e-5
    assert np.allclose(opacity, light[..., 3].clip(0, 1) if channels == 4 else 1)


def test_no_numbers_are_refused(tmp_path: Path, values: Any) -> None:
    values[3, 4, 1] = np.nan
    path = linear(tmp_path / "p.exr", values[..., :3].copy(), "gbrpf32le")
    with pytest.raises(ValueError, match=r"p\.exr: the file contains NaN or infinite values"):
        picture.load_panorama(path, HEIGHT)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "bmp", "gif", "avif"])
def test_half_a_file_is_refused(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    whole = tmp_path / f"p.{ending}"
    Image.fromarray(noise).save(whole)
    assert read_picture(whole).opacity.shape == (64, 128)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match="the file is damaged or is not a picture"):
        read_picture(whole)


def openexr(path: Path, values: Any, compression: str, tile: int) -> Path:
    """Write an EXR file with OpenEXR's own library."""
    spec = OpenImageIO.ImageSpec(values.shape[1], values.shape[0], values.shape[2], OpenImageIO.HALF)
    spec.attribute("compression", compression)
    spec.tile_width = spec.tile_height = tile
    output = OpenImageIO.ImageOutput.create(str(path))
    assert output.open(str(path), spec) and output.write_image(values) and output.close()
    return path


def is_whole(data: bytes) -> bool:
    return exr.is_whole(io.BytesIO(data))


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("compression", ["none", "rle", "zips", "zip", "piz", "pxr24", "b44", "dwaa", "dwab"])
def test_a_part_of_an_exr_is_refused(tmp_path: Path, compression: str, tile: int) -> None:
    """Wherever it ends: PyAV alone takes most of these for a whole."""
    noise = np.random.default_rng(1).random((64, 128, 3)).astype(np.float32)
    whole = openexr(tmp_path / "p.exr", noise, compression, tile)
    assert read_picture(whole).opacity.shape == (64, 128)
    data = whole.read_bytes()
    assert is_whole(data)
    assert not any(is_whole(data[:size]) for size in [*range(8, len(data), 101), len(data) - 1])
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"p\.exr: the file is damaged or is not a picture"):
        read_picture(whole)


BLOCKS = 4  # of 16 rows each, in 64 rows compressed by zip


def test_an_exr_of_several_parts_and_one_never_finished(tmp_path: Path) -> None:
    specs = [OpenImageIO.ImageSpec(128, 64, 3, OpenImageIO.HALF) for _ in range(2)]
    for number, spec in enumerate(specs):
        spec.attribute("oiio:subimagename", f"part {number}")
    output = OpenImageIO.ImageOutput.create("p.exr")
    path = str(tmp_path / "p.exr")
    noise = np.random.default_rng(1).random((64, 128, 3)).astype(np.float32)
    assert output.open(path, specs) and output.write_image(noise)
    assert output.open(path, specs[1], "AppendSubimage") and output.write_image(noise) and output.close()
    data = (tmp_path / "p.exr").read_bytes()
    assert is_whole(data) and not is_whole(data[:-1]) and not is_whole(data[: len(data) // 2])
    single = openexr(tmp_path / "q.exr", noise, "zip", 0).read_bytes()
    first = next(at for at in range(len(single) - 8) if struct.unpack_from("<Q", single, at)[0] == at + 8 * BLOCKS)
    assert not is_whole(single[:first] + bytes(8) + single[first + 8 :]), "a program that stopped left an offset 0"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 20, bytes(1000)])
def test_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.png: the file is damaged or is not a picture"):
        read_picture(tmp_path / "p.png")


@given(st.integers(16, 9000), st.integers(8, 9000))
def test_the_height_is_the_nearest_that_works(height: int, most: int) -> None:
    got = picture.working_height(height, most)
    wanted = max(16, min(height, most))
    assert got % 8 == 0 and 2 * got % 16 == 0
    assert abs(got - wanted) <= 4


@pytest.mark.parametrize(("height", "width"), [(480, 640), (500, 1003), (720, 1280), (1000, 500), (8, 16)])
def test_what_is_no_panorama_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=rf"a\.png: expected a panorama.*{width}x{height}; choose"):
        fit.check_picture("a.png", height, width)


@pytest.mark.parametrize(("height", "width"), [(250, 500), (500, 1000), (500, 1001), (499, 1000), (2688, 5376)])
def test_rounding_is_allowed(height: int, width: int) -> None:
    fit.check_picture("a.png", height, width)


def resized(values: torch.Tensor, height: int) -> torch.Tensor:
    """Bring a whole panorama [250, 500, C] to another height, as a file of it."""
    source = decode.Source(250, 500, values.shape[-1], lambda first, end: values[first:end])
    return picture.reduced(source, fit.Place(0, 0, 250, 500, 500), height)


def test_resizing_keeps_the_whole_and_sees_across_the_seam() -> None:
    rng = np.random.default_rng(2)
    values = torch.from_numpy(rng.random((250, 500, 3)).astype(np.float32))
    small = resized(values, 248)
    assert small.shape == (248, 496, 3)
    assert torch.equal(resized(values, 250), values)
    turned = resized(values.roll(250, dims=1), 248)
    assert torch.allclose(turned, small.roll(248, dims=1), atol=1e-5)
    ramp = torch.linspace(0, 1, 500)[None, :, None].expand(250, 500, 1)
    assert torch.allclose(resized(ramp, 120)[:, 10:-10, 0], torch.linspace(0, 1, 240)[10:-10], atol=3e-3)


def test_what_is_saved_is_read_back_and_says_what_it_is() -> None:
    image = torch.from_numpy(np.random.default_rng(3).random((16, 32, 3)).astype(np.float32))
    png = save.with_texts(save.encoded(image, save.PNG8), {"prompt": "{}", save.XMP: save.gpano(32, 16)})
    with Image.open(io.BytesIO(png)) as opened:
        assert np.array_equal(np.asarray(opened), np.rint(image.numpy() * 255))
        assert opened.info["prompt"] == "{}"
        root = ElementTree.fromstring(opened.info[save.XMP].encode())
    facts = next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")).attrib
    name = "{http://ns.google.com/photos/1.0/panorama/}"
    assert facts[f"{name}ProjectionType"] == "equirectangular"
    assert (facts[f"{name}FullPanoWidthPixels"], facts[f"{name}CroppedAreaImageHeightPixels"]) == ("32", "16")


def test_equal_channels_are_saved_as_one(tmp_path: Path) -> None:
    grey = torch.rand(16, 32, 1, generator=torch.Generator().manual_seed(0)).expand(16, 32, 3) * 1.5 - 0.2
    with Image.open(io.BytesIO(save.encoded(grey, save.PNG16))) as opened:
        assert opened.mode == "I;16"
        assert np.array_equal(np.asarray(opened), np.rint(grey[..., 0].clamp(0, 1).numpy() * 65535))
    (tmp_path / "p.exr").write_bytes(save.encoded(grey, save.EXR))
    with av.open(str(tmp_path / "p.exr")) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "grayf32le"
    assert np.array_equal(frame.to_ndarray(), grey[..., 0].numpy())
    with Image.open(io.BytesIO(save.encoded(grey, save.PNG8))) as opened:
        assert opened.mode == "RGB"


def test_the_sample_is_what_the_command_renders(tmp_path: Path) -> None:
    """Pixels, not bytes: another zlib packs otherwise."""
    sample.write(tmp_path)
    shipped = ROOT / "sample"
    assert sorted(path.name for path in shipped.glob("*.png")) == sorted(path.name for path in tmp_path.glob("*.png"))
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as made, Image.open(shipped / path.name) as kept:
            assert kept.size == (1024, 512)
            one, two = (np.asarray(image, dtype=float) for image in (made, kept))
            assert np.abs(one - two).mean() < (50 if kept.mode == "I;16" else 1)
