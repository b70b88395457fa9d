"""The figures: closed forms, an independent oracle, a rolled panorama, and one wrong pixel by hand."""

import math
from typing import Any

import figures_oracle as oracle
import numpy as np
import pytest
from comfyui_omnix.evaluation import semantic
from comfyui_omnix.evaluation.compare import Options, compare
from comfyui_omnix.evaluation.depth import ALIGNMENTS
from comfyui_omnix.evaluation.report import summary
from comfyui_omnix.evaluation.sphere import similarity
from comfyui_omnix.mapfiles.errors import MapError
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

H, W = 12, 24
COLOURS = np.array([[200, 30, 40], [10, 120, 210], [60, 190, 80]], dtype=np.uint8)


def directions(rng: np.random.Generator, height: int = H, width: int = W) -> Any:
    vectors = rng.normal(size=(height, width, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def pair(kind: str, seed: int = 0, height: int = H, width: int = W) -> tuple[Any, Any]:
    """A prediction and a truth with errors of many sizes, as they are read; semantic maps as codes."""
    rng = np.random.default_rng(seed)
    if kind == "depth":
        truth = rng.uniform(0.5, 9, (height, width)).astype(np.float32)
        return (truth * rng.uniform(0.4, 1.2, truth.shape) / 7 + 0.1).astype(np.float32), truth
    if kind == "normal":
        truth = directions(rng, height, width)
        mixed = truth + directions(rng, height, width) * rng.uniform(0, 1, (height, width, 1)).astype(np.float32)
        return (mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)).astype(np.float32), truth
    if kind == "semantic":
        return tuple(semantic.codes(COLOURS[rng.integers(0, 3, (height, width))]) for _ in range(2))  # type: ignore[return-value]
    shape = (height, width, 3) if kind == "albedo" else (height, width)
    truth = rng.uniform(0, 1, shape)
    return np.clip(truth + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32), truth.astype(np.float32)


def figures(kind: str, prediction: Any, truth: Any, options: Options = Options()) -> Any:  # noqa: B008
    return summary({kind: [compare(kind, prediction, truth, options)]})[kind]


def told(found: Any) -> dict[str, tuple[float, float]]:
    return {name: (found["unweighted"][name], found["weighted"][name]) for name in found["unweighted"]}


def assert_same(found: Any, wanted: dict[str, tuple[float, float]], tolerance: float = 1e-9) -> None:
    assert told(found).keys() == wanted.keys()
    for name, both in wanted.items():
        assert told(found)[name] == pytest.approx(both, rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_depth_is_the_oracles(alignment: str, seed: int) -> None:
    prediction, truth = pair("depth", seed)
    truth[1, 2:5] = np.nan
    prediction[7, 3] = np.nan
    found = figures("depth", prediction, truth)[alignment]
    valid = np.isfinite(prediction) & np.isfinite(truth)
    assert_same(found, oracle.depth(alignment, prediction, truth, valid), 1e-6)
    assert (found["pixels"], found["invalid"]) == (H * W - 4, 4)


@pytest.mark.parametrize("seed", range(3))
def test_normals_are_the_oracles(seed: int) -> None:
    prediction, truth = pair("normal", seed)
    truth[3, 4:9] = np.nan
    found = figures("normal", prediction, truth)
    assert_same(found, oracle.normal(prediction, truth, np.isfinite(truth[..., 0])), 1e-6)
    assert found["invalid"] == 5


@pytest.mark.parametrize("kind", ["albedo", "roughness", "metallic"])
def test_colours_are_the_oracles(kind: str) -> None:
    prediction, truth = pair(kind, 5, 40, 80)
    assert_same(figures(kind, prediction, truth), oracle.colour(prediction, truth), 1e-5)


def test_semantics_are_the_oracles() -> None:
    prediction, truth = (np.stack([c >> 16, c >> 8 & 255, c & 255], axis=-1) for c in pair("semantic"))
    assert_same(figures("semantic", *pair("semantic")), oracle.semantic(prediction, truth))


def test_ssim_is_that_of_scikit_image_inside_the_picture() -> None:
    """Bands of rows leave no trace, and only columns next to the seam differ."""
    prediction, truth = pair("roughness", 1, 100, 50)
    _, theirs = structural_similarity(truth, prediction, data_range=1.0, full=True)
    ours = similarity(truth, prediction)
    np.testing.assert_allclose(ours[3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-5)
    assert np.isnan(ours[:3]).all() and np.isnan(ours[-3:]).all() and not np.isnan(ours[3:-3]).any()
    assert np.abs(ours[3:-3, :3] - theirs[3:-3, :3]).max() > 0.01


@pytest.mark.parametrize("kind", ["depth", "normal", "albedo", "roughness", "metallic", "semantic"])
def test_equal_maps_have_no_error(kind: str) -> None:
    _, truth = pair(kind)
    found = figures(kind, truth.copy(), truth)
    for part in found.values() if kind == "depth" else [found]:
        for name, value in [*part["unweighted"].items(), *part["weighted"].items()]:
            perfect = name.startswith(("delta", "within")) or name in ("ssim", "accuracy", "miou")
            assert value is None if name == "psnr" else value == pytest.approx(1.0 if perfect else 0.0, abs=1e-7), name
        assert part["poles"] == pytest.approx(0, abs=1e-7)
        assert part["pixels"] == H * W and part["invalid"] == 0


def test_closed_forms_of_depth() -> None:
    """Twice the truth; an affine one; a disparity that is off by scale and shift."""
    _, truth = pair("depth")
    exact = truth.astype(np.float64)
    doubled = figures("depth", 2 * exact, exact)
    assert doubled["none"]["unweighted"]["abs_rel"] == pytest.approx(1.0)
    assert doubled["none"]["weighted"]["mae"] == pytest.approx(oracle.averages(exact, exact > 0)[1])
    assert [doubled["none"]["unweighted"][f"delta_1_25{end}"] for end in ("", "_2", "_3")] == [0, 0, 0]
    assert doubled["scale_by_median"]["unweighted"]["abs_rel"] == pytest.approx(0, abs=1e-12)
    affine = figures("depth", (exact + 3) / 5, exact)
    assert affine["scale_and_shift"]["weighted"]["rmse"] == pytest.approx(0, abs=1e-9)
    assert affine["scale_by_least_squares"]["weighted"]["rmse"] > 0.1
    bent = figures("depth", 1 / (0.3 / exact + 0.2), exact)
    assert bent["disparity_scale_and_shift"]["unweighted"]["mae"] == pytest.approx(0, abs=1e-9)
    assert bent["scale_and_shift"]["unweighted"]["mae"] > 0.1


@pytest.mark.parametrize(("factor", "names"), [(1.2, "123"), (1.3, "23"), (1.6, "3"), (2.0, "")])
def test_thresholds_of_depth_lie_where_they_should(factor: float, names: str) -> None:
    truth = np.full((4, 8), 2.0)
    for prediction in (truth * factor, truth / factor):
        found = figures("depth", prediction, truth)["none"]["unweighted"]
        assert [found[f"delta_1_25{end}"] for end in ("", "_2", "_3")] == [float(n in names) for n in "123"]


def test_closed_forms_of_normals_and_colours() -> None:
    up = np.zeros((6, 12, 3), np.float32)
    up[..., 1] = 1
    turned = np.zeros_like(up)
    turned[..., 0], turned[..., 1] = math.sin(math.radians(10)), math.cos(math.radians(10))
    found = figures("normal", turned, up)
    for weight in oracle.WEIGHTS:
        assert [found[weight][name] for name in ("mean", "median", "rmse")] == pytest.approx([10] * 3, rel=1e-6)
        assert [found[weight][f"within_{name}"] for name in ("5", "11_25", "22_5", "30")] == [0, 1, 1, 1]
    grey = np.full((8, 16, 3), 0.5, np.float32)
    assert figures("albedo", grey + np.float32(0.1), grey)["weighted"]["psnr"] == pytest.approx(20, abs=1e-4)
    opposite = figures("normal", -up, up)["unweighted"]
    assert (opposite["mean"], opposite["within_30"]) == (pytest.approx(180), 0)


def test_one_wrong_pixel_moves_the_figures_as_by_hand() -> None:
    truth = np.full((4, 8), 2.0)
    prediction = truth.copy()
    prediction[1, 5] = 3.2
    found = figures("depth", prediction, truth)["none"]
    row = math.cos(math.pi / 8)
    share = row / (8 * 2 * (row + math.cos(3 * math.pi / 8)))
    for weight, part in (("unweighted", 1 / 32), ("weighted", share)):
        assert found[weight]["abs_rel"] == pytest.approx(0.6 * part)
        assert found[weight]["mae"] == pytest.approx(1.2 * part)
        assert found[weight]["rmse"] == pytest.approx(1.2 * math.sqrt(part))
        assert found[weight]["delta_1_25"] == found[weight]["delta_1_25_2"] == pytest.approx(1 - part)
        assert found[weight]["delta_1_25_3"] == 1.0
    assert found["poles"] == 0, "rows 0 and 3 alone lie beyond 60 degrees"
    prediction[0, 5], prediction[1, 5] = 3.0, 2.0
    assert figures("depth", prediction, truth)["none"]["poles"] == pytest.approx(0.5 / 16)


def test_one_wrong_label_by_hand() -> None:
    truth = np.zeros((4, 8), dtype=np.int32)
    truth[:, 4:] = 0xFF0000
    prediction = truth.copy()
    prediction[2, 0] = 0xFF0000
    found = figures("semantic", prediction, truth)["unweighted"]
    assert found["accuracy"] == pytest.approx(31 / 32)
    assert found["miou"] == pytest.approx((15 / 16 + 16 / 17) / 2)
    left = figures("semantic", prediction, truth, Options(unlabelled=0))
    assert (left["pixels"], left["invalid"], left["unweighted"]["miou"]) == (16, 16, 1.0)


@pytest.mark.parametrize("kind", ["depth", "normal", "albedo", "roughness", "semantic"])
@pytest.mark.parametrize("columns", [1, 11])
def test_rolling_both_changes_nothing_but_the_seam(kind: str, columns: int) -> None:
    prediction, truth = pair(kind, 3, 16, 32)
    before = figures(kind, prediction, truth)
    after = figures(kind, np.roll(prediction, columns, axis=1), np.roll(truth, columns, axis=1))
    for one, other in zip(*((part.values() if kind == "depth" else [part]) for part in (before, after))):
        for weight in oracle.WEIGHTS:
            assert one[weight] == pytest.approx(other[weight], rel=1e-6)
        assert one["poles"] == pytest.approx(other["poles"], rel=1e-9)
        # Labels are few, so the seam may be as good in its new place.
        assert kind == "semantic" or one["seam"] != other["seam"]


def test_the_seam_is_one_where_a_panorama_closes_and_large_where_not() -> None:
    columns = 2 * np.pi * (np.arange(64) + 0.5) / 64
    closed = np.tile(2 + np.sin(columns + 0.9), (32, 1))
    ramp = np.tile(1 + np.arange(64.0), (32, 1))
    assert 0.5 < figures("depth", closed, closed)["none"]["seam"] < 2
    assert figures("depth", ramp, ramp)["none"]["seam"] == pytest.approx(63)
    assert figures("depth", np.ones((4, 8)), np.ones((4, 8)))["none"]["seam"] is None
    labels = np.zeros((4, 8), dtype=np.int32)
    labels[:, 4:] = 7
    assert figures("semantic", labels, labels)["seam"] == pytest.approx(7)


@pytest.mark.parametrize("kind", ["depth", "normal", "albedo", "roughness", "semantic"])
def test_the_seam_of_the_error_is_that_of_the_oracle_and_ignores_edges_of_the_truth(kind: str) -> None:
    prediction, truth = pair(kind, 5, 16, 32)
    found = figures(kind, prediction, truth)
    found = found["none"] if kind == "depth" else found
    assert found["seam_error"] == pytest.approx(oracle.seam_of_error(prediction, truth))
    if kind != "semantic":
        assert found["seam_error"] != pytest.approx(found["seam"], rel=1e-3)


def test_a_step_of_the_room_at_the_seam_is_no_error() -> None:
    """The truth is a ramp that does not close; the error is smooth around the panorama, or has a step at the seam."""
    ramp = np.tile(1 + np.arange(64.0), (32, 1))
    smooth = 0.3 * np.sin(2 * np.pi * np.arange(64.0) / 64)
    closed = figures("depth", ramp + smooth, ramp)["none"]
    assert closed["seam"] == pytest.approx(63, rel=0.05) and closed["seam_error"] == pytest.approx(1.57, abs=0.1)
    stepped = figures("depth", ramp + np.linspace(0, 1, 64), ramp)["none"]
    assert stepped["seam_error"] == pytest.approx(63)
    assert figures("depth", ramp, ramp)["none"]["seam_error"] is None


@pytest.mark.parametrize("kind", ["depth", "normal", "albedo", "semantic"])
def test_figures_of_a_part_are_those_of_its_pixels_under_the_alignment_of_the_whole(kind: str) -> None:
    prediction, truth = pair(kind, 7, 16, 32)
    part = np.random.default_rng(0).random((16, 32)) < 0.3
    found = figures(kind, prediction, truth, Options(counted=part))
    if kind == "depth":
        for name in ALIGNMENTS:
            ours = oracle.aligned(name, prediction.ravel().astype(np.float64), truth.ravel().astype(np.float64))
            error = np.abs(ours.reshape(truth.shape) - truth)[part] / truth[part]
            assert found[name]["unweighted"]["abs_rel"] == pytest.approx(error.mean())
        return
    assert (found["pixels"], found["invalid"]) == (part.sum(), (~part).sum())
    if kind == "normal":
        assert found["unweighted"]["mean"] == pytest.approx(oracle.normal(prediction, truth, part)["mean"][0])
    if kind == "albedo":
        squares = np.square(prediction.astype(np.float64) - truth)[part].mean()
        assert found["unweighted"]["psnr"] == pytest.approx(-10 * math.log10(squares))
    if kind == "semantic":
        assert found["unweighted"]["accuracy"] == pytest.approx((prediction == truth)[part].mean())


def test_a_depth_that_alignment_puts_below_nothing_is_never_near() -> None:
    prediction = np.array([[2.0, 8.0, 8.0, 9.0]] * 2)
    truth = np.array([[0.1, 5.0, 9.0, 9.0]] * 2)
    found = figures("depth", prediction, truth)["scale_and_shift"]["unweighted"]
    assert found["delta_1_25_3"] <= 0.75 and math.isfinite(found["abs_rel"])


def test_depths_beyond_a_limit_are_left_out() -> None:
    prediction, truth = pair("depth")
    found = figures("depth", prediction, truth, Options(max_depth=5.0))["none"]
    assert found["pixels"] == (truth <= 5).sum() and found["invalid"] == (truth > 5).sum()


def test_nothing_to_measure_is_no_number() -> None:
    nothing = np.full((4, 8), np.nan, dtype=np.float32)
    found = figures("depth", nothing, nothing)["scale_and_shift"]
    assert set(found["unweighted"].values()) == {None} and found["poles"] is None
    assert (found["pixels"], found["invalid"]) == (0, 32)


def test_different_sizes_are_reported() -> None:
    with pytest.raises(MapError, match=r"the prediction is 8x4 but the truth is 16x8; resize one to match the other"):
        compare("depth", np.ones((4, 8)), np.ones((8, 16)))


def test_a_painted_prediction_takes_the_nearest_colours() -> None:
    """More than 256 colours are no labels; up to 256 each is its own."""
    rng = np.random.default_rng(0)
    truth = COLOURS[rng.integers(0, 3, (32, 64))]
    painted = np.clip(truth + rng.integers(-20, 20, truth.shape), 0, 255).astype(np.uint8)
    known = semantic.distinct(semantic.codes(truth))
    assert semantic.is_painted(semantic.codes(painted), known) and not semantic.is_painted(known[None], known)
    np.testing.assert_array_equal(semantic.nearest(semantic.codes(painted), known), semantic.codes(truth))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=8, max_size=8),
    st.sampled_from(["unweighted", "weighted"]),
)
def test_medians_leave_half_of_the_weight_on_either_side(drawn: list[tuple[float, bool]], weight: str) -> None:
    from comfyui_omnix.evaluation import sphere

    values = np.array([value for value, _ in drawn]).reshape(4, 2)
    valid = np.array([keep for _, keep in drawn]).reshape(4, 2)
    weights = sphere.weightings(4)[[oracle.WEIGHTS.index(weight)]]
    found = sphere.median(values, valid, weights)[0]
    flat, mass = values[valid], np.broadcast_to(weights[0][:, None], (4, 2))[valid]
    if flat.size == 0:
        assert math.isnan(found)
        return
    for side in (flat < found, flat > found):
        assert mass[side].sum() <= mass.sum() / 2 * (1 + 1e-9)
