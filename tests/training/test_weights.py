"""The loss leaves out or weights pixels: masks, pixels without a value, and the latitude."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix.evaluation.depth import ALIGNMENTS
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.training import data, engine, pictures, record
from comfyui_omnix.training.config import Config, TrainingError, plans
from comfyui_omnix.training.config import Stream as Folders
from comfyui_omnix.training.samples import Batch, draw
from made_up import TASK, base, config, latents

HEIGHT, WIDTH = 64, 128
CELLS = (HEIGHT // 8, WIDTH // 8)


def cells(known: np.ndarray) -> np.ndarray:
    """The smallest value of the pixels of each latent cell, by loops."""
    found = np.ones(CELLS)
    side = known.shape[0] // CELLS[0]
    for row, column in np.ndindex(*CELLS):
        found[row, column] = known[row * side : row * side + side, column * side : column * side + side].min()
    return found


def weight_of(path: Path, mask: Path | None = None, **changes: Any) -> np.ndarray:
    given = Config(size=f"{WIDTH}x{HEIGHT}", **changes)
    return pictures.learned(given, Folders(path.parent.name, (path.parent.name,)), [path], mask).weight.numpy()


def depth(factor: int = 1) -> np.ndarray:
    chance = np.random.default_rng(1)
    return chance.uniform(1, 4, (factor * HEIGHT, factor * WIDTH)).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan, 65504.0, 1e10, 1000.0])
@pytest.mark.parametrize("factor", [1, 2])
def test_depth_that_is_not_a_distance_is_left_out(tmp_path: Path, value: float, factor: int) -> None:
    """1000 is a far plane: many pixels share it, and it is much farther than all others."""
    metres, side = depth(factor), factor * 8
    holes = np.zeros_like(metres, dtype=bool)
    holes[:side, side * 2 : side * 5] = True
    holes[3 * side + 1, 5 * side - 1] = True  # a single pixel drops its cell, and only its cell
    metres[holes] = value
    layout.save(tmp_path / "depth" / "a.exr", metres)
    want = cells(~holes)
    assert (want == 0).sum() == 4
    np.testing.assert_array_equal(weight_of(tmp_path / "depth" / "a.exr"), want)
    assert weight_of(tmp_path / "depth" / "a.exr", learn_holes=True).all()


@pytest.mark.parametrize("stored", [0, 65535])
def test_depth_of_16_bits(tmp_path: Path, stored: int) -> None:
    millimetres = (depth() * 1000).astype(np.uint16)
    millimetres[20:30, 40:90] = stored
    layout.save(tmp_path / "depth" / "a.png", millimetres)
    known = (millimetres > 0) & (millimetres < 65535)
    np.testing.assert_array_equal(weight_of(tmp_path / "depth" / "a.png"), cells(known))


def test_a_folder_whose_white_is_the_farthest_is_a_depth_too(tmp_path: Path) -> None:
    metres = depth()
    metres[:16] = 0
    layout.save(tmp_path / "mine" / "a.exr", metres)
    np.testing.assert_array_equal(weight_of(tmp_path / "mine" / "a.exr", range=("mine=max",)), cells(metres > 0))


@pytest.mark.parametrize("name", ["a.png", "a.exr", "nan.exr"])
def test_normals_without_a_direction(tmp_path: Path, name: str) -> None:
    facing = np.broadcast_to(np.array([0, 0.6, 0.8], np.float32), (HEIGHT, WIDTH, 3)).copy()
    facing[30:40, 10:60] = np.nan
    if name == "nan.exr":
        layout.save(tmp_path / "normal" / name, facing)
    else:
        layout.write(tmp_path / "normal" / name, "normal", facing)
    known = ~np.isnan(facing[..., 0])
    np.testing.assert_array_equal(weight_of(tmp_path / "normal" / name), cells(known))


def test_a_mask_of_another_size_and_a_hole(tmp_path: Path) -> None:
    """Grey is a weight in between; a hole counts in addition to the mask."""
    metres = depth()
    metres[0, 0] = 0
    layout.save(tmp_path / "depth" / "a.exr", metres)
    grey = np.random.default_rng(2).choice([0, 51, 255], (2 * HEIGHT, 2 * WIDTH), p=[0.001, 0.01, 0.989])
    layout.save(tmp_path / "mask" / "a.png", grey.astype(np.uint8))
    want = cells(grey / 255)
    want[0, 0] = 0
    assert len(np.unique(want)) == 3
    found = weight_of(tmp_path / "depth" / "a.exr", tmp_path / "mask" / "a.png")
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint8), "no part of the picture can be learned"),
        (np.zeros((HEIGHT, HEIGHT), np.uint8), "twice as wide as high, got 64x64"),
        (np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3), "expected a grey mask"),
    ],
)
def test_masks_that_can_not_be_used(tmp_path: Path, pixels: np.ndarray, words: str) -> None:
    layout.save(tmp_path / "depth" / "a.exr", depth())
    layout.save(tmp_path / "mask" / "a.png", pixels)
    with pytest.raises(TrainingError, match=words):
        weight_of(tmp_path / "depth" / "a.exr", tmp_path / "mask" / "a.png")


@pytest.mark.parametrize("folder", ["mine", "depth", "semantic"])
def test_the_held_out_figures_count_what_is_learned(tmp_path: Path, folder: str) -> None:
    """A prediction that is right where the mask is white and wrong elsewhere has no error."""
    chance = np.random.default_rng(7)
    kept = np.zeros((HEIGHT, WIDTH), bool)
    kept[16:40, 24:96] = True
    grey = (255 * chance.choice([0.2, 0.6, 1.0], (HEIGHT, WIDTH))).astype(np.uint8)
    grey[0, 0] = 255
    if folder == "depth":
        layout.save(tmp_path / "depth" / "a.exr", grey / np.float32(255))
    else:
        layout.save(tmp_path / folder / "a.png", np.repeat(grey[..., None], 3, axis=-1))
    layout.save(tmp_path / "mask" / "a.png", kept.astype(np.uint8) * 255)
    layout.save(tmp_path / "rgb" / "a.png", np.repeat(grey[..., None], 3, axis=-1))
    given = Config(data=str(tmp_path), target=(folder,), mask="mask", size=f"{WIDTH}x{HEIGHT}")
    (plan,) = plans(given)
    sources = data.find(given, plan)
    true = torch.from_numpy(grey[..., None] / np.float32(255)).expand(-1, -1, 3)
    wrong = torch.where(torch.from_numpy(kept)[..., None], true, 1.2 - true)
    figures, all_wrong = (
        record.Watch(given, plan, sources, ("a",), None, tmp_path).measure([image])  # type: ignore[arg-type]
        for image in (wrong, 1.2 - true)
    )
    name, best = {"mine": ("mine psnr", 100), "depth": ("depth none abs_rel", 0), "semantic": ("semantic accuracy", 1)}[
        folder
    ]
    assert figures[name] == pytest.approx(best, abs=1e-5) and abs(all_wrong[name] - best) > 0.1


def test_a_black_pixel_of_a_sampled_depth_is_no_distance(tmp_path: Path) -> None:
    """As for omnix-evaluate: one such pixel made the figures of the disparity NaN, many made all of them NaN."""
    layout.save(tmp_path / "depth" / "a.exr", depth())
    layout.save(tmp_path / "rgb" / "a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    given = Config(data=str(tmp_path), target=("depth",), size=f"{WIDTH}x{HEIGHT}")
    (plan,) = plans(given)
    image = torch.from_numpy(depth()[..., None] / 4).expand(-1, -1, 3).clone()
    image[: HEIGHT * 3 // 4] = 0.0
    watch = record.Watch(given, plan, data.find(given, plan), ("a",), None, tmp_path)  # type: ignore[arg-type]
    figures = watch.measure([image])
    assert all(figures[f"depth {alignment} abs_rel"] < 1e-5 for alignment in ALIGNMENTS if alignment != "none")
    assert all(np.isfinite(value) for value in figures.values())


@pytest.mark.parametrize(("folder", "span"), [("depth", "1:5"), ("roughness", "0.2:0.6")])
def test_the_held_out_figures_undo_a_range(tmp_path: Path, folder: str, span: str) -> None:
    """What is trained is black at LOW and white at HIGH; the figures compared it with the file's own values."""
    low, high = map(float, span.split(":"))
    stored = (low + (high - low) * (depth() - 1) / 3).astype(np.float32)
    layout.write(tmp_path / folder / "a.exr", folder, stored)
    layout.save(tmp_path / "rgb" / "a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    given = Config(data=str(tmp_path), target=(folder,), range=(f"{folder}={span}",), size=f"{WIDTH}x{HEIGHT}")
    (plan,) = plans(given)
    image = pictures.picture(given, plan.streams[-1], [tmp_path / folder / "a.exr"])
    watch = record.Watch(given, plan, data.find(given, plan), ("a",), None, tmp_path)  # type: ignore[arg-type]
    figures = watch.measure([image])
    assert figures["depth none abs_rel"] < 1e-5 if folder == "depth" else figures["roughness psnr"] > 90


@pytest.mark.parametrize("latitude", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latitude: bool, masked: bool) -> None:
    """Against numpy in float64: rolled with the samples, continued past the seam, the poles by their cosine."""
    given, samples = config(latitude_weight=latitude, seam_columns=6), latents(height=8)
    weights = torch.rand(5, 1, 8, 16, generator=torch.Generator().manual_seed(4)).round(decimals=1)
    plain = samples.batch
    if masked:
        samples.batch = lambda indices, bare: plain(indices, bare)._replace(weights=weights[indices])  # type: ignore
    answer = torch.randn(2, 16, 8, 22, generator=torch.Generator().manual_seed(5), requires_grad=True)
    monkeypatch.setattr(engine, "predict", lambda *_args, **_named: answer)
    run = engine._Run(given, TASK, base(), samples, tmp_path)
    loss = run.one_batch(3)

    chance = draw(given, 3, 5, (8, 16))
    total = np.zeros(2)
    for number, (index, roll) in enumerate(zip(chance.indices, chance.rolls)):
        clean = np.roll(plain([index], [False]).latents[-1][0].double().numpy(), roll, -1)
        errors = answer[number].detach().double().numpy() - wide(chance.noise[number].double().numpy() - clean)
        weight = np.roll(weights[index, 0].double().numpy(), roll, -1) if masked else np.ones((8, 16))
        for row in range(8 if latitude else 0):
            weight[row] *= np.cos(np.deg2rad(90 - 180 * (row + 0.5) / 8))
        total += [(errors**2 * wide(weight)).sum(), wide(weight).sum() * 16]
    assert chance.rolls[0] and loss == pytest.approx(total[0] / total[1], rel=1e-5)
    assert Batch(*plain([0], [False])[:3]).weights is None


def wide(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values[..., :6]], axis=-1)
