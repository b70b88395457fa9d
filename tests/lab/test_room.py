"""The true maps of the demo's room, against shapes described a second time, and a check of its picture."""

import math

import numpy as np
import pytest
from comfyui_omnix.lab.rooms import enclosure, furniture, raycast, room, shapes
from comfyui_omnix.lab.rooms.stage import showroom
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from hypothesis import given, settings
from hypothesis import strategies as st
from solids import depth_inside

PAINT = shapes.Surface("thing", lambda p: p)
PLACES = st.tuples(*[st.floats(-2, 2)] * 3)
SIZES = st.tuples(*[st.floats(0.2, 1.0)] * 3)


@pytest.fixture(scope="module")
def rendered() -> room.Room:
    return room.render(192, 96)


# --- shapes ----------------------------------------------------------------------------------------------------------


def make(kind: str, centre: tuple, half: tuple, yaw: float, lean: float) -> shapes.Shape:
    if kind == "box":
        return shapes.Box(PAINT, centre, yaw, lean, half=half)
    if kind == "cushion":
        return shapes.Cushion(PAINT, centre, yaw, lean, half=half, rounding=0.5 * min(half))
    if kind == "ball":
        return shapes.Ball(PAINT, centre, yaw, lean, half=half)
    return shapes.Cone(PAINT, centre, yaw, lean, bottom=half[0], top=half[2], tall=half[1])


def rays_at(centre: tuple, count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Rays from 4 m away, aimed around the centre; some miss."""
    random = np.random.default_rng(7)
    origins = np.array(centre)[:, None] + 4 * shapes.unit(random.normal(size=(3, count)))
    aims = np.array(centre)[:, None] + random.normal(scale=0.5, size=(3, count))
    return origins.astype(np.float32), shapes.unit(aims - origins).astype(np.float32)


@pytest.mark.parametrize("kind", ["box", "cushion", "ball", "cone"])
@settings(max_examples=25, deadline=None)
@given(PLACES, SIZES, st.floats(-180, 180), st.floats(-90, 90))
def test_rays_stop_where_they_first_touch(kind: str, centre: tuple, half: tuple, yaw: float, lean: float) -> None:
    shape = make(kind, centre, half, yaw, lean)
    origins, directions = rays_at(centre)
    t = shape.reach(origins, directions)
    steps = np.linspace(0, 1, 200)
    for k in range(t.size):
        end = t[k] if np.isfinite(t[k]) else 8.0
        along = origins[:, k, None] + directions[:, k, None] * (steps * end)
        gap = depth_inside(shape, along)
        # Nothing before the hit is inside; a ray that only grazes an edge may be called either way.
        assert gap[:-1].min() > -5e-3
        if np.isfinite(t[k]):
            assert abs(gap[-1]) < 2e-3


@pytest.mark.parametrize("kind", ["box", "cushion", "ball", "cone"])
@settings(max_examples=25, deadline=None)
@given(PLACES, SIZES, st.floats(-180, 180), st.floats(-90, 90))
def test_normals_point_straight_out(kind: str, centre: tuple, half: tuple, yaw: float, lean: float) -> None:
    shape = make(kind, centre, half, yaw, lean)
    origins, directions = rays_at(centre)
    t = shape.reach(origins, directions)
    hit = np.isfinite(t)
    points = (origins + directions * np.where(hit, t, 0))[:, hit].astype(np.float64)
    normals = shape.normal(points.astype(np.float32))
    assert np.allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    slopes = np.stack(
        [depth_inside(shape, points + e) - depth_inside(shape, points - e) for e in 1e-5 * np.eye(3)[..., None]]
    )
    slopes /= np.linalg.norm(slopes, axis=0)
    # Points on an edge have two normals, and either is right.
    assert np.mean((normals * directions[:, hit]).sum(axis=0) < 1e-3) > 0.9
    assert np.mean((slopes * normals).sum(axis=0) > 0.99) > 0.9


def test_a_wall_has_one_side_and_a_hole() -> None:
    wall = enclosure.Wall(PAINT, (0, 0, 2), half=(3, 1, 1), axis=2, facing=-1, hole=((0, -0.5, 2), (1, 0.5, 2)))
    origins = np.array([[-1, 0.5, 5, -1, -1], [0, 0, 0, 2, 0], [0, 0, 0, 0, 4]], dtype=np.float32)
    directions = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, -1]], dtype=np.float32)
    assert wall.reach(origins, directions).tolist() == [2.0, math.inf, math.inf, math.inf, math.inf]
    assert wall.normal(origins[:, :1])[:, 0].tolist() == [0, 0, -1]


# --- tracing ---------------------------------------------------------------------------------------------------------


def test_the_tree_finds_what_trying_every_shape_finds() -> None:
    scene, random = showroom().scene, np.random.default_rng(3)
    origins = random.uniform(-1, 1, size=(3, 3000)).astype(np.float32)
    directions = shapes.unit(random.normal(size=(3, 3000)).astype(np.float32))
    hits = raycast.nearest(scene, origins, directions)
    tried = np.stack([shape.reach(origins, directions) for shape in scene.shapes])
    # The backdrop is behind everything; from inside the room it is hit last.
    assert np.allclose(hits.distance, tried.min(axis=0), atol=1e-5)
    assert np.allclose(np.take_along_axis(tried, hits.shape[None], axis=0)[0], hits.distance, atol=1e-5)
    limits = random.uniform(0.1, 4, size=3000).astype(np.float32)
    expected = (tried[:-1] < limits - shapes.SKIN).any(axis=0)
    assert np.array_equal(raycast.blocked(scene, origins, directions, limits), expected)


# --- the room --------------------------------------------------------------------------------------------------------


def test_every_map_has_its_form(rendered: room.Room) -> None:
    for name in ("rgb", "normal", "albedo"):
        assert getattr(rendered, name).shape == (96, 192, 3)
    for name in ("distance", "roughness", "metallic", "semantic"):
        assert getattr(rendered, name).shape == (96, 192)
    for name in ("rgb", "normal", "albedo", "distance", "roughness", "metallic"):
        values = getattr(rendered, name)
        assert values.dtype == np.float32 and np.isfinite(values).all(), name
    for name in ("rgb", "albedo", "roughness", "metallic"):
        assert getattr(rendered, name).min() >= 0 and getattr(rendered, name).max() <= 1, name
    assert rendered.semantic.dtype == np.int32


def test_points_lie_on_floor_and_ceiling_and_walls(rendered: room.Room) -> None:
    rays = camera_rays(96, 192).numpy()
    points = rays * rendered.distance[..., None]
    for label, height in (("floor", furniture.FLOOR), ("ceiling", furniture.CEILING)):
        found = points[rendered.semantic == rendered.labels.index(label)]
        assert len(found) > 500
        assert np.abs(found[:, 1] - height).max() < 1e-4
    walls = points[rendered.semantic == rendered.labels.index("wall")]
    sides = np.abs(walls[:, [0, 0, 2, 2]] - [furniture.BACK, furniture.FRONT, furniture.RIGHT, furniture.LEFT])
    # The window's reveal is wall too, and is behind its wall.
    assert ((sides.min(axis=1) < 1e-4) | (walls[:, 2] > furniture.LEFT - 1e-4)).all()


def test_the_front_is_in_the_middle_and_left_is_left(rendered: room.Room) -> None:
    rays = camera_rays(96, 192).numpy()
    points = rays * rendered.distance[..., None]

    def middle(label: str) -> np.ndarray:
        return points[rendered.semantic == rendered.labels.index(label)].mean(axis=0)

    columns = {
        name: np.nonzero(rendered.semantic == rendered.labels.index(name))[1] for name in ("sofa", "shelf", "window")
    }
    assert middle("sofa")[0] > 2 and abs(np.mean(columns["sofa"]) - 96) < 4
    assert middle("window")[2] > 2 and columns["window"].max() < 96
    assert middle("shelf")[2] < -2 and columns["shelf"].min() > 96


def test_normals_are_unit_vectors_towards_the_camera(rendered: room.Room) -> None:
    rays = camera_rays(96, 192).numpy()
    assert np.allclose(np.linalg.norm(rendered.normal, axis=-1), 1, atol=1e-5)
    assert (np.sum(rendered.normal * rays, axis=-1) < 1e-3).all()


def test_normals_are_those_of_the_distances() -> None:
    truth = room.render(512, 256)
    points = camera_rays(256, 512).numpy().astype(np.float64) * truth.distance[..., None]
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    found = np.cross(across, down)
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    agreement = np.abs(np.sum(found * truth.normal[1:-1, 1:-1], axis=-1))
    same = (truth.semantic[1:-1, 2:] == truth.semantic[1:-1, :-2]) & (
        truth.semantic[2:, 1:-1] == truth.semantic[:-2, 1:-1]
    )
    assert same.mean() > 0.85
    assert np.mean(agreement[same] > 0.999) > 0.93


def test_distances_do_not_depend_on_the_size(rendered: room.Room) -> None:
    # Three times the size has a pixel centre on each of the smaller one's.
    small = room.render(64, 32)
    assert np.allclose(rendered.distance[1::3, 1::3], small.distance, rtol=1e-5)
    assert np.array_equal(rendered.semantic[1::3, 1::3], small.semantic)
    assert np.allclose(rendered.albedo[1::3, 1::3], small.albedo, atol=2e-2)


def test_the_same_room_is_rendered_again() -> None:
    first, second, other = room.render(64, 32), room.render(64, 32), room.render(64, 32, seed=1)
    assert np.array_equal(first.rgb, second.rgb)
    assert not np.array_equal(first.rgb, other.rgb)
    assert np.array_equal(first.distance, other.distance) and np.array_equal(first.albedo, other.albedo)


def test_the_room_holds_what_the_maps_are_for(rendered: room.Room) -> None:
    metal = rendered.metallic == 1
    assert 0.005 < metal.mean() < 0.1
    assert rendered.roughness.min() < 0.15 and rendered.roughness.max() == 1.0
    assert {"mirror", "ornament", "lamp", "sofa", "plant", "rug", "outside"} <= set(rendered.labels)
    assert len(np.unique(rendered.semantic)) == len(rendered.labels)
    assert len(set(rendered.labels)) == len(rendered.labels)
    assert rendered.distance.min() > 0.5 and rendered.distance.max() > 10


def test_the_picture_is_lit_and_has_shadows(rendered: room.Room) -> None:
    floor = rendered.semantic == rendered.labels.index("floor")
    light = rendered.rgb[floor].mean(axis=-1)
    assert 0.25 < rendered.rgb.mean() < 0.75
    assert np.percentile(light, 99.5) > 1.6 * np.percentile(light, 20)
    assert not np.allclose(rendered.rgb, rendered.albedo, atol=0.2)


def test_the_picture_has_no_seam(rendered: room.Room) -> None:
    jumps = np.abs(np.diff(rendered.rgb, axis=1, append=rendered.rgb[:, :1])).mean(axis=(0, 2))
    assert jumps[-1] <= np.percentile(jumps, 90)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (8, 4), (64, 33)])
def test_other_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"at least 16x8, got {width}x{height}"):
        room.render(width, height)
