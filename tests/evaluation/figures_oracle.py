"""The figures again, from their definitions, one pixel at a time or with scipy and scikit-image: slow and plain."""

import math
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from skimage.metrics import structural_similarity

WEIGHTS = ("unweighted", "weighted")


def latitude_weight(row: int, height: int) -> float:
    return math.cos((0.5 - (row + 0.5) / height) * math.pi)


def pixels(valid: Any) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in np.argwhere(valid)]


def averages(values: Any, valid: Any, after: Any = lambda mean: mean) -> tuple[float, float]:
    """The mean of values[i, j] over valid pixels, plain and weighted."""
    height = valid.shape[0]
    found = [(latitude_weight(i, height), float(values[i, j])) for i, j in pixels(valid)]
    plain = math.fsum(value for _, value in found) / len(found)
    weighted = math.fsum(w * value for w, value in found) / math.fsum(w for w, _ in found)
    return after(plain), after(weighted)


def weighted_median(values: list[float], weights: list[float]) -> float:
    """The middle of all x that leave at most half of the weight on either side."""
    half = math.fsum(weights) / 2
    middle = [
        x
        for x in sorted(set(values))
        if math.fsum(w for v, w in zip(values, weights) if v < x) <= half * (1 + 1e-12)
        and math.fsum(w for v, w in zip(values, weights) if v > x) <= half * (1 + 1e-12)
    ]
    return (middle[0] + middle[-1]) / 2


def aligned(name: str, p: Any, t: Any) -> Any:
    """Alignment of flat depths by general solvers."""
    if name == "scale_by_median":
        return p * np.median(t) / np.median(p)
    if name == "scale_by_least_squares":
        return p * np.linalg.lstsq(p[:, None], t, rcond=None)[0][0]
    if name == "scale_and_shift":
        return np.polyval(np.polyfit(p, t, 1), p)
    if name == "disparity_scale_and_shift":
        fit = least_squares(lambda x: x[0] / p + x[1] - 1 / t, [1.0, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        return 1 / np.maximum(fit[0] / p + fit[1], 1 / t.max())
    return p


def seam_of_error(prediction: Any, truth: Any) -> float:
    """The length of the step of the signed error from the last column to the first, over that of all other steps."""
    labels = prediction.dtype.kind != "f"
    error = (prediction != truth).astype(float) if labels else prediction.astype(np.float64) - truth.astype(np.float64)
    error = error.reshape(*error.shape[:2], -1)
    height, width, channels = error.shape

    def step(i: int, j: int, other: int) -> float:
        parts = [abs(error[i, j, c] - error[i, other, c]) for c in range(channels)]
        vectors = channels == 3 and (np.abs(np.linalg.norm(truth, axis=-1) - 1) < 1e-5).all()
        return math.hypot(*parts) if vectors else math.fsum(parts) / channels

    at = [step(i, 0, width - 1) for i in range(height)]
    elsewhere = [step(i, j, j - 1) for i in range(height) for j in range(1, width)]
    return (math.fsum(at) / len(at)) / (math.fsum(elsewhere) / len(elsewhere))


def depth(name: str, prediction: Any, truth: Any, valid: Any) -> dict[str, tuple[float, float]]:
    ours, t = np.ones(valid.shape), truth.astype(np.float64)
    ours[valid] = aligned(name, prediction[valid].astype(np.float64), t[valid])
    with np.errstate(all="ignore"):
        ratio = np.where(ours > 0, np.maximum(ours / t, t / ours), np.inf)
        error = np.abs(ours - t)
        return {
            "abs_rel": averages(error / t, valid),
            "mae": averages(error, valid),
            "rmse": averages(error**2, valid, math.sqrt),
            **{f"delta_1_25{end}": averages(ratio < 1.25**n, valid) for n, end in ((1, ""), (2, "_2"), (3, "_3"))},
        }


def normal(prediction: Any, truth: Any, valid: Any) -> dict[str, tuple[float, float]]:
    angle = np.zeros(valid.shape)
    for i, j in pixels(valid):
        a, b = prediction[i, j].astype(np.float64), truth[i, j].astype(np.float64)
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        angle[i, j] = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    values = [angle[i, j] for i, j in pixels(valid)]
    cosines = [latitude_weight(i, valid.shape[0]) for i, _ in pixels(valid)]
    return {
        "mean": averages(angle, valid),
        "median": (float(np.median(values)), weighted_median(values, cosines)),
        "rmse": averages(angle**2, valid, math.sqrt),
        **{
            f"within_{name}": averages(angle < degrees, valid)
            for name, degrees in (("5", 5), ("11_25", 11.25), ("22_5", 22.5), ("30", 30))
        },
    }


def colour(prediction: Any, truth: Any) -> dict[str, tuple[float, float]]:
    p, t = (np.atleast_3d(values).astype(np.float64) for values in (prediction, truth))
    everywhere = np.ones(p.shape[:2], dtype=bool)
    # Windows must wrap: three more columns on either side, which are cut off again; three rows have no whole window.
    wide = [np.concatenate([values[:, -3:], values, values[:, :3]], axis=1) for values in (p, t)]
    _, similar = structural_similarity(*wide, channel_axis=-1, data_range=1.0, full=True)
    inside = similar[3:-3, 3:-3].mean(axis=-1)
    weights = np.array([latitude_weight(i, p.shape[0]) for i in range(3, p.shape[0] - 3)])
    return {
        "psnr": averages(((p - t) ** 2).mean(axis=-1), everywhere, lambda mse: -10 * math.log10(mse)),
        "ssim": (float(inside.mean()), float(weights @ inside.mean(axis=1) / weights.sum())),
    }


def semantic(prediction: Any, truth: Any) -> dict[str, tuple[float, float]]:
    """From sets of pixels."""
    height = truth.shape[0]
    right = (prediction == truth).all(axis=-1)
    classes = {tuple(colour) for colour in truth.reshape(-1, 3).tolist()}
    places = [(i, j) for i in range(height) for j in range(truth.shape[1])]
    shares: list[list[float]] = [[], []]
    for label in classes:
        mine = {place for place in places if tuple(prediction[place].tolist()) == label}
        true = {place for place in places if tuple(truth[place].tolist()) == label}
        for number, weigh in enumerate((lambda i: 1.0, lambda i: latitude_weight(i, height))):
            inter, union = (math.fsum(weigh(i) for i, _ in some) for some in (mine & true, mine | true))
            shares[number].append(inter / union)
    return {
        "accuracy": averages(right, np.ones(right.shape, dtype=bool)),
        "miou": (sum(shares[0]) / len(classes), sum(shares[1]) / len(classes)),
    }
