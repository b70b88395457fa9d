"""The contact sheet: every picture is complete and under its own label, at any size."""

import pytest
import torch
from comfyui_omnix.omnix.pictures.sheet import PAPER, contact_sheet
from hypothesis import given, settings
from hypothesis import strategies as st

COLOURS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0)]


def flat(colour: tuple[float, float, float], height: int = 64, width: int = 128, batch: int = 1) -> torch.Tensor:
    return torch.tensor(colour).expand(batch, height, width, 3).clone()


def area(sheet: torch.Tensor, colour: tuple[float, float, float]) -> tuple[int, int, int, int]:
    """First row, last row, first column, last column of a colour; it must fill that rectangle wholly."""
    found = ((sheet[0] - torch.tensor(colour)).abs() < 1e-5).all(dim=-1)
    rows, columns = found.nonzero(as_tuple=True)
    top, bottom, left, right = (int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max()))
    assert bool(found[top : bottom + 1, left : right + 1].all())
    return top, bottom, left, right


def inked(sheet: torch.Tensor, top: int, bottom: int, left: int, right: int) -> bool:
    return bool((sheet[0, top:bottom, left:right] - torch.tensor(PAPER) > 0.3).any())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(64, 300))
def test_every_picture_has_its_place_and_its_label(count: int, columns: int, tile_width: int) -> None:
    sheet = contact_sheet([(f"map {k}", flat(COLOURS[k])) for k in range(count)], columns, tile_width)
    places = [area(sheet, COLOURS[k]) for k in range(count)]
    for k, (top, bottom, left, right) in enumerate(places):
        assert right - left + 1 == tile_width
        assert abs(bottom - top + 1 - tile_width / 2) <= 1
        assert inked(sheet, max(0, top - 20), top, left, right + 1)
        across = min(columns, count)
        assert (left == places[k % across][2]) and (top == places[k - k % across][0])
    assert sheet.shape[2] > places[-1][3] and sheet.shape[1] > places[-1][1]


def test_pictures_keep_their_proportions_and_values() -> None:
    gradient = torch.linspace(0, 1, 256).view(1, 1, 256, 1).expand(1, 256, 256, 3)
    sheet = contact_sheet([("square", gradient), ("panorama", flat((1.0, 0.0, 0.0)))], 2, 256)
    top, bottom, left, _ = area(sheet, (1.0, 0.0, 0.0))
    assert bottom - top + 1 == 128
    square = sheet[0, top : top + 256, left - 256 - 8 : left - 8]
    assert torch.allclose(square, gradient[0], atol=1e-6)


def test_one_channel_and_alpha_are_taken() -> None:
    grey = torch.full((1, 64, 128, 1), 0.5)
    clear = torch.cat([flat((0.0, 1.0, 0.0)), torch.zeros(1, 64, 128, 1)], dim=-1)
    sheet = contact_sheet([("mask", grey), ("alpha", clear)], 2, 128)
    area(sheet, (0.5, 0.5, 0.5))
    area(sheet, (0.0, 1.0, 0.0))


def test_values_beyond_the_range_are_clipped_on_the_sheet_only() -> None:
    bright = flat((3.0, -1.0, 0.0))
    area(contact_sheet([("bright", bright)], 1, 128), (1.0, 0.0, 0.0))
    assert float(bright.max()) == 3.0


def test_a_batch_gives_a_sheet_for_each_and_a_single_picture_is_on_all() -> None:
    pictures = torch.cat([flat(COLOURS[k]) for k in range(3)])
    sheets = contact_sheet([("many", pictures), ("one", flat((0.0, 1.0, 1.0)))], 2, 128)
    assert sheets.shape[0] == 3
    for k in range(3):
        area(sheets[k : k + 1], COLOURS[k])
        area(sheets[k : k + 1], (0.0, 1.0, 1.0))


def test_a_note_is_set_below_and_wraps() -> None:
    plain = contact_sheet([("map", flat((1.0, 0.0, 0.0)))], 1, 256)
    short = contact_sheet([("map", flat((1.0, 0.0, 0.0)))], 1, 256, note="Random weights.")
    long = contact_sheet([("map", flat((1.0, 0.0, 0.0)))], 1, 256, note="Random weights give meaningless maps. " * 5)
    assert plain.shape[1] < short.shape[1] < long.shape[1]
    assert inked(long, long.shape[1] - 40, long.shape[1], 0, long.shape[2])
    assert plain.shape[2] == long.shape[2]


def test_long_labels_wrap_and_leave_pictures_in_line() -> None:
    pictures = [("a label that is far too long for its tile, " * 3, flat(COLOURS[0])), ("b", flat(COLOURS[1]))]
    sheet = contact_sheet(pictures, 2, 128)
    left, right = area(sheet, COLOURS[0]), area(sheet, COLOURS[1])
    assert left[:2] == right[:2]
    assert not inked(sheet, 0, right[0] - 20, right[2], right[3] + 1)


def test_wrong_calls_are_answered() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="depth: expected an image"):
        contact_sheet([("depth", torch.rand(1, 8, 16))])
    with pytest.raises(ValueError, match="batches of 2 and 3"):
        contact_sheet([("a", flat(COLOURS[0], batch=2)), ("b", flat(COLOURS[0], batch=3))])
    with pytest.raises(ValueError, match="at least 1 column"):
        contact_sheet([("a", flat(COLOURS[0]))], columns=0)
