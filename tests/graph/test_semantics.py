"""OmniX Semantic: masks by name, no names for unknown colours, and a legend; against numpy and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.omnix.pictures import semantics

# As measured in two maps of OmniX's real weights; they are the colours of ScanNet's tools for NYUv2's classes.
COLOURS = {
    "floor": (152, 223, 138),
    "wall": (174, 199, 232),
    "ceiling": (78, 71, 183),
    "curtain": (219, 219, 141),
    "door": (214, 39, 40),
    "window": (197, 176, 213),
}
# Furniture of the same two maps (sofa, refrigerator, rug, shelf, chair, table, another sofa, television).
FURNITURE = [
    *((252, 180, 140), (228, 92, 12), (116, 68, 68), (44, 148, 196)),
    *((236, 148, 180), (252, 164, 140), (236, 172, 180), (188, 172, 156)),
]
NAMES = [*COLOURS, "unclear"]


def run(image: Any, **options: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    *masks, legend = nodes.OmniXSemantic.execute(
        torch.as_tensor(np.asarray(image), dtype=torch.float32), **options
    ).args
    outputs = [output.display_name for output in nodes.OmniXSemantic.GET_SCHEMA().outputs]
    assert outputs == [*NAMES, "legend"]
    return dict(zip(NAMES, masks)), legend


def test_each_known_colour_is_its_class_and_furniture_is_unclear() -> None:
    image = np.array([[*COLOURS.values(), *FURNITURE, (0, 0, 0), (255, 255, 255)]])[None] / 255
    masks, _ = run(image)
    for number, name in enumerate(COLOURS):
        assert masks[name].flatten().tolist() == [float(i == number) for i in range(16)]
    assert masks["unclear"].flatten().tolist() == [0.0] * 6 + [1.0] * 10


@pytest.mark.parametrize("tolerance", [0.0, 12.0, 24.0, 60.0, 442.0])
def test_masks_are_the_nearest_within_the_tolerance(tolerance: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 32, 3))
    image[:, :8] = np.array([*COLOURS.values()])[rng.integers(0, 6, (2, 8, 32))] + rng.integers(-15, 16, (2, 8, 32, 3))
    image = image.clip(0, 255)
    masks, _ = run(image / 255, tolerance=tolerance)
    apart = np.sqrt(((image[..., None, :] - np.array([*COLOURS.values()])) ** 2).sum(axis=-1))
    for number, name in enumerate(COLOURS):
        wanted = (apart.argmin(axis=-1) == number) & (apart.min(axis=-1) <= tolerance)
        clear = np.abs(apart.min(axis=-1) - tolerance) > 1e-3  # float32 may round to either side of the border
        assert (masks[name].numpy() == wanted)[clear].all()
    assert torch.equal(sum(masks.values()), torch.ones(2, 16, 32))


def test_the_legend_shows_names_colours_and_shares() -> None:
    image = np.empty((1, 64, 128, 3))
    image[:, :48], image[:, 48:] = np.array(COLOURS["floor"]) / 255, np.array(COLOURS["door"]) / 255
    _, legend = run(image)
    assert legend.shape[0] == 1 and legend.shape[-1] == 3 and legend.shape[2] > 1000
    shown = {tuple(colour) for colour in (legend[0].reshape(-1, 3) * 255).round().int().tolist()}
    assert set(COLOURS.values()) <= shown


def test_a_batch_has_a_legend_for_each_and_an_empty_picture_is_refused() -> None:
    masks, legend = run(np.random.default_rng(0).uniform(0, 1, (3, 8, 16, 4)))
    assert legend.shape[0] == 3 and masks["wall"].shape == (3, 8, 16)
    with pytest.raises(ValueError, match="OmniX reads semantics from an image"):
        run(np.zeros((1, 8, 16, 1)))


def test_no_class_is_named_without_evidence() -> None:
    assert list(semantics.EVIDENCE) == list(COLOURS) and tuple(NAMES) == semantics.NAMES
    for found in semantics.EVIDENCE.values():
        seen = [each for each in found if each is not None]
        assert seen and all(0 < share < 1 and distance < semantics.TOLERANCE for share, distance in seen)
