"""The node Compare Maps: batches, alignments, painted labels, its errors, and a run on a real server."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.evaluation.metrics import FIGURES
from comfyui_omnix.evaluation.views import NONE
from comfyui_omnix.lab.host.server import GraphError, Server
from comfyui_omnix.mapfiles.trees import MEASURED
from map_trees import COLOURS, maps
from PIL import Image


def compare(prediction: Any, truth: Any, kind: str, **options: Any) -> tuple[torch.Tensor, str]:
    ours, true = (torch.as_tensor(np.asarray(images), dtype=torch.float32) for images in (prediction, truth))
    error, figures = nodes.OmniXCompareMaps.execute(ours, true, kind, **options).result
    return error, figures


def grey(values: Any) -> Any:
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def test_its_lists_are_the_tables_of_evaluation() -> None:
    schema = nodes.OmniXCompareMaps.GET_SCHEMA()
    assert {each.id: each for each in schema.inputs}["kind"].options == list(MEASURED) == list(FIGURES)


def test_a_relative_depth_is_right_after_alignment() -> None:
    truth = np.clip(maps(0)["depth"] / 10, 0.1, 1)[None]
    error, figures = compare(grey(truth / 2), grey(truth), "depth")
    assert error.shape == (1, 16, 32, 3) and error.dtype == torch.float32 and float(error.max()) < 1e-5
    rows = {line[:26].strip(): line[26:].split() for line in figures.splitlines() if "unweighted" in line}
    assert float(rows["none"][1]) == 0.5 and float(rows["scale by median"][1]) < 1e-6
    drawn, _ = compare(grey(truth / 2), grey(truth), "depth", alignment="none")
    assert torch.equal(drawn, torch.ones_like(drawn)), "half of the depth off is white"


def test_the_error_of_normals_is_black_to_white_over_a_right_angle() -> None:
    up = np.tile([0.5, 1.0, 0.5], (1, 4, 8, 1))
    turned = up.copy()
    turned[0, 0, 0], turned[0, 0, 1], turned[0, 0, 2] = [1.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.5]
    error, figures = compare(turned, up, "normal")
    assert torch.allclose(error[0, 0, 0], torch.ones(3), atol=1e-5) and error[0, 0, 1].tolist() == [1, 1, 1]
    assert torch.allclose(error[0, 0, 2], torch.tensor(NONE)) and not error[0, 1:].any()
    assert "31 pixels, 1 invalid left out" in figures and "white 90 degrees" in figures


def test_batches_pair_up_or_share_one_truth() -> None:
    albedo = np.stack([maps(seed)["albedo"] for seed in range(3)])
    error, figures = compare(albedo, albedo[:1], "albedo")
    assert error.shape[0] == 3 and not error[0].any() and error[1].any() and "1536 pixels" in figures
    assert not compare(albedo, albedo, "albedo")[0].any()
    with pytest.raises(ValueError, match="3 predictions have 2 truths"):
        compare(albedo, albedo[:2], "albedo")


@pytest.mark.parametrize("value", [math.inf, 1e10, 65504.0, 1000.0])
def test_a_depth_as_renderers_write_it_has_no_distance_in_the_sky(value: float) -> None:
    truth = np.clip(maps(0)["depth"], 1, 9)[None].copy()
    predicted = truth + 0.5
    truth[0, :2] = value
    error, figures = compare(grey(predicted), grey(truth), "depth", alignment="none")
    row = next(line for line in figures.splitlines() if line.startswith("none") and "unweighted" in line)
    assert float(row.split()[3]) == pytest.approx(0.5, abs=1e-4) and "64 true ones" in figures
    assert torch.allclose(error[0, :2], torch.tensor(NONE)) and ("Careful: many pixels" in figures) == (value == 1000)


def test_painted_semantics_take_the_nearest_colour() -> None:
    rng = np.random.default_rng(0)
    truth = COLOURS[rng.integers(0, 3, (1, 32, 64))] / 255
    painted = np.clip(truth + rng.uniform(-0.05, 0.05, truth.shape), 0, 1)
    painted[0, 0, 0] = 1 - truth[0, 0, 0]
    error, figures = compare(painted, truth, "semantic")
    assert error[0].reshape(-1, 3)[1:].sum() == 0 and f"{2047 / 2048:.4g}" in figures


def test_a_picture_that_is_no_whole_panorama_is_said_so() -> None:
    whole, part = (
        compare(grey(np.full((1, 8, width), 0.5)), grey(np.full((1, 8, width), 0.4)), "metallic")[1]
        for width in (16, 12)
    )
    assert "Careful" not in whole and "Careful: the size is not 2:1" in part


def test_what_it_refuses() -> None:
    depth, albedo = grey(np.full((1, 4, 8), 0.5)), maps(0)["albedo"][None]
    with pytest.raises(ValueError, match="the prediction is 8x4 but the truth is 32x16"):
        compare(depth, albedo, "albedo")
    with pytest.raises(ValueError, match="The channels of the roughness picture differ"):
        compare(albedo, albedo, "roughness")
    with pytest.raises(ValueError, match="The depth picture contains NaN or infinity"):
        compare(depth * math.nan, depth, "depth")


def test_inputs_stay_as_they_are() -> None:
    truth = torch.rand(1, 8, 16, 3)
    before = truth.clone()
    nodes.OmniXCompareMaps.execute(truth, truth, "normal")
    assert torch.equal(truth, before)


@pytest.mark.server
def test_it_runs_in_a_graph(server: Server, tmp_path: Path) -> None:
    for name, seed in (("predicted.png", 0), ("true.png", 1)):
        Image.fromarray((maps(seed)["albedo"] * 255).astype(np.uint8)).save(tmp_path / name)
        server.upload(tmp_path / name)
    graph = {
        "predicted": {"class_type": "LoadImage", "inputs": {"image": "predicted.png"}},
        "true": {"class_type": "LoadImage", "inputs": {"image": "true.png"}},
        "compared": {
            "class_type": "OmniXCompareMaps",
            "inputs": {"prediction": ["predicted", 0], "truth": ["true", 0], "kind": "albedo"},
        },
        "error": {"class_type": "SaveImage", "inputs": {"images": ["compared", 0], "filename_prefix": "error"}},
        "figures": {"class_type": "PreviewAny", "inputs": {"source": ["compared", 1]}},
    }
    result = server.run(graph)
    assert "PSNR" in result.outputs["figures"]["text"][0] and "512 pixels" in result.outputs["figures"]["text"][0]
    assert len(server.images(result, "error")) == 1
    graph["compared"]["inputs"]["kind"] = "metallic"
    with pytest.raises(GraphError, match="The channels of the metallic picture differ"):
        server.run(graph)
