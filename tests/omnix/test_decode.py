"""Headers and pixels of picture files: no picture is decoded only to be refused; colours, turns and kinds are right."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO
import pytest
import torch
from comfyui_omnix.omnix.pictures import decode, exr, header, picture
from comfyui_omnix.omnix.runtime import save
from PIL import Image, ImageCms, ImageFile, ImageOps
from whole import read_picture

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 32, 64


@pytest.fixture
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def shown(path: Path) -> Any:
    return np.round(read_picture(path).colours.numpy() * 255)


def png_bomb(path: Path, height: int, width: int) -> Path:
    """Write a PNG of a few kilobytes that is all black."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


PROGRAM = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import warnings; warnings.simplefilter("error")
from pathlib import Path
from omnix.pictures import picture
from omnix.pictures.header import read_header
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {what}
except ValueError as error:
    print(error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown(what: str, path: Path) -> tuple[float, str]:
    """Return by how many MB the peak memory of a process grows while it does something, and its complaint."""
    program = PROGRAM.format(what=what)
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024, done.stderr


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = png_bomb(tmp_path / "bomb.png", 3000, 6000)
    big = bomb.read_bytes().replace(struct.pack(">II", 6000, 3000), struct.pack(">II", 60000, 30000), 1)
    crc = zlib.crc32(big[12:29])
    (tmp_path / "bomb.png").write_bytes(big[:29] + struct.pack(">I", crc) + big[33:])
    megabytes, caught = grown("read_header(Path(sys.argv[2]))", tmp_path / "bomb.png")
    assert "bomb.png: expected at most 16384x8192 pixels, got 60000x30000; make" in caught
    assert megabytes < 30, "60000x30000 pixels are 5400 MB"


def test_a_bomb_that_pillow_knows_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "p.webp", lossless=True)
    data = bytearray((tmp_path / "p.webp").read_bytes())
    at = data.index(b"VP8L") + 9  # width and height, less 1, in 14 bits each
    (facts,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, facts & ~(2**28 - 1) | 16383 | 16383 << 14)
    (tmp_path / "p.webp").write_bytes(data)
    megabytes, caught = grown("read_header(Path(sys.argv[2]))", tmp_path / "p.webp")
    assert "p.webp: the picture is too large to open as WEBP; make it smaller" in caught
    assert megabytes < 30


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "bmp", "gif", "avif"])
def test_a_header_decodes_nothing(tmp_path: Path, pixels: Any, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels).save(tmp_path / f"p.{ending}")
    loads: list[str] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loads.append(ending) or load(image))
    monkeypatch.setattr(decode.av, "open", lambda *_: pytest.fail("PyAV decodes"))
    assert header.read_header(tmp_path / f"p.{ending}")[1:3] == (HEIGHT, WIDTH)
    assert not loads
    decode.decoded(tmp_path / f"p.{ending}", header.read_header(tmp_path / f"p.{ending}"))
    assert loads, "or this counts nothing"


SMALLER = "picture.load_panorama(Path(sys.argv[2]), 720)"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The megabytes that libraries need for themselves, which a small picture shows."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    Image.new("RGB", (64, 32)).save(path)
    return grown(SMALLER, path)[0]


@pytest.mark.parametrize(
    ("ending", "own"), [("png", 3), ("jpg", 3), ("webp", 3), ("tiff", 3), ("exr", 6), ("16.png", 6)]
)
def test_a_large_picture_takes_three_times_its_own_memory(
    tmp_path: Path, libraries: float, ending: str, own: int
) -> None:
    height, width = 2400, 4800
    path = tmp_path / f"p.{ending}"
    rows = (np.arange(height)[:, None, None] * 7 + np.arange(width)[None, :, None] * 3 + np.arange(3) * 90) % 256
    if ending == "exr":
        spec = OpenImageIO.ImageSpec(width, height, 3, OpenImageIO.HALF)
        output = OpenImageIO.ImageOutput.create(str(path))
        assert output.open(str(path), spec) and output.write_image((rows / 255).astype(np.float32)) and output.close()
    elif ending == "16.png":
        assert OpenImageIO.ImageBuf((rows * 257).astype(np.uint16)).write(str(path))
    else:
        Image.fromarray(rows.astype(np.uint8)).save(path)
    megabytes, caught = grown(SMALLER, path)
    assert not caught
    assert megabytes - libraries < 3 * height * width * own / 2**20


def test_the_largest_picture_can_be_set(tmp_path: Path, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    monkeypatch.setenv(header.MOST, "32x32")
    with pytest.raises(ValueError, match="expected at most 32x32 pixels, got 64x32; make the picture smaller, or set"):
        header.read_header(tmp_path / "p.png")
    monkeypatch.setenv(header.MOST, "huge")
    with pytest.raises(ValueError, match="OMNIX_LARGEST_PICTURE is 'huge', expected a size such as 16384x8192"):
        header.read_header(tmp_path / "p.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp", "16.png", "16.tiff"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_applied(tmp_path: Path, pixels: Any, turn: int, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(pixels)
    image.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    if ending.startswith("16"):
        if ending == "16.png":
            path.write_bytes(save.encoded(torch.from_numpy(pixels / 255), save.PNG16))
            with_exif(path, exif.tobytes())
        else:
            spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, 3, OpenImageIO.UINT16)
            spec.attribute("Orientation", turn)
            output = OpenImageIO.ImageOutput.create(str(path))
            assert output.open(str(path), spec)
            assert output.write_image(pixels.astype(np.uint16) * 257) and output.close()
    assert np.array_equal(shown(path), expected)
    assert header.read_header(path)[1:3] == expected.shape[:2]


def with_exif(path: Path, exif: bytes) -> None:
    data, body = path.read_bytes(), exif.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def profile(gamma: float = 563 / 256, primaries: Any = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))) -> bytes:
    """Return an ICC profile of one gamma and primaries [x, y], white D65 adapted to D50; usually Adobe RGB's."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65, d50 = np.array([0.95047, 1, 1.08883]), np.array([0.96422, 1, 0.82521])
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    columns = columns * np.linalg.solve(columns, d65)
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ d65)) @ bradford @ columns
    xyz = [b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(v * 65536).astype(int)) for v in (*adapted.T, d50)]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78 + 1)
    text += bytes(-len(text) % 4)
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), xyz)) | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags |= {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table, body = table + struct.pack(">4sII", name, at + len(body), len(data)), body + data
    size = at + len(body)
    start = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    start += bytes(28) + struct.pack(">3i", *np.round(d50 * 65536).astype(int)) + bytes(48)
    return start[:128] + struct.pack(">I", len(tags)) + table + body


P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("icc", [profile(), profile(2.4, P3)], ids=["Adobe RGB", "P3"])
def test_a_profile_is_applied(tmp_path: Path, pixels: Any, ending: str, icc: bytes) -> None:
    path = tmp_path / f"p.{ending}"
    Image.fromarray(pixels).save(path, icc_profile=icc, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as image:
        own = np.asarray(image.convert("RGB")).astype(float)
        done = ImageCms.profileToProfile(image.convert("RGB"), io.BytesIO(icc), ImageCms.createProfile("sRGB"))
    assert done is not None
    assert np.abs(shown(path) - np.asarray(done)).max() <= 1
    assert np.abs(shown(path) - own).mean() > 2, "or the profile changes nothing"


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_profile_is_applied_to_16_bits(tmp_path: Path, pixels: Any, kind: str) -> None:
    """As Pillow applies it to 8 bits, but with the steps between."""
    icc, path = profile(), tmp_path / f"p.{kind}"
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, 3, OpenImageIO.UINT16)
    spec.attribute("ICCProfile", OpenImageIO.TypeDesc(f"uint8[{len(icc)}]"), np.frombuffer(icc, np.uint8))
    output = OpenImageIO.ImageOutput.create(str(path))
    assert output.open(str(path), spec) and output.write_image(pixels.astype(np.uint16) * 257) and output.close()
    done = ImageCms.profileToProfile(Image.fromarray(pixels), io.BytesIO(icc), ImageCms.createProfile("sRGB"))
    assert done is not None
    assert np.abs(read_picture(path).colours.numpy() * 255 - np.asarray(done)).max() < 1.01


def test_grey_and_cmyk_profiles_and_one_that_is_none(tmp_path: Path, pixels: Any) -> None:
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png", icc_profile=profile())
    done = ImageCms.profileToProfile(
        Image.fromarray(pixels[..., 0]).convert("RGB"), io.BytesIO(profile()), ImageCms.createProfile("sRGB")
    )
    assert done is not None and np.abs(shown(tmp_path / "grey.png") - np.asarray(done)).max() <= 1
    Image.fromarray(pixels).save(tmp_path / "none.png", icc_profile=b"no profile" * 20)
    assert np.array_equal(shown(tmp_path / "none.png"), pixels)
    assert decode.NO_PROFILE in picture.load_panorama(tmp_path / "none.png", 720).words


def exr_file(path: Path, channels: list[str], kind: Any = OpenImageIO.FLOAT) -> Any:
    values = np.random.default_rng(1).random((HEIGHT, WIDTH, len(channels))).astype(np.float32)
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, len(channels), kind)
    spec.channelnames = tuple(channels)
    output = OpenImageIO.ImageOutput.create(str(path))
    assert output.open(str(path), spec) and output.write_image(values) and output.close()
    kept = values.astype(np.float16).astype(np.float32) if kind == OpenImageIO.HALF else values
    return {name: kept[..., number] for number, name in enumerate(channels)}


@pytest.mark.parametrize(
    ("channels", "chosen"),
    [
        (["R", "G", "B", "A", "Z"], "RGBA"),
        (["Combined.R", "Combined.G", "Combined.B", "Depth.Z"], ["Combined.R", "Combined.G", "Combined.B"]),
        (["View.Combined.R", "View.Combined.G", "View.Combined.B", "View.Combined.A", "View.Depth.Z", "View.AO.R",
          "View.AO.G", "View.AO.B"], [f"View.Combined.{name}" for name in "RGBA"]),
        (["beauty.b", "beauty.g", "beauty.r", "N.X", "N.Y", "N.Z"], ["beauty.r", "beauty.g", "beauty.b"]),
        (["Y", "A"], "YYYA"),
        (["only.R", "only.G", "only.B", "depth.V"], ["only.R", "only.G", "only.B"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [OpenImageIO.FLOAT, OpenImageIO.HALF])
def test_the_channels_of_an_exr_are_chosen_by_name(tmp_path: Path, channels: list[str], chosen: Any, kind: Any) -> None:
    values = exr_file(tmp_path / "p.exr", channels, kind)
    colours, opacity = read_picture(tmp_path / "p.exr")
    expected = torch.from_numpy(np.stack([values[name] for name in chosen[:3]], axis=-1))
    assert torch.allclose(colours, decode.encode_srgb(expected), atol=1e-6)
    clear = torch.from_numpy(values[chosen[3]]) if len(chosen) == 4 else torch.ones(HEIGHT, WIDTH)
    assert torch.allclose(opacity, clear, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        (["Depth.Z"], "no channels R, G and B, or Y; its channels are Depth.Z"),
        (["X", "Y", "Z"], "no channels R, G and B, or Y; its channels are X, Y, Z"),
        (["Y", "RY", "BY"], "its channels are BY, RY, Y"),
        (["Y", "Z"], "no channels R, G and B, or Y; its channels are"),
        (["R", "G"], "its channels are"),
        (["a.R", "a.G", "a.B", "b.R", "b.G", "b.B"], "several layers with R, G and B; its channels are a.R"),
    ],
)
def test_an_exr_without_a_picture_says_what_it_has(tmp_path: Path, channels: list[str], says: str) -> None:
    exr_file(tmp_path / "p.exr", channels)
    with pytest.raises(ValueError, match=r"p\.exr: it has") as caught:
        header.read_header(tmp_path / "p.exr")
    listed = {part.strip() for part in str(caught.value).split("channels are")[1].split(". Save")[0].split(",")}
    assert listed == {*channels} and says.split(" channels are")[0] in str(caught.value)


def test_integers_and_other_parts_of_an_exr(tmp_path: Path) -> None:
    exr_file(tmp_path / "ids.exr", ["R", "G", "B"], OpenImageIO.UINT)
    with pytest.raises(ValueError, match="no channels R, G and B, or Y"):
        header.read_header(tmp_path / "ids.exr")
    specs = [OpenImageIO.ImageSpec(WIDTH, HEIGHT, 3, OpenImageIO.FLOAT) for _ in range(2)]
    for spec, name in zip(specs, ("albedo", "beauty")):
        spec.attribute("oiio:subimagename", name)
    output, path = OpenImageIO.ImageOutput.create("p.exr"), str(tmp_path / "p.exr")
    noise = np.random.default_rng(1).random((2, HEIGHT, WIDTH, 3)).astype(np.float32)
    assert output.open(path, specs) and output.write_image(noise[0])
    assert output.open(path, specs[1], "AppendSubimage") and output.write_image(noise[1]) and output.close()
    with (tmp_path / "p.exr").open("rb") as file:
        assert exr.picture_layer(file).part == 1
    got = read_picture(tmp_path / "p.exr").colours
    assert torch.allclose(got, decode.encode_srgb(torch.from_numpy(noise[1])), atol=1e-6)


def test_the_primaries_of_an_exr_are_those_of_srgb_in_the_end(tmp_path: Path) -> None:
    """ACEScg, with the matrix that is published for it (Bradford, D60 to D65)."""
    values = np.random.default_rng(1).random((HEIGHT, WIDTH, 3)).astype(np.float32) * 0.3 + 0.2
    values[0, 0] = np.inf  # the sun
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, 3, OpenImageIO.FLOAT)
    acescg = (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767)
    spec.attribute("chromaticities", OpenImageIO.TypeDesc("float[8]"), acescg)
    output, path = OpenImageIO.ImageOutput.create("p.exr"), str(tmp_path / "p.exr")
    assert output.open(path, spec) and output.write_image(values) and output.close()
    published = np.array([[1.70505, -0.62179, -0.08326], [-0.13026, 1.14080, -0.01055], [-0.02400, -0.12897, 1.15297]])
    expected = decode.encode_srgb(torch.from_numpy(values @ published.T))
    got = read_picture(tmp_path / "p.exr").colours.double()
    assert (got[0, 0] > 0.9999).all()
    assert torch.allclose(got[1:], expected[1:], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("packing", ["none", "zip", "lzw"])
def test_a_tiff_of_floats_is_linear_light(tmp_path: Path, channels: int, packing: str) -> None:
    values = np.random.default_rng(1).random((HEIGHT, WIDTH, channels)).astype(np.float32)
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, channels, OpenImageIO.FLOAT)
    spec.attribute("compression", packing)
    if channels == 4:
        spec.attribute("oiio:UnassociatedAlpha", 1)
    path = str(tmp_path / "p.tif")
    output = OpenImageIO.ImageOutput.create(path)
    assert output.open(path, spec) and output.write_image(values) and output.close()
    colours, opacity = read_picture(tmp_path / "p.tif")
    light = torch.from_numpy(np.repeat(values, 3, -1) if channels == 1 else values[..., :3])
    assert torch.allclose(colours, decode.encode_srgb(light), atol=1e-6)
    assert torch.allclose(opacity, torch.from_numpy(values[..., 3]) if channels == 4 else torch.ones(HEIGHT, WIDTH))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "named"), [("uint", "32-bit integers"), ("double", "64-bit floats")])
def test_other_tiffs_are_named(tmp_path: Path, channels: int, kind: str, named: str) -> None:
    path = str(tmp_path / "p.tif")
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, channels, kind)
    output = OpenImageIO.ImageOutput.create(path)
    assert output.open(path, spec) and output.write_image(np.ones((HEIGHT, WIDTH, channels))) and output.close()
    with pytest.raises(ValueError, match=f"p.tif: expected 8 or 16 bits or 32-bit floats, got a TIFF of {named}"):
        header.read_header(tmp_path / "p.tif")


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\xff\x0a" + bytes(60), "a JPEG XL picture"),
        (b"\0\0\0\x20ftypisom" + bytes(60), "a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG picture"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, start: bytes, named: str) -> None:
    (tmp_path / "p.jpg").write_bytes(start)
    with pytest.raises(ValueError, match=f"p.jpg: expected a picture, got {named}"):
        header.read_header(tmp_path / "p.jpg")


@pytest.mark.parametrize("ending", ["png", "webp", "tiff", "exr", "hdr"])
def test_a_cut_file_is_known_by_its_header(tmp_path: Path, pixels: Any, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    if ending in ("exr", "hdr"):
        assert OpenImageIO.ImageBuf(pixels.astype(np.float32) / 255).write(str(path))
    else:
        Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    assert header.read_header(path)[1:3] == (HEIGHT, WIDTH)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="the file is damaged or is not a picture"):
        (read_picture if ending == "hdr" else header.read_header)(path)
    assert os.path.getsize(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "gif", "avif", "exr", "hdr", "16.tif"])
def test_whatever_is_damaged_gets_a_sentence(tmp_path: Path, pixels: Any, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    if ending in ("exr", "hdr", "16.tif"):
        assert OpenImageIO.ImageBuf(pixels.astype(np.float32) / 255).write(
            str(path), "uint16" if "tif" in ending else ""
        )
    else:
        Image.fromarray(pixels).save(path)
    whole, chance = path.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 5, 20))):
            data[chance.integers(min(len(data), chance.choice((64, 400, 10**9))))] = chance.integers(256)
        path.write_bytes(data[: chance.integers(1, len(data))] if number % 3 == 0 else data)
        try:
            picture.load_panorama(path, 32)
        except ValueError as error:
            assert str(error).startswith(path.name)
