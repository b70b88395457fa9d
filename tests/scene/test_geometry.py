"""The mesh of a scene: its frame, its closedness, its cuts and its distance, against truths in closed form."""

import numpy as np
import pytest
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.frame import coordinates, directions, pixel_directions, to_gltf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rays import Array, cast, hall, open_edges, rays, street, with_box

RELATIVE = Options(camera_height=0)


def grey(distance: Array) -> dict[str, Array]:
    return {"image": np.full((*distance.shape, 3), 0.5, dtype=np.float32)}


@pytest.fixture(scope="module")
def room() -> Room:
    return render(1024, 512)


@pytest.fixture(scope="module")
def scene(room: Room) -> Scene:
    return build_scene(room.distance, {"image": room.rgb, "albedo": room.albedo, "normal": room.normal}, RELATIVE)


def test_the_frame_is_that_of_gltf() -> None:
    named = {(0.5, 0.5): (0, 0, -1), (0.5, 0.75): (1, 0, 0), (0.5, 0.25): (-1, 0, 0), (0.5, 0.0): (0, 0, 1)}
    for place, vector in {**named, (0.0, 0.5): (0, 1, 0), (1.0, 0.5): (0, -1, 0)}.items():
        assert np.allclose(directions(*place), vector, atol=1e-12)
    assert np.allclose(pixel_directions(16, 32), to_gltf(rays(16)), atol=1e-6)
    assert np.allclose(directions(*coordinates(pixel_directions(16, 32))), pixel_directions(16, 32))


def test_uv_is_a_function_of_direction(scene: Scene) -> None:
    inner = (scene.geometry.uv[:, 1] > 0) & (scene.geometry.uv[:, 1] < 1)
    v, u = coordinates(scene.geometry.positions[inner])
    away = np.abs(scene.geometry.uv[inner, 0] % 1 - u)
    assert np.minimum(away, 1 - away).max() < 1e-6
    assert np.abs(scene.geometry.uv[inner, 1] - v).max() < 1e-6


def test_rays_give_the_depth_back(room: Room, scene: Scene) -> None:
    chance = np.random.default_rng(0)
    i = (np.arccos(1 - 2 * chance.random(400)) / np.pi * 512).astype(int)
    j = chance.integers(0, 1024, 400)
    found = cast(scene.geometry.positions, scene.geometry.faces, pixel_directions(512, 1024)[i, j])
    seen = np.isfinite(found)
    assert seen.mean() > 0.99
    error = np.abs(found[seen] / room.distance[i, j][seen] - 1)
    assert np.median(error) <= 0.001 and np.quantile(error, 0.99) <= 0.005


@pytest.mark.parametrize("place", [hall, street])
@pytest.mark.parametrize("height", [64, 360, 512])
@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_continuous_loses_nothing(place, height: int, mapped: bool) -> None:
    distance, normals = place(height)
    maps = grey(distance) | ({"normal": normals} if mapped else {})
    made = build_scene(distance, maps, RELATIVE)
    assert "Cuts: 0.00% of the solid angle lies beside a cut; 0.00%" in made.report
    assert not len(open_edges(made.geometry.positions, made.geometry.faces))


@pytest.mark.parametrize("mapped", [True, False])
def test_a_box_before_a_wall_is_cut_all_round(mapped: bool) -> None:
    distance, normals, seen = with_box(256)
    made = build_scene(distance, grey(distance) | ({"normal": normals} if mapped else {}), RELATIVE)
    positions, faces = made.geometry.positions, made.geometry.faces
    length = np.sqrt((positions**2).sum(axis=1))[faces]
    panel = np.isclose(-positions[faces][..., 2], 2.0, atol=0.01).all(axis=1)
    assert panel.sum() > 10
    assert not (set(faces[panel].ravel()) & set(faces[~panel].ravel())), "the panel hangs on nothing"
    assert (length.max(axis=1) / length.min(axis=1))[panel].max() < 1.3
    covered = cast(positions, faces, pixel_directions(256, 512)[seen][::50])
    assert np.allclose(covered, distance[seen][::50], rtol=0.005)


def test_with_no_cuts_the_mesh_is_closed_and_faces_the_viewer(room: Room) -> None:
    made = build_scene(room.distance, {"image": room.rgb}, Options(cut=False)).geometry
    assert not len(open_edges(made.positions, made.faces))
    a, b, c = (made.positions[made.faces[:, k]] for k in range(3))
    assert ((np.cross(b - a, c - a) * a).sum(axis=1) < 0).all()
    assert made.uv.min() == 0 and made.uv.max() == 1
    first, last = (made.positions[made.uv[:, 0] == u] for u in (0, 1))
    assert {tuple(p) for p in first.tolist()} == {tuple(p) for p in last.tolist()}


def test_camera_height_sets_the_scale(room: Room) -> None:
    made = build_scene(room.distance, {"image": room.rgb}, Options(camera_height=2.5)).geometry
    assert np.isclose(made.positions[made.uv[:, 1] == 1][:, 1], -2.5).all()
    assert "relative units, not metres" in build_scene(room.distance, {"image": room.rgb}, RELATIVE).report


@pytest.mark.parametrize("most", [500, 5000, 60000])
def test_no_more_triangles_than_allowed(room: Room, most: int) -> None:
    made = build_scene(room.distance, {"image": room.rgb}, Options(triangles=most, cut=most > 500))
    assert 0 < len(made.geometry.faces) <= most


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(2, 40),
    seed=st.integers(0, 99),
    holes=st.integers(0, 3),
    spread=st.sampled_from([0.0, 0.01, 0.5, 3.0]),
    cut=st.booleans(),
)
def test_any_depth_gives_a_mesh_or_a_sentence(height: int, seed: int, holes: int, spread: float, cut: bool) -> None:
    chance = np.random.default_rng(seed)
    distance = np.exp(chance.normal(0, spread, (height, 2 * height)))
    distance[chance.integers(0, height, holes), chance.integers(0, 2 * height, holes)] = 0
    try:
        made = build_scene(distance, grey(distance), Options(cut=cut))
    except ValueError as error:
        assert str(error).endswith(".") and len(str(error)) > 40
        return
    geometry = made.geometry
    assert np.isfinite(geometry.positions).all() and np.isfinite(geometry.normals).all()
    assert geometry.faces.max() < len(geometry.positions)
    assert holes or cut or not len(open_edges(geometry.positions, geometry.faces))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d * 0, "0 everywhere"),
        (lambda d: d * 0 + 0.5, "0.5 everywhere"),
        (lambda d: np.where(d > d.max() * 0.9, np.nan, d), "NaN or infinite values"),
        (lambda d: d[:, :-2], "twice as wide as high"),
    ],
)
def test_bad_depth_gets_its_sentence(change, words: str) -> None:
    distance: NDArray[np.floating] = change(hall(32)[0])
    with pytest.raises(ValueError, match=words):
        build_scene(distance, grey(distance), Options())
