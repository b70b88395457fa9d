"""The command line: its output, its files, and its messages about maps that it can't measure."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.evaluation import report
from comfyui_omnix.evaluation.depth import ALIGNMENTS
from comfyui_omnix.mapfiles import layout
from map_trees import ROOT, maps, run, sides, write_maps
from PIL import Image

REST = {"seam", "seam_error", "poles", "pixels", "invalid"}
OF_DEPTH = {"seam_defect_density", "seam_severity", "seam_prevalence", "nothing_predicted", "nothing_true"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return sides(tmp_path_factory.mktemp("maps"))


def document(*arguments: Any) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def failure(*arguments: Any, without: str = "") -> str:
    """The one sentence of a run that fails."""
    done = run(*arguments, without=without)
    assert done.returncode == 1 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("omnix-evaluate: "), done.stderr
    return lines[0].removeprefix("omnix-evaluate: ")


def test_json_has_the_shape_that_is_documented(folders: tuple[Path, Path]) -> None:
    found = document(*folders)
    assert list(found) == ["depth", "normal", "albedo", "roughness", "metallic", "semantic"]
    assert list(found["depth"]) == list(ALIGNMENTS)
    parts = [(kind, part) for kind, part in found.items() if kind != "depth"]
    for kind, part in [*parts, *(("depth", part) for part in found["depth"].values())]:
        assert part.keys() == {"unweighted", "weighted"} | REST | (OF_DEPTH if kind == "depth" else set())
        assert part["unweighted"].keys() == part["weighted"].keys() == report.TITLES[kind].keys() - {"lpips"}
        assert (part["pixels"], part["invalid"]) == (2 * 16 * 32, 0)
        assert all(isinstance(value, float) for value in [*part["weighted"].values(), part["seam"], part["poles"]])


def test_figures_of_two_pairs_are_the_means_of_each(folders: tuple[Path, Path]) -> None:
    predicted, truth = folders
    files = [[layout.find(side, "normal", stem) for side in (predicted, truth)] for stem in ("0000", "0001")]
    each = [document(*both)["normal"]["weighted"] for both in files]
    for name, value in document(*folders)["normal"]["weighted"].items():
        assert value == pytest.approx((each[0][name] + each[1][name]) / 2)


def test_tables_say_the_same_on_the_screen_and_in_markdown(folders: tuple[Path, Path]) -> None:
    found = document(*folders)
    plain, piped = run(*folders), run(*folders, "--markdown")
    assert plain.returncode == piped.returncode == 0 and plain.stderr == piped.stderr == ""
    for text in (plain.stdout, piped.stdout):
        cells = text.replace("|", " ").split()
        assert f"{found['depth']['scale_and_shift']['weighted']['rmse']:.4g}" in cells
        assert f"{found['semantic']['unweighted']['miou']:.4g}" in cells
        assert "delta 1.25^2" in text and "within 11.25" in text and "0 invalid" in text
    assert piped.stdout.count("### ") == 6 and all(line.count("|") != 1 for line in piped.stdout.splitlines())


def test_a_sheet_shows_every_kind(folders: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    assert run(*folders, "--sheet", sheet).returncode == 0
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 520, 6 * (20 + 256 + 8))
        tiles = [
            picture.crop((x * 520, y * 284 + 20, x * 520 + 512, y * 284 + 276)) for y in range(6) for x in range(4)
        ]
        assert all(len(tile.resize((32, 16)).quantize(8).getcolors() or ()) >= 2 for tile in tiles)
    assert list(sheet.parent.iterdir()) == [sheet]


def test_a_sheet_without_input_and_of_a_wrong_kind(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pair = [layout.find(side, "depth", "0000") for side in folders]
    assert run(*pair, "--sheet", tmp_path / "one.jpg").returncode == 0
    assert "a sheet is written as .png" in failure(*folders, "--sheet", tmp_path / "sheet.gif")
    (tmp_path / "file").write_text("")
    assert "file" in failure(*folders, "--sheet", tmp_path / "file" / "sheet.png")
    assert {path.name for path in tmp_path.iterdir()} == {"one.jpg", "file"}


def test_missing_stems_are_listed_and_counted_and_the_others_measured(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, 3, 8)
    for side, stem in ((predicted, "0002"), (truth, "0000")):
        layout.find(side, "albedo", stem).unlink()
    done = run(predicted, truth, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["albedo"]["pixels"] == 128
    assert done.stderr == (
        "omnix-evaluate: albedo: 1 stem without a prediction (0002); albedo: 1 stem without a truth (0000); "
        "the others were measured.\n"
    )


def test_an_empty_folder_lacks_all_of_its_stems(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, 1, 8)
    layout.find(predicted, "depth", "0000").unlink()
    done = run(predicted, truth, "--json")
    assert done.returncode == 1 and "depth" not in json.loads(done.stdout)
    assert done.stderr == "omnix-evaluate: depth: 1 stem without a prediction (0000); the others were measured.\n"


def test_a_kind_on_one_side_is_said_and_no_fault(tmp_path: Path) -> None:
    write_maps(tmp_path / "predicted", "a", {"depth": maps(0)["depth"]})
    write_maps(tmp_path / "true", "a", maps(1))
    done = run(tmp_path / "predicted", tmp_path / "true", "--json")
    assert done.returncode == 0 and list(json.loads(done.stdout)) == ["depth"]
    assert done.stderr.startswith("omnix-evaluate: on one side only, so not measured: normal, albedo")


def test_files_folders_of_files_and_one_map_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, truth = folders
    assert document(predicted / "depth", truth / "depth") == document(predicted, truth, "--map", "depth")
    source = layout.find(truth, "roughness", "0000")
    copy = tmp_path / "copy.png"
    copy.write_bytes(source.read_bytes())
    assert "Name it with --map" in failure(copy, source)
    assert document(copy, source, "--map", "roughness")["roughness"]["unweighted"]["psnr"] is None


def test_depths_in_millimetres_and_in_exr_are_one(tmp_path: Path) -> None:
    found = {"depth": np.round(maps(0)["depth"], 3)}
    write_maps(tmp_path / "a", "1", found, ".exr")
    write_maps(tmp_path / "b", "1", found, ".png")
    assert document(tmp_path / "a", tmp_path / "b")["depth"]["none"]["unweighted"]["mae"] < 1e-6


def test_options_of_depth_and_of_classes(folders: tuple[Path, Path]) -> None:
    assert document(*folders, "--max-depth", "5")["depth"]["none"]["invalid"] > 100
    found = document(*folders, "--unlabelled", "C81E28")["semantic"]
    assert 0 < found["invalid"] < found["pixels"]
    assert run(*folders, "--max-depth", "-1").returncode == run(*folders, "--unlabelled", "red").returncode == 2


def write_depth(values: Any) -> Any:
    return lambda path: layout.save(path, np.asarray(values, dtype=np.float32))


NAN = np.full((16, 32), 2.0)
NAN[3, 4] = np.nan
BAD_DEPTHS = {
    "NaN": (".exr", write_depth(NAN), "depth/0000.exr: 1 values are NaN"),
    "another size": (
        ".exr",
        write_depth(np.ones((8, 16))),
        "depth/0000.exr: the prediction is 16x8 but the truth is 32x16",
    ),
    "8 bits": (
        ".png",
        lambda path: Image.new("L", (32, 16), 9).save(path),
        "depth/0000.png: expected depth as uint16, got uint8; save it as EXR, or as PNG of 16 bits in millimetres",
    ),
    "colours": (".exr", write_depth(np.random.default_rng(0).uniform(1, 2, (16, 32, 3))), "in 1 channel or in 3 equal"),
    "no picture": (".exr", lambda path: path.write_bytes(b"no picture"), "depth/0000.exr: can't be read as a picture"),
    "an empty file": (".png", lambda path: path.write_bytes(b""), "depth/0000.png: can't be read as a picture"),
    "a cut EXR": (".exr", lambda path: cut(path, maps(0)["depth"]), "depth/0000.exr: "),
    "a cut PNG": (".png", lambda path: cut(path, maps(0)["depth"]), "depth/0000.png: the picture is damaged"),
}


def cut(path: Path, values: Any) -> None:
    layout.write(path, "depth", values)
    path.write_bytes(path.read_bytes()[:-200])


def test_doubtful_figures_are_printed_with_a_word(tmp_path: Path) -> None:
    """A picture that is not a whole panorama, and a label map with mixed colours, each reported once for its kind."""
    predicted, truth = sides(tmp_path, stems=7)
    for side in (predicted, truth):
        for stem in ("0001", "0002"):
            layout.write(layout.place(side, "metallic", stem), "metallic", np.full((16, 30), 0.5))
    mixed = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    layout.write(layout.place(truth, "semantic", "0003"), "semantic", mixed)
    done = run(predicted, truth, "--json")
    assert done.returncode == 0 and json.loads(done.stdout).keys() >= {"metallic", "semantic"}
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("omnix-evaluate: metallic of 0001, 0002: the size is not 2:1")
    assert lines[1].startswith("omnix-evaluate: semantic of 0003: the truth has more than 256 colours")


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_a_prediction_without_values_where_the_truth_has_some_is_doubtful(kind: str, tmp_path: Path) -> None:
    """Leaving out the hardest rows would make a prediction look better than it is; a hole in the truth would not."""
    predicted, truth = sides(tmp_path, stems=2)
    for side, stem in ((predicted, "0000"), (truth, "0001")):
        holes = maps(7)[kind].copy()
        holes[8] = np.nan
        layout.write(layout.place(side, kind, stem), kind, holes)
    done = run(predicted, truth, "--map", kind)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"omnix-evaluate: {kind} of 0000: the prediction has no value in more than 1% of")


@pytest.mark.parametrize("fault", BAD_DEPTHS)
def test_a_bad_map_is_one_sentence(fault: str, tmp_path: Path) -> None:
    suffix, spoil, words = BAD_DEPTHS[fault]
    write_maps(tmp_path / "true", "0000", {"depth": maps(1)["depth"]})
    path = layout.place(tmp_path / "predicted", "depth", "0000", suffix)
    path.parent.mkdir(parents=True)
    spoil(path)
    assert words in failure(tmp_path / "predicted", tmp_path / "true")


@pytest.mark.parametrize("kind", ["depth", "normal", "albedo", "semantic"])
@pytest.mark.parametrize("side", ["predicted", "true"])
def test_a_map_that_can_not_be_judged_is_a_line_of_the_report(kind: str, side: str, tmp_path: Path) -> None:
    """Everything else is measured and printed; the exit status and a line with the reason report the failure."""
    folders = dict(zip(("predicted", "true"), sides(tmp_path)))
    spoiled = layout.find(folders[side], kind, "0001")
    spoiled.write_bytes(b"no picture")
    done = run(*folders.values(), "--json", "--sheet", tmp_path / "sheet.png")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and len(found) == 6 and (tmp_path / "sheet.png").is_file()
    part = found[kind]["none"] if kind == "depth" else found[kind]
    assert part["pixels"] == 16 * 32 and found["metallic"]["pixels"] == 2 * 16 * 32
    assert done.stderr.startswith(f"omnix-evaluate: not measured: {kind} of 0001: {spoiled}: can't be read as a pict")
    assert len(done.stderr.splitlines()) == 1


def test_a_pair_without_a_depth_in_common_does_not_end_the_sheet(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, 1)
    layout.write(layout.find(truth, "depth", "0000"), "depth", np.zeros((16, 32)))
    done = run(predicted, truth, "--json", "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0 and (tmp_path / "sheet.png").is_file()
    part = json.loads(done.stdout)["depth"]["none"]
    assert (part["pixels"], part["nothing_true"], part["unweighted"]["mae"]) == (0, 16 * 32, None)


def test_a_kind_that_can_not_be_judged_at_all_leaves_the_others(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path)
    for path in (truth / "semantic").iterdir():
        Image.new("L", (32, 16), 7).save(path)
    for form in ((), ("--json",), ("--markdown",)):
        done = run(predicted, truth, *form)
        assert done.returncode == 1 and "depth" in done.stdout and "semantic" not in done.stdout
        lines = done.stderr.splitlines()
        assert [line[:44] for line in lines] == [
            f"omnix-evaluate: not measured: semantic of {stem}"[:44] for stem in ("0000", "0001")
        ]
        assert all("expected semantic in 3 channels, got 1" in line for line in lines)


def test_bad_folders_are_one_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, truth = folders
    assert "there is no such file or folder" in failure(tmp_path / "none", truth)
    assert f"{tmp_path}: no maps found; expected files in folders named depth" in failure(predicted, tmp_path)
    (tmp_path / "empty" / "depth").mkdir(parents=True)
    assert "no maps found" in failure(tmp_path / "empty", truth)
    write_maps(tmp_path / "other", "z", {"depth": maps(0)["depth"]})
    words = (
        "no stem is on both sides: depth: 2 stems without a prediction (0000, 0001); depth: 1 stem without a truth (z)."
    )
    assert failure(tmp_path / "other", truth) == words
    write_maps(tmp_path / "albedo only", "0000", {"albedo": maps(0)["albedo"]})
    assert failure(tmp_path / "albedo only", truth / "depth") == (
        "nothing to compare: the predictions are albedo, but the truth is depth; use two folders with maps of one kind."
    )
    layout.write(layout.place(tmp_path / "other", "depth", "z", ".png"), "depth", maps(0)["depth"])
    assert "there is also z.exr; keep one file of a stem" in failure(tmp_path / "other", truth)


def test_a_missing_package_is_one_sentence_that_installs_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    words = failure(*folders, without="OpenImageIO")
    assert words == 'Reading maps needs OpenImageIO, which is not installed: pip install "OpenImageIO>=3.1,<4"'
    assert 'pip install "pillow' in failure(
        *folders, "--sheet", tmp_path / "s.png", without="PIL PIL.Image PIL.ImageDraw"
    )
    assert "pip install" in failure(*folders, without="numpy")
    assert not list(tmp_path.iterdir())
    assert run(*folders, without="torch comfy PIL skimage scipy").returncode == 0


def test_help_and_module() -> None:
    done = subprocess.run([sys.executable, "-m", "evaluation", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Exit status" in done.stdout
    assert run("only one").returncode == 2


PEAK = """
import resource, sys
from evaluation.__main__ import main
assert main(sys.argv[1:]) == 0
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of memory is read by a module of Unix")
def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    """Forty more pairs of 512x256 would be 40 MB in float32 if they were kept, and twice that as they are compared."""
    predicted, truth = tmp_path / "predicted" / "metallic", tmp_path / "true" / "metallic"
    values = np.random.default_rng(0).uniform(0, 1, (256, 512))
    for folder in (predicted, truth):
        layout.write(folder / "00.png", "metallic", values)
    peaks = [peak(predicted, truth)]
    for folder in (predicted, truth):
        for number in range(1, 41):
            (folder / f"{number:02d}.png").hardlink_to(folder / "00.png")
    peaks.append(peak(predicted, truth))
    assert peaks[1] - peaks[0] < 20, peaks


def peak(*folders: Path) -> float:
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, folders)], cwd=ROOT, capture_output=True, text=True)
    return float(done.stderr.splitlines()[-1])
