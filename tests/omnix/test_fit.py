"""Pictures of any shape on the sphere: GPano data of cameras, padding and cropping, and advice for each layout."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix.omnix.pictures import fit, gpano, header, layouts, picture
from PIL import Image
from whole import read_picture

GREY = 127.5 / 255
XMP = b"http://ns.adobe.com/xap/1.0/\0"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"


def attributes(facts: dict[str, Any], prefix: str = "GPano") -> str:
    """As Google's camera and Samsung's write it."""
    text = "".join(f'\n   {prefix}:{name}="{value}"' for name, value in facts.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 5.1.0-jc003"><rdf:RDF xmlns:rdf="{RDF}">\n'
        f' <rdf:Description rdf:about="" xmlns:{prefix}="{NAMESPACE}"{text}/>\n</rdf:RDF></x:xmpmeta>'
    )


def elements(facts: dict[str, Any]) -> str:
    """As Ricoh's and Insta360's cameras write it, with a packet around it."""
    text = "".join(f"<GPano:{name}>{value}</GPano:{name}>\n" for name, value in facts.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" xmlns:GPano="{NAMESPACE}">\n{text}'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def facts(full: tuple[int, int], size: tuple[int, int], at: tuple[int, int] = (0, 0), **more: Any) -> dict[str, Any]:
    """Full, size and place are (width, height) and (left, top)."""
    return {
        "ProjectionType": "equirectangular",
        "FullPanoWidthPixels": full[0],
        "FullPanoHeightPixels": full[1],
        "CroppedAreaImageWidthPixels": size[0],
        "CroppedAreaImageHeightPixels": size[1],
        "CroppedAreaLeftPixels": at[0],
        "CroppedAreaTopPixels": at[1],
        **more,
    }


def put(path: Path, pixels: Any, xmp: str = "") -> Path:
    """Write a picture [H, W, 3] with XMP: JPEG's APP1, PNG's iTXt."""
    Image.fromarray(pixels).save(path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    data = path.read_bytes()
    if xmp and path.suffix == ".jpg":
        segment = XMP + xmp.encode()
        path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    elif xmp:
        body = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        path.write_bytes(data[:33] + chunk + data[33:])
    return path


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def loaded(path: Path, most: int = 8192, how: str = "by GPano", field: float = 0.0) -> tuple[Any, Any, str]:
    """Return colours, the mask as the node gives it (1 = unseen), and the words."""
    shown, words = picture.load_panorama(path, most, how, field)
    return shown.colours.numpy(), 1 - shown.opacity.numpy(), words


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("form", [attributes, elements, lambda given: attributes(given, "p")])
def test_a_crop_lies_where_gpano_says(tmp_path: Path, form: Any, ending: str) -> None:
    pixels = noise(32, 64)  # of the shape of a whole panorama
    given = facts((256, 128), (64, 32), (40, 24), CaptureSoftware="made up", UsePanoramaViewer="True")
    path = put(tmp_path / f"p.{ending}", pixels, form(given))
    colours, unseen, words = loaded(path)
    with Image.open(path) as image:
        own = np.asarray(image).astype(np.float32) / 255
    assert colours.shape == (128, 256, 3) and words.startswith("64x32 in the file, GPano: 90 x 45 degrees of 360 x 180")
    assert np.abs(colours[24:56, 40:104] - own).max() < 1e-6
    outside = np.ones((128, 256), dtype=bool)
    outside[24:56, 40:104] = False
    assert np.array_equal(unseen, outside) and (colours[outside] == np.float32(GREY)).all()


def test_a_crop_is_resized_to_its_place(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], 128, 0).repeat(3, -1)
    path = put(tmp_path / "p.png", ramp, attributes(facts((1024, 512), (512, 128), (256, 192))))
    colours, unseen, _ = loaded(path, 128)
    assert colours.shape == (128, 256, 3)
    assert np.array_equal(unseen[64] == 0, (np.arange(256) >= 64) & (np.arange(256) < 192))
    assert np.array_equal(unseen[:, 128] == 0, (np.arange(128) >= 48) & (np.arange(128) < 80))
    assert np.abs(colours[50:78, 70:186, 0] - (np.arange(70, 186) - 63.5) / 128).max() < 0.01


def test_a_file_that_was_resized_since_and_one_around_the_seam(tmp_path: Path) -> None:
    path = put(tmp_path / "half.png", noise(32, 64), attributes(facts((512, 256), (128, 64), (80, 48))))
    colours, unseen, _ = loaded(path)
    assert colours.shape == (128, 256, 3) and unseen[24:56, 40:104].max() == 0 and unseen.sum() == 128 * 256 - 32 * 64
    pixels = noise(64, 96)
    path = put(tmp_path / "seam.png", pixels, elements(facts((128, 64), (96, 64), (80, 0))))
    colours, unseen, _ = loaded(path)
    assert np.abs(np.roll(colours, -80, axis=1)[:, :96] - pixels / np.float32(255)).max() < 1e-6
    assert np.array_equal(np.roll(unseen, -80, axis=1)[0], np.arange(128) >= 96)


@pytest.mark.parametrize(
    "given",
    [
        facts((128, 64), (128, 64)),
        {"ProjectionType": "equirectangular", "UsePanoramaViewer": "True"},
        {"FullPanoWidthPixels": 4096, "FullPanoHeightPixels": 2048, "CroppedAreaImageWidthPixels": 4096},
        {"FullPanoWidthPixels": 4096, "FullPanoHeightPixels": 2048},
        facts((0, 0), (0, 0)),
        {"StitchingSoftware": "made up"},
    ],
)
def test_a_whole_panorama_stays_as_it_is(tmp_path: Path, given: dict[str, Any]) -> None:
    pixels = noise(64, 128)
    colours, unseen, _ = loaded(put(tmp_path / "p.png", pixels, attributes(given)))
    assert np.abs(colours - pixels / np.float32(255)).max() < 1e-6 and not unseen.any()


def test_the_strip_of_a_phone_lies_on_the_horizon(tmp_path: Path) -> None:
    """Samsung's panoramas give the strip itself as the sphere; others leave the top out."""
    strip = noise(32, 128)
    known = facts((128, 32), (128, 32))
    for given in (known, {k: v for k, v in facts((128, 64), (128, 32)).items() if "Cropped" not in k}):
        colours, unseen, _ = loaded(put(tmp_path / "p.png", strip, attributes(given)))
        assert colours.shape == (64, 128, 3) and np.abs(colours[16:48] - strip / np.float32(255)).max() < 1e-6
        assert np.array_equal(unseen[:, 0] == 0, (np.arange(64) >= 16) & (np.arange(64) < 48))


def direction(row: float, column: float, height: int) -> Any:
    """Return front, right, up of a pixel of a panorama."""
    lon, lat = ((column + 0.5) / (2 * height) - 0.5) * 2 * math.pi, (0.5 - (row + 0.5) / height) * math.pi
    return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])


@pytest.mark.parametrize(
    ("pose", "from_", "to"),
    [
        # Where a thing of the picture is seen (front, right, up), and where it is: front is north, right is east.
        ((90, 0, 0), (1, 0, 0), (0, 1, 0)),  # the centre looks to the east
        ((0, 30, 0), (1, 0, 0), (math.cos(math.pi / 6), 0, 0.5)),  # the centre is above the horizon
        ((0, 0, 90), (0, 1, 0), (0, 0, -1)),  # the camera rolled clockwise: its right hand points down
        ((90, 30, 0), (1, 0, 0), (0, math.cos(math.pi / 6), 0.5)),
        ((0, 90, 90), (0, 1, 0), (1, 0, 0)),  # roll, then pitch: right, down, front
    ],
)
def test_the_pose_turns_the_sphere(tmp_path: Path, pose: Any, from_: Any, to: Any) -> None:
    rows, columns = np.mgrid[:128, :256]
    rays = np.stack([direction(r, c, 128) for r, c in zip(rows.ravel(), columns.ravel())]).reshape(128, 256, 3)
    spot = np.exp(-((rays - np.array(from_)) ** 2).sum(-1) / 0.02)
    pixels = np.repeat((spot * 255).astype(np.uint8)[..., None], 3, -1)
    names = ("PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees")
    given = facts((256, 128), (256, 128), **dict(zip(names, pose)))
    colours, unseen, words = loaded(put(tmp_path / "p.png", pixels, attributes(given)))
    brightest = rays[np.unravel_index(colours[..., 0].argmax(), (128, 256))]
    assert brightest @ np.array(to) > math.cos(math.radians(3)) and not unseen.any()
    assert f"heading {pose[0]:g}, pitch {pose[1]:g}, roll {pose[2]:g}" in words


def test_a_crop_is_turned_with_its_pose(tmp_path: Path) -> None:
    """A heading of an eighth of the circle moves whole columns."""
    pixels = noise(32, 64)
    level = loaded(put(tmp_path / "l.png", pixels, attributes(facts((256, 128), (64, 32), (40, 24)))))
    given = facts((256, 128), (64, 32), (40, 24), PoseHeadingDegrees="45.0")
    turned = loaded(put(tmp_path / "t.png", pixels, attributes(given)))
    assert np.abs(np.roll(level[0], 32, axis=1) - turned[0]).max() < 1e-4
    assert np.array_equal(np.roll(level[1], 32, axis=1), turned[1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (facts((256, 128), (64, 32)) | {"ProjectionType": "cylindrical"}, "the projection cylindrical, expected"),
        ({"ProjectionType": "fisheye"}, "the projection fisheye, expected equirectangular"),
        (facts((256, 128), (64, 48)), "describes a picture of 64x48, but this one is 64x32, so it was cropped"),
        (facts((48, 24), (64, 32)), "contradicts itself: 64x32 at 0, 0 does not fit into 48x24"),
        (facts((256, 128), (64, 32), (0, 110)), "contradicts itself"),
        (facts((256, 128), (64, 32), (0, -40)), "contradicts itself"),
        (facts((256, 256), (64, 32)), "contradicts itself"),
        (facts((256, 128), (64, 32)) | {"FullPanoWidthPixels": "wide"}, "FullPanoWidthPixels is 'wide', expected a"),
        (facts((256, 128), (64, 32)) | {"PoseRollDegrees": "nan"}, "PoseRollDegrees is 'nan', expected a number"),
    ],
)
def test_what_gpano_can_not_mean_is_refused(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    path = put(tmp_path / "p.jpg", noise(32, 64), attributes(given))
    with pytest.raises(ValueError, match=r"^p\.jpg: (the GPano data|GPano:)") as caught:
        loaded(path)
    assert says in str(caught.value) and "choose another fit than by GPano" in str(caught.value)
    if "ProjectionType" in given and "expected a number" not in str(caught.value):
        assert loaded(path, how="as it is")[0].shape == (32, 64, 3), "the advice works"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x xmlns:GPano="n" GPano:y="&b;"/>'


def test_xmp_that_can_not_be_read() -> None:
    for packet in (BOMB.encode(), BOMB.encode("utf-16"), b"<x GPano:FullPanoWidthPixels"):
        with pytest.raises(ValueError, match="the GPano data can't be read"):
            gpano.read_gpano([packet])
    assert gpano.read_gpano([b"<broken", b"<x/>"]) is None, "nobody's panorama"
    text = attributes(facts((256, 128), (64, 32)))
    for packet in (text.encode("utf-16"), text.encode() + b"\0", b"\r\n" + text.encode()):
        found = gpano.read_gpano([packet])
        assert found is not None and found.full_width == 256


def test_pad_lays_a_strip_on_grey(tmp_path: Path) -> None:
    strip = noise(32, 128)
    colours, unseen, words = loaded(put(tmp_path / "p.png", strip), how="pad")
    assert words == "128x32 in the file, padded: 360 x 90 degrees of 360 x 180, 128x64 here"
    assert np.abs(colours[16:48] - strip / np.float32(255)).max() < 1e-6 and (colours[:16] == np.float32(GREY)).all()
    assert np.array_equal(unseen[:, 5] == 0, (np.arange(64) >= 16) & (np.arange(64) < 48))
    colours, unseen, words = loaded(tmp_path / "p.png", how="pad", field=45)
    assert words == "128x32 in the file, padded: 180 x 45 degrees of 360 x 180, 256x128 here"
    assert np.array_equal(unseen[64] == 0, (np.arange(256) >= 64) & (np.arange(256) < 192))
    with pytest.raises(
        ValueError,
        match="are 120 degrees high, they are 480 degrees wide, more than 360; set vertical_fov to 90 or less",
    ):
        loaded(tmp_path / "p.png", how="pad", field=120)
    assert loaded(put(tmp_path / "holiday.png", noise(95, 200)), how="pad")[0].shape == (96, 192, 3)
    assert loaded(put(tmp_path / "whole.png", noise(64, 128)), how="pad")[1].max() == 0
    assert loaded(put(tmp_path / "high.png", noise(96, 128)), how="pad")[0].shape == (96, 192, 3)


def test_crop_takes_the_middle(tmp_path: Path) -> None:
    wide, high = noise(32, 100), noise(100, 64)
    colours, unseen, words = loaded(put(tmp_path / "wide.png", wide), how="crop")
    assert np.abs(colours - wide[:, 18:82] / np.float32(255)).max() < 1e-6 and not unseen.any()
    assert words == "100x32 in the file, cropped to 64x32, 64x32 here"
    assert np.abs(loaded(put(tmp_path / "high.png", high), how="crop")[0] - high[34:66] / np.float32(255)).max() < 1e-6


def test_transparent_pixels_are_unseen_in_a_crop(tmp_path: Path) -> None:
    pixels = np.concatenate([noise(32, 128), np.full((32, 128, 1), 255, np.uint8)], axis=-1)
    pixels[4:8, 3:9, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "p.png")
    _, unseen, _ = loaded(tmp_path / "p.png", how="pad")
    assert unseen[20:24, 3:9].min() == 1 and unseen[16:48].sum() == 24


@pytest.mark.parametrize(
    ("height", "width", "says"),
    [
        (1024, 6144, "cube map strip: convert it"),
        (6144, 1024, "cube map strip: convert it"),
        (3000, 4000, "if it is a cube map cross, convert it"),
        (4000, 3000, "if it is a cube map cross, convert it"),
        (2000, 3000, "if it is a cube map of 3x2 faces"),
        (4096, 4096, "choose one half if it is a top-bottom stereo panorama"),
        (2000, 8000, "choose one half if it is a side-by-side stereo panorama"),
        (2990, 6000, "resize the picture to 6000x3000"),
        (1900, 4000, "choose fit pad (grey at the poles) or crop, or resize the picture to 4000x2000"),
        (1500, 6000 - 300, "if it is a phone's panorama, set fit to pad"),
        (1080, 1920, "make a panorama of this photo with Place Image on Panorama; if it shows part"),
    ],
)
def test_each_layout_has_its_own_advice(height: int, width: int, says: str) -> None:
    with pytest.raises(ValueError, match="expected a panorama, twice as wide as high, got") as caught:
        fit.as_it_is("p.jpg", height, width)
    assert says in str(caught.value)
    sentences = [shape.advice for shape in layouts.SHAPES]
    assert all(says in layouts.advice(height, width) or says not in sentence for sentence in sentences)


def circles(other: bool) -> Any:
    """Two fisheye circles on black, of one view or of two."""
    across = (np.arange(128) + 0.5) / 128 - 0.5
    inside = np.hypot(across[:, None], across) < 0.49
    soft = np.random.default_rng(1).random((2, 16, 16)).repeat(8, 1).repeat(8, 2) * 0.8 + 0.2
    pair = [soft[0], soft[1 if other else 0]]
    return np.repeat((np.concatenate([view * inside for view in pair], 1) * 255).astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize(("other", "says"), [(True, "dual fisheye camera"), (False, "the same side .VR180.")])
def test_circles_are_no_panorama(tmp_path: Path, other: bool, says: str) -> None:
    path = put(tmp_path / "p.jpg", circles(other))
    with pytest.raises(ValueError, match=rf"p\.jpg: expected a panorama, got .*{says}"):
        loaded(path)


def test_dark_panoramas_are_no_circles(tmp_path: Path) -> None:
    rows = np.minimum(np.arange(128), 127 - np.arange(128))[:, None, None]
    night = (noise(128, 256) * np.clip((rows - 16) / 16, 0, 1)).astype(np.uint8)  # black poles
    for pixels in (night, np.zeros((128, 256, 3), np.uint8), noise(128, 256)):
        loaded(put(tmp_path / "p.png", pixels))


def test_an_unknown_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fit is 'stretch', expected one of by GPano, as it is, pad, crop"):
        loaded(put(tmp_path / "p.png", noise(32, 64)), how="stretch")
    with pytest.raises(ValueError, match="vertical_fov is -5, expected 0 to 180 degrees"):
        loaded(put(tmp_path / "p.png", noise(32, 64)), how="pad", field=-5)


def test_a_large_sphere_is_laid_in_blocks() -> None:
    part = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(0))
    place = fit.Place(0, 0, 64, 128, 256.0, 30.0, 10.0, (20.0, 10.0, 5.0))
    whole, seen = fit.laid(part, place, 128)
    step = fit.LAID
    try:
        fit.LAID = 7 * 256
        again, seen_again = fit.laid(part, place, 128)
    finally:
        fit.LAID = step
    assert torch.equal(whole, again) and torch.equal(seen, seen_again) and 0 < seen.sum() < seen.numel()


def test_headers_carry_gpano(tmp_path: Path) -> None:
    path = put(
        tmp_path / "p.jpg", noise(32, 64), elements(facts((256, 128), (64, 32), (40, 24), PosePitchDegrees="-3"))
    )
    assert header.read_header(path).gpano == gpano.Gpano(
        "equirectangular", 256, 128, 64, 32, 40, 24, heading=0, pitch=-3, roll=0
    )


@pytest.mark.parametrize("how", ["as it is", "pad", "crop"])
@pytest.mark.parametrize("size", [(64, 128), (60, 120), (200, 401)])
def test_a_decoded_picture_is_fitted_as_a_file_is(tmp_path: Path, how: str, size: tuple[int, int]) -> None:
    pixels = noise(*size)
    shown, words = picture.fit_image(torch.from_numpy(pixels / np.float32(255)), 96, how)
    colours, unseen, caught = loaded(put(tmp_path / "p.png", pixels), 96, how)
    assert np.abs(shown.colours.numpy() - colours).max() < 1e-6 and np.array_equal(1 - shown.opacity.numpy(), unseen)
    assert words == caught.replace("in the file", "given")


def test_a_file_is_resized_as_a_whole_picture_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of rows, across first: the same as one filter over the floats of the whole picture."""
    path = put(tmp_path / "p.png", noise(250, 500))
    monkeypatch.setattr(picture, "BLOCK", 7 * 500)
    whole = read_picture(path).colours
    batch = whole.permute(2, 0, 1)[None]
    filtered = torch.nn.functional.interpolate(batch, (96, 192), mode="bicubic", antialias=True, align_corners=False)
    colours, _, _ = loaded(path, 96)
    inner = slice(8, -8)  # at the edges the panorama's filter sees across the seam
    expected = filtered[0].permute(1, 2, 0).clamp(0, 1).numpy()
    assert np.abs(colours[:, inner] - expected[:, inner]).max() < 1e-5
    assert np.abs(colours[:, 0] - expected[:, 0]).max() > 1e-3
