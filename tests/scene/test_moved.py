"""The panorama from a moved viewpoint: against halls in closed form, rays of another method, and a renderer."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix.graph.layers import OmniXMoveViewpoint
from comfyui_omnix.omnix.pictures.panorama import place_on_panorama
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.frame import pixel_directions
from comfyui_omnix.omnix.scene.raster import first_hits
from rays import Array, cast, hall, with_box

HEIGHT = 64
STEP = (1.0, 0.3, 2.0)
GREY = np.float32(127.5 / 255)


def coloured(height: int) -> Array:
    """Return a picture whose colours tell the place in space: the ray of each pixel."""
    return (pixel_directions(height, 2 * height) * 0.5 + 0.5).astype(np.float32)


def scene(distance: Array, **more: Any) -> Scene:
    return build_scene(distance, {"image": coloured(len(distance))}, Options(camera_height=0, max_error=1e-4, **more))


def moved(glb: bytes, right: float = 0.0, up: float = 0.0, forward: float = 0.0, **more: Any) -> Any:
    given = {"right": right, "up": up, "forward": forward, "width": 2 * HEIGHT, "height": HEIGHT, **more}
    made = OmniXMoveViewpoint.execute(SimpleNamespace(get_bytes=lambda: glb), **given)  # type: ignore[arg-type]
    return SimpleNamespace(**dict(zip(("panorama", "unseen", "depth"), (each[0].numpy() for each in made.args))))


def test_where_it_was_taken_it_is_the_panorama_again() -> None:
    view = moved(scene(hall(4 * HEIGHT)[0]).glb)
    assert not view.unseen.any()
    assert np.quantile(np.abs(view.depth / hall(HEIGHT)[0] - 1), 0.99) < 0.01
    assert np.abs(view.panorama - coloured(HEIGHT)).mean() < 0.005


@pytest.mark.parametrize("step", [STEP, (-2.0, -0.8, -3.0), (0.0, 1.5, 0.0), (5.0, 0.0, 6.0)])
def test_a_hall_is_as_far_as_it_is_and_shows_its_own_places(step: tuple[float, float, float]) -> None:
    """The hall of 16 x 12 x 4 m: distances in closed form, seam and poles included, and the colour of each place."""
    right, up, forward = step
    view = moved(scene(hall(4 * HEIGHT)[0]).glb, *step)
    ray = np.stack([-pixel_directions(HEIGHT, 2 * HEIGHT)[..., axis] for axis in (2, 0)], axis=-1)
    front, left, above = ray[..., 0], ray[..., 1], pixel_directions(HEIGHT, 2 * HEIGHT)[..., 1]
    sides = [
        np.where(axis > 0, ahead, behind) / np.maximum(np.abs(axis), 1e-12)
        for axis, ahead, behind in (
            (front, 8 - forward, 8 + forward),
            (left, 6 + right, 6 - right),
            (above, 2.4 - up, 1.6 + up),
        )
    ]
    truth = np.min(sides, axis=0)
    off = np.abs(view.depth / truth - 1)
    assert not view.unseen.any() and np.median(off) < 1e-3 and np.quantile(off, 0.98) < 0.01
    places = pixel_directions(HEIGHT, 2 * HEIGHT) * truth[..., None] + np.array([right, up, -forward])
    want = places / np.linalg.norm(places, axis=-1, keepdims=True) * 0.5 + 0.5
    assert np.quantile(np.abs(view.panorama - want), 0.99) < 0.02


def test_every_ray_meets_what_another_method_says() -> None:
    """Moeller and Trumbore on each ray against the z-buffer, with a panel that hides things and is cut out."""
    made = scene(with_box(HEIGHT)[0])
    positions = made.geometry.positions - np.array([0.7, 0.2, -0.5])
    hits = first_hits(positions[made.geometry.faces], HEIGHT)
    chosen = np.random.default_rng(0).integers(0, [HEIGHT, 2 * HEIGHT], (300, 2))
    chosen[:40, 0], chosen[40:80, 1] = np.repeat([0, HEIGHT - 1], 20), np.repeat([0, 2 * HEIGHT - 1], 20)
    want = cast(positions, made.geometry.faces, pixel_directions(HEIGHT, 2 * HEIGHT)[tuple(chosen.T)])
    found = hits.inverse[tuple(chosen.T)]
    met = np.isfinite(want)
    assert np.array_equal(met, found > 0) and np.allclose(found[met] * want[met], 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_large_and_near_triangles_are_met_exactly(seed: int) -> None:
    """Any triangles, round the viewer, over poles and seam, from much smaller to much larger than a pixel."""
    chance = np.random.default_rng(seed)
    triangles = chance.normal(size=(40, 3, 3)) * chance.uniform(0.3, 3, (40, 1, 1))
    triangles[20:] = triangles[20:, :1] + 0.05 * chance.normal(size=(20, 3, 3))
    hits = first_hits(triangles, 32)
    want = cast(triangles.reshape(-1, 3), np.arange(120).reshape(-1, 3), pixel_directions(32, 64).reshape(-1, 3))
    met = np.isfinite(want)
    assert np.array_equal(met, hits.face.ravel() >= 0)
    assert np.allclose(hits.inverse.ravel()[met] * want[met], 1, atol=1e-6)


def test_what_nobody_saw_is_grey_as_image_to_pano_expects() -> None:
    """Behind the panel: a mask, the grey of Place Image on Panorama, no depth; and what was invented on request."""
    distance, _, _ = with_box(HEIGHT)
    made = scene(distance)
    view, all_of_it = moved(made.glb, 1.0), moved(made.glb, 1.0, invented=True)
    lost = view.unseen > 0.5
    assert 0.005 < lost.mean() < 0.2
    assert np.all(view.panorama[lost] == GREY) and not view.depth[lost].any() and (view.depth[~lost] > 0).all()
    placed, unseen = place_on_panorama(torch.rand(1, 8, 8, 3), 2 * HEIGHT, HEIGHT)
    assert np.all(placed[unseen > 0.5].numpy() == GREY)
    assert (all_of_it.unseen > 0.5).mean() < 0.2 * lost.mean()
    both = ~lost & (all_of_it.unseen < 0.5)
    assert np.isclose(view.depth[both], all_of_it.depth[both]).mean() > 0.99


def test_a_back_hides_and_is_unseen() -> None:
    """From behind the panel, 3 m ahead of the viewer, its back is grey, and nothing is seen through it."""
    view = moved(scene(with_box(HEIGHT)[0], background=False).glb, forward=3.0)
    rays = pixel_directions(HEIGHT, 2 * HEIGHT)
    back = (rays[..., 2] > 0.9) & (np.abs(rays[..., 0]) < 0.4) & (np.abs(rays[..., 1]) < 0.3)
    assert back.any() and (view.unseen[back] == 1).all()


def test_objects_and_layers_are_all_shown() -> None:
    distance, _, _ = with_box(HEIGHT)
    whole, apart = moved(scene(distance).glb, *STEP), moved(scene(distance, objects=True).glb, *STEP)
    assert np.array_equal(whole.depth, apart.depth) and np.array_equal(whole.panorama, apart.panorama)


def lit(distance: Array) -> bytes:
    maps = {"image": coloured(len(distance)), "albedo": np.full((*distance.shape, 3), 0.9, dtype=np.float32)}
    return build_scene(distance, maps, Options(camera_height=0)).glb


def test_a_lit_scene_needs_its_panorama_and_then_shows_it() -> None:
    distance, _, _ = with_box(HEIGHT)
    picture = torch.from_numpy(coloured(HEIGHT))[None]
    view = moved(lit(distance), 0.2, image=picture)
    want = moved(scene(distance).glb, 0.2)
    both = (view.unseen < 0.5) & (want.unseen < 0.5)
    assert np.abs(view.panorama[both] - want.panorama[both]).mean() < 0.01
    for more in ({}, {"image": picture, "invented": True}):
        with pytest.raises(ValueError, match="is lit, so its colours are albedo"):
            moved(lit(distance), 0.2, **more)


def test_a_file_that_another_tool_saved_again_is_read() -> None:
    trimesh = pytest.importorskip("trimesh")
    glb = scene(hall(HEIGHT)[0]).glb
    again = trimesh.load(io.BytesIO(glb), file_type="glb").export(file_type="glb")
    view = moved(again, *STEP, image=torch.from_numpy(coloured(HEIGHT))[None])
    assert np.allclose(view.depth, moved(glb, *STEP).depth, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"glb": b""}, "cannot read the 3D file"),
        ({"glb": b"solid nothing" * 9}, "it is not a GLB"),
        ({"cut_short": True}, "cannot read the 3D file"),
        ({"height": 32}, "twice as wide as high"),
        ({"right": 5000.0}, "No part of the scene is visible from there"),
        ({"image": torch.rand(2, 8, 16, 3)}, "got a batch of 2"),
    ],
)
def test_bad_input_gets_its_sentence(change: dict[str, Any], words: str) -> None:
    glb = scene(hall(32)[0]).glb
    data = change.pop("glb", glb[: len(glb) // 2] if change.pop("cut_short", False) else glb)
    with pytest.raises(ValueError, match=words):
        moved(data, **change)


@pytest.mark.parametrize("connected", [True, False])
def test_the_sky_behind_an_object_is_the_sky(connected: bool) -> None:
    """In the panorama's own pixels there is the object: it must not be seen twice."""
    rays = pixel_directions(4 * HEIGHT, 8 * HEIGHT)
    right, up, ahead = rays[..., 0], rays[..., 1], -rays[..., 2]
    ground = np.where(up < -0.08, -1.6 / np.minimum(up, -0.08), 0.0)
    on_panel = (ahead > 0.1) & (np.abs(right) < 0.25 * ahead) & (np.abs(up) < 0.5 * ahead)
    distance = np.where(on_panel, 3 / np.maximum(ahead, 0.1), ground)
    colours = np.where(on_panel[..., None], (0.9, 0.1, 0.1), np.where(distance[..., None] > 0, 0.5, (0.1, 0.2, 0.9)))
    image = colours.astype(np.float32)
    glb = build_scene(distance, {"image": image}, Options(camera_height=0)).glb
    view = moved(glb, right=1.5, **({"image": torch.from_numpy(image)[None]} if connected else {}))
    sky = (view.depth > 10) & (pixel_directions(HEIGHT, 2 * HEIGHT)[..., 1] > 0.1)
    assert sky.mean() > 0.2
    assert (view.panorama[sky] @ np.array([1.0, 0.0, -1.0])).max() < 0
