"""LPIPS: how different two pictures look (Zhang et al., CVPR 2018), by the authors' package `lpips`, AlexNet, v0.1.

The package contains the weights of its own layers. The user provides AlexNet's weights as torchvision's file
alexnet-owt-7be5be79.pth; nothing is downloaded. The figure is of the whole picture, with equal weights.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..mapfiles.errors import MapError, package
from ..mapfiles.pictures import Array

WANTED = "torchvision's AlexNet, alexnet-owt-7be5be79.pth"
LEAST_HEIGHT = 32
"""Rows. AlexNet's last layer is empty for smaller pictures."""

Distance: TypeAlias = Callable[[Array, Array], float]


def distance(weights: Path) -> Distance:
    """Return a function that measures two pictures [H, W] or [H, W, 3] in [0, 1], with AlexNet's weights from a file.

    Raises MapError if the file does not hold AlexNet's weights, MissingPackage without `lpips`.
    """
    torch, made = package("torch"), package("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # torchvision warns about the outdated way in which the package asks for no weights
        model = made.LPIPS(net="alex", pnet_rand=True, verbose=False)
    model.net.load_state_dict(_matched(weights, _read(torch, weights), model.net.state_dict()))

    def measured(prediction: Array, truth: Array) -> float:
        if truth.shape[0] < LEAST_HEIGHT:
            raise MapError(
                f"LPIPS needs pictures of {LEAST_HEIGHT} rows or more, got {truth.shape[0]}; run without --lpips"
            )
        with torch.inference_mode():
            return float(model(*(_as_input(torch, values) for values in (prediction, truth)), normalize=True))

    return measured


def _read(torch: Any, path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MapError(
            f"{path}: expected {WANTED}, but the file could not be read ({error}). Download it again"
        ) from error
    return found if isinstance(found, dict) else {}


def _matched(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Name the weights as the package does: slice2.3.bias is AlexNet's features.3.bias."""
    published = {name: "features." + name.partition(".")[2] for name in wanted}
    for name, theirs in published.items():
        if theirs not in found or found[theirs].shape != wanted[name].shape:
            raise MapError(f"{path}: {theirs}: expected {tuple(wanted[name].shape)} of {WANTED}. Use that file")
    return {name: found[theirs] for name, theirs in published.items()}


def _as_input(torch: Any, values: Array) -> Any:
    """[H, W] or [H, W, 3] -> [1, 3, H, W]; grey is repeated in three channels."""
    colours = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return torch.from_numpy(np.moveaxis(colours, 2, 0)[None].astype(np.float32))
