"""Colour views against their published anchors and the host's own turbo."""

import pytest
import torch
from comfyui_omnix.omnix.pictures import colour
from hypothesis import given
from hypothesis import strategies as st


def one(value: float, name: str) -> list[float]:
    return colour.colour_view(torch.tensor([[[value]]]), name)[0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("value", "hexadecimal"),
    [
        (0.0, "9e0142"),
        (0.1, "d53e4f"),
        (0.3, "fdae61"),
        (0.5, "ffffbf"),
        (0.7, "abdda4"),
        (0.9, "3288bd"),
        (1.0, "5e4fa2"),
    ],
)
def test_spectral_passes_through_the_published_colours(value: float, hexadecimal: str) -> None:
    expected = [int(hexadecimal[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    assert one(value, "Spectral") == pytest.approx(expected, abs=1e-5)


@given(st.floats(0.0, 1.0))
def test_spectral_is_straight_between_its_anchors(value: float) -> None:
    k = min(int(value * 10), 9)
    share = value * 10 - k
    expected = [(1 - share) * a / 255 + share * b / 255 for a, b in zip(colour.SPECTRAL[k], colour.SPECTRAL[k + 1])]
    assert one(value, "Spectral") == pytest.approx(expected, abs=1e-5)


@pytest.mark.since("0.22.0")
def test_turbo_is_the_hosts_turbo() -> None:
    from comfy.ldm.colormap import turbo

    values = torch.linspace(-0.2, 1.2, 1001).view(1, 1, -1)
    assert torch.allclose(colour.colour_view(values, "turbo"), turbo(values), atol=2e-5)


def test_grey_shows_the_value() -> None:
    values = torch.rand(2, 3, 4)
    assert torch.equal(colour.colour_view(values, "grey"), values[..., None].expand(2, 3, 4, 3))


@pytest.mark.parametrize("name", list(colour.COLOURS))
def test_views_are_pictures_and_leave_the_values_alone(name: str) -> None:
    values = torch.linspace(-1, 2, 64).view(1, 8, 8)
    before = values.clone()
    view = colour.colour_view(values, name)
    assert view.shape == (1, 8, 8, 3) and view.dtype == torch.float32
    assert float(view.min()) >= 0.0 and float(view.max()) <= 1.0
    assert torch.equal(values, before)
    assert torch.equal(view, colour.colour_view(values.clamp(0, 1), name))
    assert torch.allclose(colour.colour_view(values, name, invert=True), colour.colour_view(1 - values, name))


def test_half_precision_values_get_full_precision_colours() -> None:
    assert colour.colour_view(torch.rand(1, 4, 8).half(), "turbo").dtype == torch.float32


def test_an_unknown_colour_map_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'jet'; choose one of Spectral, turbo, grey"):
        colour.colour_view(torch.rand(1, 4, 8), "jet")
    with pytest.raises(ValueError, match="connect a mask"):
        colour.colour_view(torch.rand(1, 4, 8, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_colour(value: float) -> None:
    for name in colour.COLOURS:
        with pytest.raises(
            ValueError, match="contains NaN or infinite values, which have no colour; correct the map first"
        ):
            one(value, name)
