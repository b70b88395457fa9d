"""Panorama geometry, against the reference's numbers and against plain loops."""

import math
from pathlib import Path

import pytest
import torch
from comfyui_omnix.omnix.pictures import panorama
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

ANGLES = st.floats(-180.0, 180.0)


@pytest.fixture(scope="module")
def geometry(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "geometry.safetensors")


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


# --- sizes -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000))
def test_twice_as_wide_as_high_is_a_panorama(height: int) -> None:
    panorama.check_panorama(height, 2 * height)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_any_other_size_is_refused_with_the_size_to_use(height: int, width: int) -> None:
    if width == 2 * height:
        return
    with pytest.raises(ValueError, match=f"got {width}x{height}; resize it to {2 * height}x{height} first"):
        panorama.check_panorama(height, width)


def test_the_sentence_is_what_a_user_reads() -> None:
    with pytest.raises(ValueError) as caught:
        panorama.check_panorama(480, 640)
    assert str(caught.value) == (
        "A panorama is twice as wide as high, got 640x480; resize it to 960x480 first. "
        "If it isn't a panorama, load another picture."
    )


# --- rays ------------------------------------------------------------------------------------------------------------


def test_rays_equal_the_reference(geometry: dict[str, torch.Tensor]) -> None:
    expected = geometry["rays.16x32"]
    rays = panorama.camera_rays(16, 32)
    assert rays.dtype == torch.float32
    assert (rays - expected).norm() / expected.norm() <= 1e-6


@given(st.integers(1, 24))
def test_rays_are_those_of_a_plain_loop(height: int) -> None:
    rays = panorama.camera_rays(height, 2 * height)
    for i in range(height):
        for j in range(2 * height):
            lon = (0.5 - (j + 0.5) / (2 * height)) * 2 * math.pi
            lat = (0.5 - (i + 0.5) / height) * math.pi
            ray = (math.cos(lat) * math.cos(lon), math.sin(lat), math.cos(lat) * math.sin(lon))
            assert rays[i, j].tolist() == pytest.approx(ray, abs=1e-6)


def test_rays_point_where_the_panorama_looks() -> None:
    rays = panorama.camera_rays(180, 360)
    front, up, left = rays[89:91, 179:181].mean((0, 1)), rays[0].mean(0), rays[89:91, 89:91].mean((0, 1))
    assert front.tolist() == pytest.approx([1, 0, 0], abs=1e-3)
    assert up.tolist() == pytest.approx([0, 1, 0], abs=1e-3)
    assert left.tolist() == pytest.approx([0, 0, 1], abs=1e-3)
    assert torch.allclose(rays.norm(dim=-1), torch.ones(180, 360), atol=1e-6)


# --- a picture on a panorama -----------------------------------------------------------------------------------------


def test_placement_equals_the_reference(geometry: dict[str, torch.Tensor]) -> None:
    expected = geometry["masked_0.panorama"]
    placed, mask = panorama.place_on_panorama(
        geometry["masked_0.image"][None], 128, 64, fov_x=float(geometry["masked_0.fov_x"])
    )
    assert (placed[0] - expected).abs().max() <= 1e-5
    assert (placed[0] - expected).norm() / expected.norm() <= 1e-5
    grey = (expected == 127.5 / 255).all(dim=-1)
    assert torch.equal(mask[0] == 1, grey)


def camera_axes(yaw: float, pitch: float, roll: float) -> list[tuple[float, float, float]]:
    """Front, right and down of the camera, in world (front, right, down), built without matrices."""
    psi, theta, phi = (math.radians(a) for a in (yaw, pitch, roll))
    front = (math.cos(theta) * math.cos(psi), math.cos(theta) * math.sin(psi), -math.sin(theta))
    level = (-math.sin(psi), math.cos(psi), 0.0)
    under = (math.sin(theta) * math.cos(psi), math.sin(theta) * math.sin(psi), math.cos(theta))
    right = tuple(math.cos(phi) * a + math.sin(phi) * b for a, b in zip(level, under))
    down = tuple(math.cos(phi) * b - math.sin(phi) * a for a, b in zip(level, under))
    return [front, right, down]  # type: ignore[list-item]


def placed_by_loop(
    image: torch.Tensor, i: int, j: int, height: int, fov: float, axes: list
) -> tuple[list, bool, float]:
    """One pixel: its colour, whether it is seen, and how far the decision is from its border."""
    h, w = image.shape[:2]
    theta, phi = math.pi * j / height - math.pi, math.pi * i / height - math.pi / 2
    d = (math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi))
    x, y, z = (sum(a * b for a, b in zip(d, axis)) for axis in axes)
    if x == 0:
        return [127.5 / 255] * 3, False, 0.0
    focal = w / (2 * math.tan(math.radians(fov) / 2))
    u, v = focal * y / x + w / 2 + 0.5, focal * z / x + h / 2 + 0.5
    margin = min(abs(x), abs(u), abs(u - w), abs(v), abs(v - h))
    if not (x >= 0 and 0 <= u < w and 0 <= v < h):
        return [127.5 / 255] * 3, False, margin
    left, top = math.floor(u), math.floor(v)
    fu, fv = u - left, v - top
    pixel = []
    for c in range(3):
        corner = [[float(image[(top + a) % h, (left + b) % w, c]) for b in (0, 1)] for a in (0, 1)]
        rows = [r[0] * (1 - fu) + r[1] * fu for r in corner]
        pixel.append(rows[0] * (1 - fv) + rows[1] * fv)
    return pixel, True, margin


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 12), st.floats(20, 160), ANGLES, ANGLES, ANGLES)
def test_placement_is_that_of_a_plain_loop(
    h: int, w: int, height: int, fov: float, yaw: float, pitch: float, roll: float
) -> None:
    image = picture(h, w)
    placed, mask = panorama.place_on_panorama(image, 2 * height, height, fov, yaw, pitch, roll)
    axes = camera_axes(yaw, pitch, roll)
    for i in range(height):
        for j in range(2 * height):
            pixel, seen, margin = placed_by_loop(image[0], i, j, height, fov, axes)
            if margin > 1e-9:
                assert bool(mask[0, i, j] == 0) == seen
                assert placed[0, i, j].tolist() == pytest.approx(pixel, abs=2e-5)


@pytest.mark.parametrize(("yaw", "columns"), [(90.0, 32), (-90.0, -32), (45.0, 16), (180.0, 64)])
def test_yaw_moves_the_picture_to_the_right(yaw: float, columns: int) -> None:
    image = picture(24, 32)
    straight, unseen = panorama.place_on_panorama(image, 128, 64, 70.0)
    turned, turned_unseen = panorama.place_on_panorama(image, 128, 64, 70.0, yaw=yaw)
    assert torch.allclose(turned, straight.roll(columns, 2), atol=1e-5)
    assert torch.equal(turned_unseen, unseen.roll(columns, 2))


def centre_of(mask: torch.Tensor) -> tuple[float, float]:
    rows, columns = (1 - mask[0]).nonzero(as_tuple=True)
    return float(rows.float().mean()), float(columns.float().mean())


def test_pitch_looks_up_and_row_0_is_the_top() -> None:
    bright_top = torch.zeros(1, 32, 32, 3)
    bright_top[:, :16] = 1.0
    placed, level = panorama.place_on_panorama(bright_top, 128, 64)
    assert placed[0, 24, 64].tolist() == [1.0, 1.0, 1.0]
    assert placed[0, 40, 64].tolist() == [0.0, 0.0, 0.0]
    _, raised = panorama.place_on_panorama(bright_top, 128, 64, pitch=30.0)
    assert centre_of(raised)[0] < centre_of(level)[0] - 5
    assert centre_of(raised)[1] == pytest.approx(centre_of(level)[1], abs=0.6)


def test_roll_turns_the_picture_clockwise() -> None:
    bright_top = torch.zeros(1, 32, 32, 3)
    bright_top[:, :16] = 1.0
    placed, _ = panorama.place_on_panorama(bright_top, 128, 64, roll=90.0)
    assert placed[0, 32, 72].tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert placed[0, 32, 56].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)


def test_every_picture_of_a_batch_is_placed_and_none_is_changed() -> None:
    images = picture(12, 16, batch=3)
    before = images.clone()
    placed, mask = panorama.place_on_panorama(images, 64, 32, 80.0, 20.0, 10.0, 5.0)
    assert placed.shape == (3, 32, 64, 3) and mask.shape == (3, 32, 64)
    assert torch.equal(images, before)
    for b in range(3):
        alone, alone_mask = panorama.place_on_panorama(images[b : b + 1], 64, 32, 80.0, 20.0, 10.0, 5.0)
        assert torch.equal(placed[b], alone[0]) and torch.equal(mask[b], alone_mask[0])


def test_half_precision_pictures_stay_half_precision() -> None:
    image = picture(16, 16)
    exact, _ = panorama.place_on_panorama(image, 64, 32)
    placed, mask = panorama.place_on_panorama(image.half(), 64, 32)
    assert placed.dtype == mask.dtype == torch.float16
    assert (placed.float() - exact).abs().max() < 1e-3


def test_alpha_is_left_out() -> None:
    image = picture(16, 16)
    opaque, _ = panorama.place_on_panorama(torch.cat([image, torch.zeros(1, 16, 16, 1)], dim=-1), 64, 32)
    assert torch.equal(opaque, panorama.place_on_panorama(image, 64, 32)[0])


@pytest.mark.parametrize("fov", [0.0, -10.0, 180.0, 270.0, math.nan])
def test_a_field_of_view_that_no_lens_has_is_refused(fov: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 180 degrees"):
        panorama.place_on_panorama(picture(8, 8), 32, 16, fov)


def test_placement_refuses_what_is_no_picture_or_no_panorama() -> None:
    with pytest.raises(ValueError, match="colour picture is"):
        panorama.place_on_panorama(torch.zeros(8, 8, 3), 32, 16)
    with pytest.raises(ValueError, match="colour picture is"):
        panorama.place_on_panorama(torch.zeros(1, 8, 8, 1), 32, 16)
    with pytest.raises(ValueError, match="twice as wide as high, got 32x32"):
        panorama.place_on_panorama(picture(8, 8), 32, 32)


# --- a view out of a panorama ----------------------------------------------------------------------------------------


def axes(right: float, up: float, fov: float, yaw: float, pitch: float) -> tuple[float, float, float]:
    """Return the world direction (front, up, left) seen at (right, up) in [-1, 1] of a square view."""
    tangent = math.tan(math.radians(fov) / 2)
    front, right, up = 1.0, right * tangent, up * tangent
    turn, tilt = math.radians(yaw), math.radians(pitch)
    front, up = front * math.cos(tilt) - up * math.sin(tilt), front * math.sin(tilt) + up * math.cos(tilt)
    front, right = front * math.cos(turn) - right * math.sin(turn), front * math.sin(turn) + right * math.cos(turn)
    length = math.hypot(front, right, up)
    return front / length, up / length, -right / length


@settings(deadline=None, max_examples=50)
@given(ANGLES, st.floats(-90.0, 90.0), st.floats(20.0, 120.0))
def test_a_view_of_the_rays_shows_where_each_pixel_looks(yaw: float, pitch: float, fov: float) -> None:
    size = 8
    view = panorama.perspective_view(panorama.camera_rays(128, 256)[None], size, size, fov, yaw, pitch)
    for i in range(size):
        for j in range(size):
            expected = axes((j + 0.5) / size * 2 - 1, 1 - (i + 0.5) / size * 2, fov, yaw, pitch)
            # The mean of neighbouring rays is shorter, and the last half row before a pole is constant.
            assert math.dist(view[0, i, j].tolist(), expected) < 0.03


def test_a_view_across_the_seam_is_the_view_of_the_rolled_panorama() -> None:
    image = picture(32, 64)
    behind = panorama.perspective_view(image, 40, 30, 80.0, yaw=180.0, pitch=20.0)
    front = panorama.perspective_view(image.roll(32, dims=2), 40, 30, 80.0, yaw=0.0, pitch=20.0)
    assert (behind - front).abs().max() < 1e-4


def test_a_view_undoes_what_lays_a_picture_on_a_panorama() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    image = torch.stack([rows, columns, 0.5 + 0 * rows], -1)[None]
    laid, _ = panorama.place_on_panorama(image, 512, 256, 60.0, yaw=100.0, pitch=-25.0)
    back = panorama.perspective_view(laid, 64, 64, 60.0, yaw=100.0, pitch=-25.0)
    # The reference's projection is off by half a panorama pixel and one picture pixel, 1/64 of the ramp each.
    assert (back - image)[:, 4:-4, 4:-4].abs().max() < 0.04


def test_a_coarse_view_is_a_mean_and_not_a_sample() -> None:
    stripes = torch.zeros(1, 128, 256, 1)
    stripes[:, :, ::2] = 1.0
    view = panorama.perspective_view(stripes, 12, 8, 90.0)
    assert (view - 0.5).abs().max() < 0.2


def test_a_view_keeps_type_and_channels() -> None:
    view = panorama.perspective_view(picture(8, 16, batch=2).half(), 6, 4)
    assert (view.shape, view.dtype) == ((2, 4, 6, 3), torch.float16)


@pytest.mark.parametrize(
    ("size", "fov", "reason"), [((0, 4), 90.0, "at least 1x1, got 0x4"), ((4, 4), 180.0, "got 180.0; 90 is a good")]
)
def test_an_impossible_camera_is_refused(size: tuple[int, int], fov: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        panorama.perspective_view(picture(8, 16), *size, fov)
