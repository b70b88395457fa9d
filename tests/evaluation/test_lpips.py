"""LPIPS against its definition, with random weights of AlexNet and the package's own calibration."""

import json
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_omnix.mapfiles import layout
from map_trees import run
from torch import Tensor

# AlexNet's convolutions: channels out and in, kernel, stride, padding, whether a pooling comes before.
LAYERS = {
    "features.0": (64, 3, 11, 4, 2, False),
    "features.3": (192, 64, 5, 1, 2, True),
    "features.6": (384, 192, 3, 1, 1, True),
    "features.8": (256, 384, 3, 1, 1, False),
    "features.10": (256, 256, 3, 1, 1, False),
}
SIZE = 64, 128


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    made = {}
    for name, (out, into, kernel, *_) in LAYERS.items():
        made[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=draw) * (2 / into / kernel**2) ** 0.5
        made[f"{name}.bias"] = torch.randn(out, generator=draw) * 0.1
    return made | {"classifier.1.weight": torch.zeros(4, 4)}


@pytest.fixture(scope="module")
def alexnet(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(weights, path)
    return path


def features(weights: dict[str, Tensor], image: np.ndarray) -> list[Tensor]:
    """Each layer's output at one place has length 1."""
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((torch.from_numpy(2 * image - 1).float() - mean) / deviation).permute(2, 0, 1)[None]
    found = []
    for name, (*_, stride, padding, pooled) in LAYERS.items():
        x = F.max_pool2d(x, 3, 2) if pooled else x
        x = F.relu(F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding))
        found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return found


def defined(weights: dict[str, Tensor], first: np.ndarray, second: np.ndarray) -> float:
    """Equation 1: over layers, the mean over places of the weighted squared differences."""
    own = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", "cpu", weights_only=True)
    both = zip(features(weights, first), features(weights, second))
    return sum(float((own[f"lin{k}.model.1.weight"] * (a - b) ** 2).sum(1).mean()) for k, (a, b) in enumerate(both))


def sides(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(1)
    shape = (*SIZE, 3) if kind == "albedo" else SIZE
    both = [np.round(chance.random(shape) * 255) / 255 for _ in range(2)]
    for side, values in zip(("predicted", "truth"), both):
        layout.write(layout.place(folder / side, kind, "a"), kind, values)
    return both[0], both[1]


def measured(folder: Path, *more: Any) -> dict[str, Any]:
    done = run(folder / "predicted", folder / "truth", "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["albedo", "roughness"])
def test_lpips_is_what_its_paper_defines(kind: str, alexnet: Path, weights: dict[str, Tensor], tmp_path: Path) -> None:
    both = sides(tmp_path, kind)
    found = measured(tmp_path, "--lpips", alexnet)[kind]
    colours = [values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2) for values in both]
    want = defined(weights, *colours)
    assert want > 0.01 and found["unweighted"]["lpips"] == pytest.approx(want, rel=1e-4)
    assert found["weighted"]["lpips"] is None
    plain = measured(tmp_path)[kind]
    assert "lpips" not in plain["unweighted"] and plain["unweighted"]["psnr"] == found["unweighted"]["psnr"]


def test_the_tables_have_lpips(alexnet: Path, tmp_path: Path) -> None:
    sides(tmp_path, "albedo")
    table = run(tmp_path / "predicted", tmp_path / "truth", "--lpips", alexnet).stdout
    header, unweighted, weighted = table.splitlines()[1:]
    assert "LPIPS" in header.split() and len(unweighted.split()) == len(header.split())
    assert weighted.split()[-1] == "-"
    assert "LPIPS" not in run(tmp_path / "predicted", tmp_path / "truth").stdout


@pytest.mark.parametrize("fault", ["absent", "cut", "another"])
def test_other_files_than_alexnets_are_one_sentence(fault: str, alexnet: Path, tmp_path: Path) -> None:
    sides(tmp_path, "albedo")
    path = tmp_path / "weights.pth"
    if fault == "cut":
        path.write_bytes(alexnet.read_bytes()[:1000])
    elif fault == "another":
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    done = run(tmp_path / "predicted", tmp_path / "truth", "--lpips", path)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr and "torchvision's AlexNet" in done.stderr


def test_what_lpips_needs_is_said(alexnet: Path, tmp_path: Path) -> None:
    sides(tmp_path, "albedo")
    done = run(tmp_path / "predicted", tmp_path / "truth", "--lpips", alexnet, without="lpips")
    assert done.returncode == 1 and 'pip install "lpips>=0.1.4,<0.2"' in done.stderr
    assert run(tmp_path / "predicted", tmp_path / "truth", without="lpips").returncode == 0


def test_small_pictures_are_refused(alexnet: Path, tmp_path: Path) -> None:
    for side in ("predicted", "truth"):
        layout.write(layout.place(tmp_path / side, "metallic", "a"), "metallic", np.full((16, 32), 0.5))
    done = run(tmp_path / "predicted", tmp_path / "truth", "--lpips", alexnet)
    assert done.returncode == 1 and "32 rows or more, got 16" in done.stderr
