"""Depth values for "no surface" give no surfaces, in scenes and in MoGe's geometry; real distances are kept."""

from typing import Any

import pytest
import torch
from comfyui_omnix.omnix.pictures import distance, maps
from comfyui_omnix.omnix.scene import Options
from comfyui_omnix.omnix.scene.inputs import each_scene

HEIGHT = 32
ROOM = 2 + torch.rand(HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(0))
WINDOW = (slice(8, 16), slice(10, 30))
NOTHING = [0.0, -1.0, 1e10, 3.4e38, 65504.0, float("inf"), float("-inf"), 1000.0]


def with_window(value: float, room: torch.Tensor = ROOM) -> torch.Tensor:
    depth = room.clone()
    depth[WINDOW] = value
    return depth


@pytest.mark.parametrize("value", NOTHING)
def test_what_is_nothing(value: float) -> None:
    expected = torch.zeros(HEIGHT, 2 * HEIGHT, dtype=torch.bool)
    expected[WINDOW] = True
    assert torch.equal(distance.is_nothing(with_window(value)), expected)


@pytest.mark.parametrize(
    "depth",
    [
        ROOM,
        torch.full((HEIGHT, 2 * HEIGHT), 5.0),  # a sphere
        with_window(5.9),  # a far wall, all at one distance, but not twice as far
        with_window(1.0, ROOM * 0.1),  # relative depth: the farthest surface
        torch.where(torch.arange(2 * HEIGHT * HEIGHT).view(HEIGHT, -1) == 7, 100.0, ROOM),  # one pixel
        with_window(float("nan")),
    ],
)
def test_real_distances_stay(depth: torch.Tensor) -> None:
    assert not distance.is_nothing(depth).any()


def scene(depth: torch.Tensor) -> Any:
    image = torch.rand(1, HEIGHT, 2 * HEIGHT, 3, generator=torch.Generator().manual_seed(1))
    (made,) = each_scene({"image": image}, depth[None], None, Options(camera_height=0.0))
    return made


@pytest.mark.parametrize("value", NOTHING[1:])
def test_a_scene_leaves_it_open_and_says_so(value: float) -> None:
    made, zero = scene(with_window(value)), scene(with_window(0.0))
    assert abs(made.geometry.positions).max() < 6
    assert (made.geometry.positions == zero.geometry.positions).all()
    reported = f"Depth: 160 pixels have values that are not distances ({value:g}); they are left open."
    assert reported in made.report and "not distances" not in zero.report


def test_moge_geometry_leaves_it_out() -> None:
    image = torch.rand(1, HEIGHT, 2 * HEIGHT, 3)
    made = maps.moge_geometry(with_window(1e10)[None], image)
    assert torch.equal(made["mask"], maps.moge_geometry(with_window(0.0)[None], image)["mask"])
    assert not made["mask"][0][WINDOW].any() and made["mask"].sum() == ROOM.numel() - 160


@pytest.mark.parametrize("value", [*NOTHING, 5.9, 65503.0, 1e8])
def test_evaluation_keeps_the_same_rule(value: float) -> None:
    rule: Any = pytest.importorskip("comfyui_omnix.mapfiles.nothing")
    depth = with_window(value)
    stored = depth.numpy()
    plane, _ = rule.without_far_plane(
        torch.where(torch.from_numpy(rule.nothing_there(stored)), torch.nan, depth).numpy()
    )
    assert torch.equal(torch.from_numpy(plane).isnan(), distance.is_nothing(depth))
