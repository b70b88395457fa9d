"""The view that the viewer stores is checked when it is read, and cut out of the right map."""

import json

import pytest
import torch
from comfyui_omnix.omnix.pictures.view import View, cut_out, read_view


def test_empty_is_the_front() -> None:
    assert read_view(" ") == View()


def test_every_field_is_read() -> None:
    fields = {"yaw": 30, "pitch": -10.5, "fov": 75, "map": "depth", "batch": 2, "aspect": 2}
    assert read_view(json.dumps(fields)) == View(30.0, -10.5, 75.0, "depth", 2, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        '{"yaw": "a"}',
        '{"fov": 0}',
        '{"fov": NaN}',
        '{"aspect": 1e9}',
        '{"batch": Infinity}',
        "[" * 99999,
    ],
)
def test_anything_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^The view .*\. Clear the field\.$"):
        read_view(text)


def test_cut_out_of_the_chosen_map() -> None:
    maps = {"image": torch.zeros(1, 8, 16, 3), "depth": torch.stack([torch.full((8, 16, 3), x) for x in (0.25, 0.75)])}
    view = cut_out(maps, View(map="depth", batch=1, aspect=2.0), 64)
    assert view.shape == (1, 32, 64, 3)
    assert torch.allclose(view, torch.tensor(0.75))


def test_map_that_is_gone_is_the_first() -> None:
    assert cut_out({"image": torch.ones(1, 8, 16, 3)}, View(map="normal", batch=9), 32).mean() == 1
