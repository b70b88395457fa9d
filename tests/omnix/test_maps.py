"""Maps from decoded pictures: exactly the picture's values, and the results of the host's own nodes with them."""

import math

import numpy as np
import pytest
import torch
from comfyui_omnix.omnix.pictures import maps, panorama
from hypothesis import given, settings
from hypothesis import strategies as st

UNIT = st.floats(0.0, 1.0, width=32)


def picture(height: int = 6, width: int = 12, batch: int = 2, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


# --- depth -----------------------------------------------------------------------------------------------------------


def test_depth_is_the_mean_of_the_channels() -> None:
    image = picture()
    found = maps.depth(image)
    assert found.image.shape == (2, 6, 12, 3) and found.mask.shape == (2, 6, 12)
    for b, i, j in ((0, 0, 0), (1, 5, 11), (0, 3, 7)):
        assert float(found.mask[b, i, j]) == pytest.approx(sum(image[b, i, j].tolist()) / 3, abs=1e-6)
    assert all(torch.equal(found.image[..., c], found.mask) for c in range(3))


def test_depth_is_not_stretched() -> None:
    image = picture() * 0.1 + 0.4
    found = maps.depth(image).mask
    assert float(found.min()) >= 0.4 and float(found.max()) <= 0.5


def test_depth_takes_one_channel_and_ignores_alpha() -> None:
    one = picture(channels=1)
    assert torch.equal(maps.depth(one).mask, one[..., 0])
    image = picture(channels=4)
    assert torch.equal(maps.depth(image).mask, maps.depth(image[..., :3]).mask)


def test_depth_keeps_more_than_eight_bits() -> None:
    ramp = torch.linspace(0.5, 0.5 + 1 / 255, 64).view(1, 8, 8, 1).expand(1, 8, 8, 3)
    assert len(maps.depth(ramp).mask.unique()) >= 60
    assert maps.depth(ramp.half()).mask.dtype == torch.float32


@settings(deadline=None)
@given(st.integers(2, 40), st.floats(0, 99), st.floats(1, 100))
def test_stretch_uses_linear_percentiles(count: int, near: float, span: float) -> None:
    far = min(100.0, near + span)
    values = picture(1, count, channels=1)[..., 0]
    stretched = maps.stretch(values, near, far)
    for b in range(2):
        low, high = np.percentile(values[b].double().numpy(), [near, far])
        expected = ((values[b].double() - low) / (high - low)).clamp(0, 1)
        # One rounding of a percentile in float32, magnified by how far the range is stretched.
        assert (stretched.mask[b] - expected).abs().max() <= 4e-7 / (high - low)
    assert torch.equal(stretched.image[..., 1], stretched.mask)


def test_stretch_from_0_to_100_fills_the_range_of_every_picture_alone() -> None:
    values = torch.stack([picture(batch=1)[0, ..., 0], picture(batch=1)[0, ..., 1] * 0.01])
    stretched = maps.stretch(values, 0.0, 100.0).mask
    assert stretched.amin((1, 2)).tolist() == [0.0, 0.0]
    assert stretched.amax((1, 2)).tolist() == [1.0, 1.0]


def test_stretch_works_above_the_size_that_torch_can_take_quantiles_of() -> None:
    values = torch.arange(2**24 + 4096, dtype=torch.float32).view(1, 4097, 4096) / 2**25
    with pytest.raises(RuntimeError):
        torch.quantile(values, 0.5)
    assert float(maps.stretch(values, 0.0, 50.0).mask[0, 2048, 2047]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("near", "far"), [(50, 50), (60, 40), (-1, 50), (0, 101), (math.nan, 50)])
def test_stretch_refuses_percentiles_that_make_no_range(near: float, far: float) -> None:
    with pytest.raises(ValueError, match="near percentile must be below"):
        maps.stretch(torch.rand(1, 4, 8), near, far)


def test_stretch_refuses_a_flat_map() -> None:
    values = torch.stack([torch.rand(4, 8), torch.full((4, 8), 0.5)])
    with pytest.raises(ValueError, match="no range to stretch"):
        maps.stretch(values, 2, 98)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stretch_refuses_values_without_a_place(value: float) -> None:
    """One of them would make the whole map NaN."""
    values = torch.rand(2, 4, 8)
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite values"):
        maps.stretch(values, 2, 98)


# --- normals ---------------------------------------------------------------------------------------------------------


@given(st.tuples(UNIT, UNIT, UNIT))
def test_normals_are_those_of_a_plain_loop(colour: tuple[float, float, float]) -> None:
    vector = [2 * c - 1 for c in colour]
    length = math.sqrt(sum(v * v for v in vector))
    found = maps.normal(torch.tensor(colour).view(1, 1, 1, 3))[0, 0, 0]
    if length > 1e-4:
        assert found.tolist() == pytest.approx(
            [v / length / 2 + 0.5 for v in vector], abs=1e-3 if length < 1e-2 else 1e-5
        )
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0


def test_normals_are_unit_vectors_and_decoding_them_again_changes_nothing() -> None:
    image = maps.normal(picture(32, 64))
    assert torch.allclose((image * 2 - 1).norm(dim=-1), torch.ones(2, 32, 64), atol=1e-6)
    assert torch.allclose(maps.normal(image), image, atol=1e-6)


def test_no_direction_stays_no_direction() -> None:
    assert torch.equal(maps.normal(torch.full((1, 2, 4, 3), 0.5)), torch.full((1, 2, 4, 3), 0.5))


def test_directx_inverts_green_and_nothing_else() -> None:
    image = picture()
    opengl, directx = maps.normal(image), maps.normal(image, directx=True)
    assert torch.equal(directx[..., 0], opengl[..., 0]) and torch.equal(directx[..., 2], opengl[..., 2])
    assert torch.allclose(directx[..., 1], 1 - opengl[..., 1], atol=1e-6)
    up = torch.tensor([0.5, 1.0, 0.5]).view(1, 1, 1, 3)
    assert maps.normal(up)[0, 0, 0].tolist() == [0.5, 1.0, 0.5]
    assert maps.normal(up, directx=True)[0, 0, 0].tolist() == [0.5, 0.0, 0.5]


# --- roughness, metallic, occlusion ----------------------------------------------------------------------------------


def test_material_is_channels_0_and_1_untouched() -> None:
    image = picture()
    found = maps.material(image)
    for c in range(3):
        assert torch.equal(found.roughness[..., c], image[..., 0])
        assert torch.equal(found.metallic[..., c], image[..., 1])


def test_orm_is_red_occlusion_green_roughness_blue_metallic() -> None:
    found = maps.material(picture())
    packed = maps.orm(found.roughness, found.metallic)
    assert torch.equal(packed[..., 0], torch.ones(2, 6, 12))
    assert torch.equal(packed[..., 1], found.roughness[..., 0])
    assert torch.equal(packed[..., 2], found.metallic[..., 0])
    occlusion = picture(seed=3)
    assert torch.equal(maps.orm(found.roughness, found.metallic, occlusion)[..., 0], occlusion[..., 0])


def test_orm_refuses_maps_of_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"metallic map is 8x4 \(batch 2\) but roughness is 12x6 \(batch 2\)"):
        maps.orm(picture(), picture(4, 8))
    with pytest.raises(ValueError, match="occlusion map"):
        maps.orm(picture(), picture(), picture(batch=1))


@pytest.mark.parametrize("read", [maps.depth, maps.normal, maps.material])
def test_a_mask_in_place_of_an_image_is_refused(read) -> None:
    with pytest.raises(ValueError, match="connect the decoded picture"):
        read(torch.rand(1, 4, 8))


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 or more channels"):
        maps.normal(picture(channels=1))
    with pytest.raises(ValueError, match="2 or more channels"):
        maps.material(picture(channels=1))


@pytest.mark.parametrize("read", [maps.depth, maps.normal, maps.material])
def test_the_picture_is_not_changed(read) -> None:
    image = picture()
    before = image.clone()
    read(image)
    assert torch.equal(image, before)


# --- the host's geometry ---------------------------------------------------------------------------------------------


@pytest.mark.since("0.22.0")
def test_geometry_uses_the_directions_of_the_host() -> None:
    from comfy.ldm.moge.panorama import _uv_grid, spherical_uv_to_directions

    depth = picture(16, 32, channels=1)[..., 0] + 0.1
    geometry = maps.moge_geometry(depth, picture(16, 32))
    expected = torch.from_numpy(spherical_uv_to_directions(_uv_grid(16, 32))) * depth[..., None]
    assert set(geometry) == {"points", "depth", "mask", "image"}
    assert geometry["points"].shape == (2, 16, 32, 3) and geometry["points"].dtype == torch.float32
    assert torch.allclose(geometry["points"], expected.float(), atol=1e-6)
    assert torch.equal(geometry["depth"], depth)
    assert geometry["mask"].dtype == torch.bool and bool(geometry["mask"].all())


def test_pixels_without_depth_are_masked_out() -> None:
    depth = torch.full((1, 4, 8), 0.5)
    depth[0, 1, 2], depth[0, 2, 3], depth[0, 3, 4] = 0.0, math.inf, math.nan
    geometry = maps.moge_geometry(depth, torch.zeros(1, 4, 8, 3))
    assert int((~geometry["mask"]).sum()) == 3
    assert torch.equal(torch.isfinite(geometry["points"]).all(dim=-1), geometry["mask"])
    assert torch.equal(torch.isfinite(geometry["depth"]), geometry["mask"])


def room_of_the_host(height: int = 32) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A sphere that is 1 away to the right of the camera and 3 to the left."""
    rays = panorama.camera_rays(height, 2 * height)
    along = -rays[..., 2]
    depth = (-along + (along.square() + 3.0).sqrt())[None]
    return depth, maps.moge_geometry(depth, picture(height, 2 * height, batch=1))


@pytest.mark.since("0.22.0")
def test_the_host_renders_our_geometry() -> None:
    from comfy_extras.nodes_moge import MoGeRender

    depth, geometry = room_of_the_host()
    near = MoGeRender.execute(geometry, "depth").args[0]
    assert near.shape == (1, 32, 64, 3)
    nearest, farthest = depth[0].flatten().argmin(), depth[0].flatten().argmax()
    assert float(near[0, ..., 0].flatten()[nearest]) == pytest.approx(1.0, abs=1e-3)
    assert float(near[0, ..., 0].flatten()[farthest]) == pytest.approx(0.0, abs=1e-3)
    assert bool((MoGeRender.execute(geometry, "mask").args[0] == 1).all())
    for output in ("depth_colored", "normal_opengl", "normal_directx"):
        assert bool(torch.isfinite(MoGeRender.execute(geometry, output).args[0]).all())


@pytest.mark.since("0.22.0")
def test_the_host_meshes_our_geometry_the_right_way_round() -> None:
    from comfy_extras.nodes_moge import MoGePointMapToMesh

    depth, geometry = room_of_the_host()
    mesh = MoGePointMapToMesh.execute(geometry, 0, 1, 0.0, True).args[0]
    vertices = mesh.vertices[0]
    assert vertices.shape == (32 * 64, 3)
    rays = panorama.camera_rays(32, 64)
    # glTF: right +X, up +Y, towards the viewer +Z; ours: front +X, up +Y, left +Z.
    expected = torch.stack([-rays[..., 2], rays[..., 1], -rays[..., 0]], dim=-1) * depth[0, ..., None]
    assert torch.allclose(vertices.view(32, 64, 3), expected, atol=1e-5)
    assert torch.allclose(mesh.texture, geometry["image"])


def test_geometry_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match="twice as wide as high, got 8x8"):
        maps.moge_geometry(torch.rand(1, 8, 8), torch.rand(1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"panorama is 32x16 \(batch 1\) but its depth is 16x8 \(batch 1\)"):
        maps.moge_geometry(torch.rand(1, 8, 16), torch.rand(1, 16, 32, 3))
    with pytest.raises(ValueError, match="depth values"):
        maps.moge_geometry(torch.rand(1, 8, 16, 3), torch.rand(1, 8, 16, 3))
