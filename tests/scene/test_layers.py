"""The things in front, what is put behind them, and the objects as nodes: on rendered rooms whose truth is known."""

import io
import json
import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from comfyui_omnix.graph.layers import OmniXBackgroundLayer, OmniXForeground
from comfyui_omnix.graph.scene import OmniXScene
from comfyui_omnix.lab.rooms.degraded import SETTINGS, degraded
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.lab.rooms.stage import STRUCTURE, emptied
from comfyui_omnix.mapfiles.nyu40 import CLASSES
from comfyui_omnix.omnix.scene.align import fit
from rays import Array, cast, hall, with_box

HEIGHT = 128
COLOURS = dict(CLASSES)


def rendered(stage: Any) -> Room:
    return render(2 * HEIGHT, HEIGHT, stage=stage, quality=FAST)


@pytest.fixture(scope="module")
def room() -> Room:
    return rendered(random_room(2))


@pytest.fixture(scope="module")
def empty() -> Room:
    return rendered(emptied(random_room(2)))


def batch(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()[None]


def labelled(room: Room, *labels: str) -> Array:
    return np.isin(np.array(room.labels)[room.semantic], labels)


def painted(room: Room) -> torch.Tensor:
    """Return a semantic map in the colours of the table, grey where it has no such name."""
    known = [COLOURS.get(label, (128, 128, 128)) for label in room.labels]
    return batch(np.array(known)[room.semantic] / 255)


def foreground(room: Room, **more: Any) -> tuple[Array, Array, str]:
    made = OmniXForeground.execute(**{"image": batch(room.rgb), "depth": batch(room.distance), "grow": 0, **more})
    panorama, mask, report = made.args
    return panorama[0].numpy(), mask[0].numpy() > 0.5, report


def node_names(glb: bytes) -> list[str]:
    return [node["name"] for node in document(glb)["nodes"]]


def document(glb: bytes) -> dict[str, Any]:
    return json.loads(glb[20 : 20 + struct.unpack("<I", glb[12:16])[0]])


def made(room: Room, **more: Any) -> SimpleNamespace:
    given = {"image": batch(room.rgb), "depth": batch(room.distance), "camera_height": 0.0, "objects": True, **more}
    files, _, reports = OmniXScene.execute(**given).args
    return SimpleNamespace(glb=files[0].get_bytes(), report=reports[0])


@pytest.mark.parametrize("how", ["true", *SETTINGS])
@pytest.mark.parametrize("seed", [1, 2, 8])
def test_furniture_is_masked_and_the_room_is_not(seed: int, how: str) -> None:
    room = rendered(random_room(seed))
    if how != "true":
        distance, normal = degraded(room.distance, room.normal, SETTINGS[how], seed=1)
        room = replace(room, distance=distance, normal=normal)
    furniture = ~labelled(room, *STRUCTURE, "rug", "picture", "mirror")
    for more in ({}, {"normal": batch(room.normal) * 0.5 + 0.5}, {"semantic": painted(room)}):
        _, mask, _ = foreground(room, **more)
        assert mask[furniture].mean() > 0.5
        for part in ("floor", "ceiling", "wall"):
            assert mask[labelled(room, part)].mean() < 0.1
        if "semantic" in more:
            assert not mask[labelled(room, *STRUCTURE) & ~labelled(room, "outside", "trim")].any()


@pytest.mark.parametrize("seed", [3, 11, 14])
def test_no_wall_is_masked_as_a_whole_under_the_sky_either(seed: int) -> None:
    room = rendered(random_room(seed))
    _, mask, _ = foreground(room)
    assert mask[labelled(room, "wall")].mean() < 0.3 and mask[labelled(room, "floor")].mean() < 0.05


def test_the_grey_is_that_of_the_reference_and_nothing_else_changes(room: Room) -> None:
    panorama, mask, report = foreground(room)
    assert mask.any() and np.array_equal(panorama[~mask], room.rgb[~mask])
    assert np.all(panorama[mask] == np.float32(127.5 / 255))
    assert f"{mask.mean():.1%} of the pixels are masked" in report


@pytest.mark.parametrize("pixels", [1, 5, 12])
def test_the_mask_grows_by_so_many_pixels_round_the_seam(room: Room, pixels: int) -> None:
    turned = replace(room, rgb=room.rgb, distance=np.roll(room.distance, 20, axis=1))
    _, plain, _ = foreground(turned)
    _, grown, _ = foreground(turned, grow=pixels)
    rows, columns = np.nonzero(plain)
    want = np.zeros_like(plain)
    for down in range(-pixels, pixels + 1):
        for right in range(-pixels, pixels + 1):
            if down * down + right * right <= pixels * pixels:
                inside = (rows + down >= 0) & (rows + down < HEIGHT)
                want[rows[inside] + down, (columns[inside] + right) % (2 * HEIGHT)] = True
    assert np.array_equal(grown, want)


def test_an_empty_room_has_an_empty_mask() -> None:
    distance, _ = hall(64)
    made = OmniXForeground.execute(image=torch.rand(1, 64, 128, 3), depth=batch(distance))
    assert not made.args[1].any() and "so the mask is empty" in made.args[2]


def test_a_batch_has_a_mask_for_each() -> None:
    plain, boxed = hall(64)[0], with_box(64)[0]
    depth = torch.cat([batch(plain), batch(boxed)])
    _, mask, report = OmniXForeground.execute(image=torch.rand(2, 64, 128, 3), depth=depth, grow=0).args
    panel, found = with_box(64)[2], mask[1].numpy() > 0.5
    assert not mask[0].any() and (found & panel).sum() > 0.9 * (found | panel).sum()
    assert len(report.splitlines()) == 2


def layer_of(room: Room, empty: Room, hidden: Array, **more: Any) -> tuple[Any, Array, str]:
    depth = batch((empty.distance - 0.3) / 7)
    given = {"image": batch(empty.rgb), "depth": depth, "first_depth": batch(room.distance), "mask": batch(hidden)}
    layers, aligned, report = OmniXBackgroundLayer.execute(**{**given, **more}).args
    return layers, aligned[0].numpy(), report


def test_a_second_depth_is_aligned_by_what_both_see(room: Room, empty: Room) -> None:
    _, mask, _ = foreground(room)
    _, aligned, report = layer_of(room, empty, mask)
    assert np.allclose(aligned, empty.distance, rtol=0.01)
    assert "its depth times 7 +0.3 fits" in report


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.45])
@pytest.mark.parametrize("grain", [0.0, 0.03])
def test_outliers_do_not_move_the_fit(room: Room, wrong: float, grain: float) -> None:
    chance = np.random.default_rng(0)
    second = (room.distance - 0.2) / 5 * (1 + grain * chance.normal(size=room.distance.shape))
    lost = chance.random(second.shape) < wrong
    second[lost] = chance.uniform(0.01, 1, lost.sum())
    found = fit(room.distance, second, np.ones(second.shape, dtype=bool))
    aligned = found.scale * (room.distance - 0.2) / 5 + found.shift
    assert np.abs(aligned / room.distance - 1).max() < 0.005 + 0.5 * grain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.max() + 0.1 - d, "is inverted"),
        (lambda d: 1 / d, "is inverted|does not fit the first"),
        (lambda d: np.roll(d, HEIGHT, axis=1), "does not fit the first"),
        (lambda d: np.random.default_rng(0).uniform(0.1, 1, d.shape), "does not fit the first"),
        (lambda d: np.full_like(d, 0.5), "is 0.5 everywhere"),
        (lambda d: d * 0, "is 0 everywhere"),
        (lambda d: d * np.nan, "NaN or infinite"),
    ],
)
def test_a_second_depth_that_does_not_fit_is_refused(room: Room, change: Any, words: str) -> None:
    mask = np.zeros(room.distance.shape)
    with pytest.raises(ValueError, match=words):
        layer_of(room, replace(room, distance=7 * change(room.distance) + 0.3), mask)


def test_it_can_be_left_out_instead_and_the_report_says_so(room: Room, empty: Room) -> None:
    _, mask, _ = foreground(room)
    noise = replace(empty, distance=np.random.default_rng(0).uniform(1, 5, empty.distance.shape))
    layers, _, report = layer_of(room, noise, mask, if_different="leave it out")
    assert report.startswith("Background layer: left out. The second depth does not fit")
    scene, plain = made(room, background_layer=layers), made(room)
    assert scene.glb == plain.glb and report in scene.report


def test_a_mask_that_covers_all_is_refused_and_an_empty_one_adds_nothing(room: Room, empty: Room) -> None:
    with pytest.raises(ValueError, match=r"0\.0% of the sphere in common"):
        layer_of(room, empty, np.ones(room.distance.shape))
    layers, _, _ = layer_of(room, room, np.zeros(room.distance.shape))
    assert made(room, background_layer=layers).glb == made(room).glb


@pytest.mark.parametrize("change", [lambda given: given[:, ::2, ::2], lambda given: torch.cat([given, given])])
@pytest.mark.parametrize("name", ["image", "depth", "first_depth", "mask", "albedo"])
def test_layers_of_other_sizes_and_batches_are_refused(room: Room, empty: Room, name: str, change: Any) -> None:
    mask = np.zeros(room.distance.shape)
    given = {"image": empty.rgb, "albedo": empty.albedo, "mask": mask}.get(name, room.distance)
    with pytest.raises(ValueError, match="make size and batch equal"):
        layer_of(room, empty, mask, **{name: change(batch(given))})


@pytest.mark.parametrize("name", ["image", "normal", "semantic"])
def test_maps_of_other_sizes_and_batches_have_no_mask(room: Room, name: str) -> None:
    given = batch(room.rgb)
    for wrong in (given[:, ::2, ::2], torch.cat([given, given])):
        with pytest.raises(ValueError, match=f"The {name} is .* but the depth is .*; make size and batch equal"):
            foreground(room, **{name: wrong})


def test_a_layer_of_another_scene_is_refused(room: Room, empty: Room) -> None:
    layers, _, _ = layer_of(room, empty, foreground(room)[1])
    half = {"image": batch(room.rgb[::2, ::2]), "depth": batch(room.distance[::2, ::2])}
    for wrong in ({**half, "background_layer": layers}, {"background_layer": [*layers, *layers]}):
        with pytest.raises(ValueError, match="The background layer is 256x128"):
            made(room, **wrong)


def test_a_batch_has_a_layer_and_a_file_for_each(room: Room, empty: Room) -> None:
    """Two panoramas, the second turned, with the empty room behind each: as each of them alone."""

    def both(values: Array) -> torch.Tensor:
        return torch.cat([batch(values), batch(np.roll(values, 40, axis=1))])

    mask = both(foreground(room)[1])
    first, second = {"image": both(room.rgb), "depth": both(room.distance)}, both((empty.distance - 0.3) / 7)
    layers, _, report = OmniXBackgroundLayer.execute(
        image=both(empty.rgb), depth=second, first_depth=first["depth"], mask=mask
    ).args
    files, _, reports = OmniXScene.execute(**first, background_layer=layers, camera_height=0.0, objects=True).args
    alone = OmniXScene.execute(
        **{name: values[1:] for name, values in first.items()},
        background_layer=layers[1:],
        camera_height=0.0,
        objects=True,
    ).args
    assert files[0].get_bytes() == made(room, background_layer=layers[:1]).glb
    assert files[1].get_bytes() == alone[0][0].get_bytes() != files[0].get_bytes()
    assert len(report.splitlines()) == len(reports) == 2


def test_behind_things_is_what_the_second_panorama_shows(room: Room, empty: Room) -> None:
    """From the viewer through what is masked, the background lies where the empty room's surface is."""
    _, mask, _ = foreground(room)
    layers, _, _ = layer_of(room, empty, mask)
    scene, plain = made(room, background_layer=layers), made(room)
    hidden = mask & (empty.distance > 1.1 * room.distance)
    rows, columns = (part[:: max(1, len(part) // 150)] for part in np.nonzero(hidden))
    rays = empty_rays()[rows, columns]
    off = {}
    for name, each in (("layer", scene), ("geometry", plain)):
        mesh = trimesh.load(io.BytesIO(each.glb), file_type="glb").geometry["background"]
        found = cast(np.asarray(mesh.vertices), np.asarray(mesh.faces), rays)
        off[name] = np.abs(np.where(np.isfinite(found), found, 1e9) / empty.distance[rows, columns] - 1)
    assert (off["layer"] < 0.05).mean() > 0.75
    assert (off["layer"] < 0.05).mean() > (off["geometry"] < 0.05).mean()
    assert "of the solid angle shows it" in scene.report


def empty_rays() -> Array:
    from comfyui_omnix.omnix.scene.frame import pixel_directions

    return pixel_directions(HEIGHT, 2 * HEIGHT)


def test_the_layer_changes_nothing_that_was_seen(room: Room, empty: Room) -> None:
    layers, _, _ = layer_of(room, empty, foreground(room)[1])
    before = room.distance.copy()
    scenes = [made(room, **more) for more in ({}, {"background_layer": layers}, {"background": False})]
    seen = [trimesh.load(io.BytesIO(each.glb), file_type="glb").geometry for each in scenes]
    for name, mesh in seen[0].items():
        if name != "background":
            assert all(np.array_equal(mesh.vertices, other[name].vertices) for other in seen[1:])
    assert "background" not in seen[2] and np.array_equal(room.distance, before)


def test_objects_are_nodes_with_the_triangles_of_the_whole(room: Room) -> None:
    apart = made(room, semantic=painted(room))
    whole = made(room, objects=False)
    names = [name for name in node_names(apart.glb) if name.startswith("object.")]
    assert len(names) > 2 and len(set(names)) == len(names)
    assert not any(name.startswith("object.") for name in node_names(whole.glb))
    pieces, one = (trimesh.load(io.BytesIO(each.glb), file_type="glb").geometry for each in (apart, whole))
    seen, every = ([mesh for name, mesh in each.items() if name != "background"] for each in (pieces, one))
    assert sum(len(mesh.faces) for mesh in seen) == sum(len(mesh.faces) for mesh in every)

    def triangles(meshes: list[Any]) -> Array:
        corners = np.concatenate(
            [np.concatenate([m.triangles, m.vertex_normals[m.faces]], axis=-1).reshape(-1, 18) for m in meshes]
        )
        return corners[np.lexsort(corners.T)]

    assert np.allclose(triangles(seen), triangles(every))
    materials = document(apart.glb)["materials"]
    assert [material["name"] for material in materials] == ["Panorama", "Panorama.thin", "object", "invented"]
    assert [material.pop("doubleSided", False) for material in materials] == [False, True, True, False]
    for one in materials[1:3]:
        assert {**one, "name": "Panorama"} == materials[0], "objects share the pictures of the room"
    assert all(name in apart.report for name in names)


@pytest.mark.parametrize(("width", "backs"), [(1, True), (3, True), (5, False)])
@pytest.mark.parametrize("upright", [True, False])
def test_the_back_of_a_thin_bar_is_drawn(width: int, backs: bool, upright: bool) -> None:
    distance, _ = hall(HEIGHT)
    bar = np.zeros_like(distance, dtype=bool)
    rows, columns = (slice(40, 90), slice(60, 60 + width)) if upright else (slice(60, 60 + width), slice(40, 90))
    bar[rows, columns] = True
    distance = np.where(bar, 0.5 * distance, distance)
    room = SimpleNamespace(rgb=np.full((*distance.shape, 3), 0.5), distance=distance)
    glb = made(room, objects=False).glb  # type: ignore[arg-type]
    materials = {each["name"]: each.get("doubleSided", False) for each in document(glb)["materials"]}
    assert materials == {"Panorama": False, "invented": False} | ({"Panorama.thin": True} if backs else {})
    if backs:
        meshes = trimesh.load(io.BytesIO(glb), file_type="glb").geometry.values()
        (found,) = [mesh for mesh in meshes if mesh.visual.material.name == "Panorama.thin"]
        across = found.visual.uv[np.unique(found.faces)] * [2 * HEIGHT, HEIGHT]
        along = across[:, 0] if upright else HEIGHT - across[:, 1]
        assert along.min() >= 59 and along.max() <= 61 + width


def test_an_object_has_the_name_of_its_colour() -> None:
    distance, _, seen = with_box(HEIGHT)
    shown = np.where(seen[..., None], COLOURS["chair"], COLOURS["wall"]) / 255
    room = SimpleNamespace(rgb=np.full((HEIGHT, 2 * HEIGHT, 3), 0.5), distance=distance)
    assert "object.chair.001" in node_names(made(room, semantic=batch(shown)).glb)  # type: ignore[arg-type]
    unknown = np.where(seen[..., None], (10, 10, 10), COLOURS["wall"]) / 255
    for more in ({"semantic": batch(unknown)}, {}):
        assert "object.001" in node_names(made(room, **more).glb)  # type: ignore[arg-type]


def test_small_things_stay_with_the_room(room: Room) -> None:
    assert len([n for n in node_names(made(room).glb) if n.startswith("object.")]) <= 40
