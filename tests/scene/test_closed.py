"""Nothing is open where the picture was taken, however poor the maps: edges, noise, steps and normals of any frame."""

import dataclasses

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.rooms.degraded import HARSH, MILD, SETTINGS, Degradation, degraded
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.inputs import normals_in_frame
from rays import Array, covered, hall, rays, street, with_box

HEIGHT = 128
RELATIVE = Options(camera_height=0, triangles=10**6)


@pytest.fixture(scope="module")
def room() -> Room:
    """A room without a window: what has depth is the whole sphere."""
    return render(2 * HEIGHT, HEIGHT, stage=random_room(1), quality=FAST)


def made(distance: Array, normals: Array | None, options: Options = RELATIVE) -> Scene:
    picture = {"image": np.full((*distance.shape, 3), 0.5, dtype=np.float32)}
    return build_scene(distance, picture if normals is None else picture | {"normal": normals}, options)


def share_open(scene: Scene) -> float:
    return 1 - covered(scene.geometry.positions, scene.geometry.faces)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["true", *SETTINGS])
def test_the_viewer_sees_the_whole_panorama(room: Room, how: str, mapped: bool) -> None:
    distance, normals = room.distance, room.normal
    if how != "true":
        distance, normals = degraded(distance, normals, SETTINGS[how], seed=1)
    assert share_open(made(distance, normals if mapped else None)) < 0.002


def test_what_has_no_depth_stays_open_and_nothing_else() -> None:
    distance, _, seen = with_box(HEIGHT)
    holes = np.where(seen, 0.0, distance)
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, HEIGHT + 1))
    want = float((seen.mean(axis=1) * (edges[:-1] - edges[1:])).sum() / 2)
    assert abs(share_open(made(holes, None)) - want) < 0.002


@pytest.mark.parametrize("blur", [1.0, 2.0, 4.0])
def test_a_soft_edge_becomes_a_step(blur: float) -> None:
    """A panel 2 m ahead of a wall at 8 m: hardly a vertex may lie between the two."""
    distance, normals, _ = with_box(256)
    how = Degradation(blur=blur, drift=0, grain=0, levels=0, far=1, normal_blur=blur, normal_error=0)
    soft, normals = degraded(distance, normals, how)
    positions = made(soft, None).geometry.positions * distance.max()
    ahead = (np.abs(positions[:, 0]) < 1.2) & (np.abs(positions[:, 1]) < 0.5) & (positions[:, 2] < -2.2)
    assert not (positions[ahead][:, 2] > -7.0).any()


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("steps", ["8 bits", "bfloat16"])
def test_steps_of_quantisation_are_no_edges(steps: str, mapped: bool) -> None:
    distance, normals = street(256)
    relative = np.minimum(distance / 40, 1.0)
    if steps == "8 bits":
        relative = np.maximum(np.round(relative * 255), 1) / 255
    else:
        relative = torch.from_numpy(relative).bfloat16().double().numpy()
    assert "Cuts: 0.00% of the solid angle lies beside a cut" in made(relative, normals if mapped else None).report


def turned(normals: Array, degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return normals @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T


@pytest.mark.parametrize("degrees", [-90, 10, 47.5, 180])
def test_normals_are_turned_into_the_frame_of_the_depth(room: Room, degrees: float) -> None:
    straight = made(room.distance, room.normal)
    scene = made(room.distance, turned(room.normal, degrees))
    told = float(scene.report.split("Normals: turned by ")[1].split(" ")[0])
    assert abs((told + degrees + 180) % 360 - 180) < 1 or abs((told - degrees + 180) % 360 - 180) < 1
    assert "not turned" in straight.report
    cosine = (straight.geometry.normals[:, None] * scene.geometry.normals[None, :1]).sum(-1)
    assert cosine.max() > 0.999


def as_picture(normals: Array) -> torch.Tensor:
    return torch.from_numpy(normals * 0.5 + 0.5).float()[None]


def test_a_normal_map_for_other_tools_is_turned_alike(room: Room) -> None:
    depth, off = torch.from_numpy(room.distance)[None], turned(room.normal, 47.5)
    found = normals_in_frame(as_picture(off), depth)[0].numpy() * 2 - 1
    cosine = (found * room.normal).sum(axis=-1)
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < 1
    assert torch.allclose(normals_in_frame(as_picture(room.normal), depth), as_picture(room.normal), atol=1e-5)
    with pytest.raises(ValueError, match="The normals contradict the depth; they fit only as DirectX"):
        normals_in_frame(as_picture(room.normal * [1, -1, 1]), depth)
    with pytest.raises(ValueError, match="make size and batch equal"):
        normals_in_frame(as_picture(off), depth[:, :10])


def test_normals_of_a_degraded_room_are_turned_back(room: Room) -> None:
    distance, normals = degraded(room.distance, room.normal, HARSH, seed=1)
    assert abs(abs(float(made(distance, normals).report.split("Normals: turned by ")[1].split(" ")[0])) - 47) < 5


def in_camera_space(normals: Array) -> Array:
    """Return normals seen from the pixel: right, up, towards the viewer."""
    out = rays(len(normals))
    right = np.cross([0.0, 1.0, 0.0], out)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    axes = (right, np.cross(out, right), -out)
    return np.stack([(normals * axis).sum(-1) for axis in axes], axis=-1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n * [1, -1, 1], "DirectX"),
        (lambda n: -n, "inverted"),
        (lambda n: n * [1, 1, -1], "mirrored"),
        (in_camera_space, "disagree almost everywhere"),
        (lambda n: np.random.default_rng(0).normal(size=n.shape), "disagree almost everywhere"),
    ],
)
def test_normals_that_agree_nowhere_are_left_out(room: Room, change, words: str) -> None:
    scene = made(room.distance, change(room.normal))
    assert "the normal map was left out" in scene.report and words in scene.report
    assert np.array_equal(scene.geometry.positions, made(room.distance, None).geometry.positions)


def test_a_normal_that_turns_away_is_left_out(room: Room) -> None:
    """What is seen faces the viewer; a part of the map that says otherwise would be black in a lit scene."""
    wrong, (height, width) = room.normal.copy(), room.distance.shape
    part = np.s_[height // 3 : height // 2, width // 8 : width // 4]
    aslant = np.cross(wrong[part], [0.3, 0.5, 0.8])
    wrong[part] = aslant / np.linalg.norm(aslant, axis=-1, keepdims=True) * 0.8 - wrong[part] * 0.6
    maps = {"image": room.rgb, "albedo": room.albedo, "normal": wrong}
    texture = build_scene(room.distance, maps, RELATIVE).textures.normal
    assert texture is not None
    out = 2 * texture[part][..., 2] - 1
    away = (wrong[part] * rays(height)[part]).sum(axis=-1) > 0
    assert away.mean() > 0.3
    assert np.percentile(out[away], 10) > 0.9, "there the surface is as the mesh, without the map"


@pytest.mark.parametrize("change", [lambda d: d.max() + d.min() - d, lambda d: d.min() / d])
def test_depth_that_is_inside_out_is_told(room: Room, change) -> None:
    words = "farthest straight up and straight down"
    assert words in made(change(room.distance), None).report
    assert words not in made(room.distance, None).report
    assert words not in made(hall(HEIGHT)[0], None).report


def test_islands_do_not_survive() -> None:
    distance, normals = hall(HEIGHT)
    speckled = distance.copy()
    chance = np.random.default_rng(0)
    speckled[chance.integers(0, HEIGHT, 60), chance.integers(0, 2 * HEIGHT, 60)] *= 0.5
    scene = made(speckled, normals)
    length = np.linalg.norm(scene.geometry.positions, axis=1)[scene.geometry.faces]
    assert (length.max(axis=1) / length.min(axis=1)).max() < 1.5
    assert share_open(scene) < 0.002


def test_no_spike_goes_beyond_what_is_seen(room: Room) -> None:
    """In a soft edge, the plane beside a pixel may lead far away from everything that the map shows."""
    distance, _ = degraded(room.distance, room.normal, MILD, seed=1)
    assert np.linalg.norm(made(distance, None).geometry.positions, axis=1).max() < 1.1 * distance.max()


def test_the_same_seed_degrades_alike(room: Room) -> None:
    one, two, three = (degraded(room.distance, room.normal, HARSH, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two)) and not np.array_equal(one[0], three[0])
    tilt = dataclasses.replace(HARSH, turn=0.0, normal_blur=0.1)
    cosine = (degraded(room.distance, room.normal, tilt, 1)[1] * room.normal).sum(axis=-1)
    assert 5 < np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean() < 16


def with_window(far: float, half: float) -> tuple[Array, Array]:
    """Return the hall with a window ahead, so many degrees to each side, whose outside is cut off at a distance."""
    front, up, left = np.moveaxis(rays(HEIGHT), -1, 0)
    seen = (np.abs(np.degrees(np.arctan2(left, front))) < half) & (np.abs(np.degrees(np.arcsin(up))) < half)
    return np.where(seen, far, hall(HEIGHT)[0]), seen


def shows_sky(scene: Scene) -> bool:
    return b'"name":"sky"' in scene.glb


@pytest.mark.parametrize("soft", [False, True])
def test_a_bright_outside_that_is_cut_off_becomes_the_dome(soft: bool) -> None:
    distance, seen = with_window(hall(HEIGHT)[0].max() * 1.5, 20.0)
    if soft:
        how = dataclasses.replace(Degradation(), far=1.0, drift=0.0)
        distance, _ = degraded(distance, hall(HEIGHT)[1], how, seed=1)
    picture = {"image": np.where(seen, 0.95, 0.5)[..., None].repeat(3, axis=-1).astype(np.float32)}
    scene = build_scene(distance, picture, RELATIVE)
    assert shows_sky(scene) and "is cut off at the far end" in scene.report
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, HEIGHT + 1))
    want = float((seen.mean(axis=1) * (edges[:-1] - edges[1:])).sum() / 2)
    assert abs(share_open(scene) - want) < 0.1 * want
    without = build_scene(distance, picture, dataclasses.replace(RELATIVE, sky=False))
    assert share_open(without) < 0.002
    # As dark as the room it may be a wall.
    assert not shows_sky(made(distance, None))


def box(length: float) -> Array:
    """Return the distance in a corridor 3 m wide and high, its ends so far ahead and behind."""
    ray = np.abs(rays(HEIGHT))
    return 1 / np.maximum.reduce([ray[..., 0] / 1.5, ray[..., 1] / 1.5, ray[..., 2] / length])


@pytest.mark.parametrize("length", [3.0, 8.0, 20.0])
@pytest.mark.parametrize("levels", [0, 255])
def test_the_wall_at_a_far_end_is_no_outside(length: float, levels: int) -> None:
    distance = box(length) / box(length).max()
    if levels:
        distance = np.round(distance * levels) / levels
    end = distance > 0.9 * distance.max()
    picture = {"image": np.where(end, 0.95, 0.5)[..., None].repeat(3, axis=-1).astype(np.float32)}
    assert not shows_sky(build_scene(distance, picture, RELATIVE))
