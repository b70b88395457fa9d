"""The captured view: what the viewer's widget may hold, and which pixels come out."""

import json

import pytest
import torch
from comfyui_omnix.omnix.panorama import camera_rays, perspective_view
from comfyui_omnix.omnix.view import View, cut_view, read_view


def test_an_empty_widget_is_the_front_view() -> None:
    assert read_view("") == read_view(" {} ") == View()


def test_every_field_is_read() -> None:
    view = View(12.5, -30.0, 60.0, "depth", 2, 1.25)
    assert read_view(json.dumps(vars(view))) == view


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "must be JSON with"),
        ('{"roll": 1}', "must be JSON with aspect, batch, fov, map, pitch, yaw"),
        ('{"yaw": "left"}', "yaw must be a number from -180 to 180, got 'left'"),
        ('{"pitch": 91}', "pitch must be a number"),
        ('{"fov": NaN}', "fov must be a number"),
        ('{"fov": 180}', "fov must be a number"),
        ('{"aspect": 0}', "aspect must be a number"),
        ('{"map": 3}', "map must be the name"),
        ('{"batch": -1}', "batch must be a whole number"),
        ('{"batch": true}', "batch must be a whole number"),
    ],
)
def test_a_broken_widget_is_told_as_it_is(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_view(text)


def test_the_chosen_map_and_picture_are_cut() -> None:
    maps = {"image": torch.rand(1, 8, 16, 3), "depth": torch.rand(3, 8, 16, 1)}
    out = cut_view(maps, View(20.0, 10.0, 70.0, "depth", 2, 1.6), 32)
    assert out.shape == (1, 20, 32, 1)
    assert torch.equal(out, perspective_view(maps["depth"][2:], 32, 20, 70.0, 20.0, 10.0))


def test_a_map_or_picture_that_is_gone_is_named() -> None:
    maps = {"image": camera_rays(4, 8)[None]}
    with pytest.raises(ValueError, match='shows "normal", which is not connected'):
        cut_view(maps, View(map="normal"), 8)
    with pytest.raises(ValueError, match="shows picture 2, but there are 1"):
        cut_view(maps, View(batch=1), 8)
