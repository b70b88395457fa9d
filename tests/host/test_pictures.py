"""Load Panorama and Save Panorama on the real server: the sample, sizes, refusals before the run, numbers and names."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO
import pytest
from comfyui_omnix.graph import panoramas
from comfyui_omnix.lab.host.server import GraphError, Server
from PIL import Image
from test_fit import elements, facts

pytestmark = pytest.mark.server
SAMPLE = "omnix_sample_room.png"


def graph(name: str, height: int = 720, **saved: Any) -> dict[str, dict[str, Any]]:
    """Return a graph in the form from before Load Panorama had a fit."""
    inputs = {"panorama": ["load", 0], "filename_prefix": "OmniX/loaded", "values": "depth", **saved}
    return {
        "load": {"class_type": "OmniXLoadPanorama", "inputs": {"image": name, "height": height}},
        "map": {"class_type": "LoadImage", "inputs": {"image": name}},
        "save": {"class_type": "OmniXSavePanorama", "inputs": inputs},
    }


def loaded(server: Server, name: str, height: int = 720, prefix: str = "OmniX/loaded") -> Any:
    result = server.run(graph(name, height, filename_prefix=prefix))
    (data,) = server.images(result, "save")
    return np.asarray(Image.open(io.BytesIO(data)))


def put(server: Server, name: str, height: int, width: int) -> str:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(server.base / "input" / name)
    return name


def test_the_sample_is_offered_first_and_shown(server: Server) -> None:
    spec = server.node_info("OmniXLoadPanorama")["input"]["required"]["image"]
    options = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    assert options[0] == SAMPLE and spec[1]["image_upload"]
    assert {f"omnix_sample_room_{name}.png" for name in ("depth", "normal", "albedo", "semantic")} <= set(options)
    shown = server.fetch({"filename": SAMPLE, "type": "input", "subfolder": ""})
    assert Image.open(io.BytesIO(shown)).size == (1024, 512)
    (server.base / "input" / SAMPLE).unlink()
    assert loaded(server, SAMPLE, prefix="OmniX/sample").shape == (512, 1024, 3)
    (server.base / "input" / SAMPLE).write_bytes(shown)


@pytest.mark.parametrize(
    ("size", "height", "expected"),
    [
        ((250, 500), 720, (248, 496)),
        ((500, 1000), 720, (496, 992)),
        ((100, 200), 40, (40, 80)),
        ((51, 101), 50, (48, 96)),
    ],
)
def test_sizes_that_work(
    server: Server, size: tuple[int, int], height: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    name = put(server, f"sized {size[0]}.png", *size)
    assert loaded(server, name, height).shape == (*expected, 3)


@pytest.mark.parametrize(
    ("size", "says"),
    [((480, 640), "expected a panorama, twice as wide as high, got 640x480"), ((8, 16), "of at least 32x16")],
)
def test_no_panorama_is_refused_once_at_the_picture(server: Server, size: tuple[int, int], says: str) -> None:
    name = put(server, f"refused {size[0]}.png", *size)
    refused(server, name, f"{name}: expected a panorama", says)


def test_other_files_are_refused_before_the_run(server: Server) -> None:
    inputs = server.base / "input"
    (inputs / "half.png").write_bytes((inputs / SAMPLE).read_bytes()[:50_000])
    (inputs / "text.png").write_text("no picture")
    refused(server, "half.png", "half.png: the file is damaged or is not a picture")
    refused(server, "text.png", "text.png: the file is damaged or is not a picture")
    refused(server, "gone.png", "gone.png: no such file in the input folder")
    refused(server, "../server.log", "leads elsewhere")


def refused(server: Server, name: str, *says: str) -> None:
    with pytest.raises(GraphError) as caught:
        server.submit(graph(name))
    assert caught.value.node == "load" and all(part in caught.value.message for part in says)


@pytest.mark.parametrize(("how", "expected"), [("pad", (64, 128)), ("crop", (32, 64))])
def test_other_shapes_are_fitted(server: Server, how: str, expected: tuple[int, int]) -> None:
    posted = graph(put(server, "strip.png", 32, 128), filename_prefix=f"OmniX/{how}")
    posted["load"]["inputs"] |= {"fit": how, "vertical_fov": 0.0}
    (data,) = server.images(server.run(posted), "save")
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (*expected, 3)
    with pytest.raises(GraphError, match=r"expected a panorama, twice as wide as high, got 128x32; choose one half"):
        server.submit(graph("strip.png"))


def test_a_picture_of_any_loader_is_brought_to_size(server: Server) -> None:
    posted = graph(put(server, "large.png", 256, 512), filename_prefix="OmniX/fit")
    posted["load"] = {"class_type": "LoadImage", "inputs": {"image": "large.png"}}
    posted["fitted"] = {"class_type": "OmniXFitPanorama", "inputs": {"image": ["load", 0], "height": 64}}
    posted["save"]["inputs"]["panorama"] = ["fitted", 0]
    (data,) = server.images(server.run(posted), "save")
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (64, 128, 3)
    posted["load"]["inputs"]["image"] = put(server, "flat.png", 48, 64)
    with pytest.raises(
        GraphError, match="The picture: expected a panorama, twice as wide as high, got 64x48"
    ) as caught:
        server.run(posted)
    assert caught.value.node == "fitted"


def test_gpano_and_wrong_fits(server: Server) -> None:
    name = put(server, "crop.jpg", 32, 64)
    path = server.base / "input" / name
    with Image.open(path) as image:
        image.load()
        xmp = elements(facts((256, 128), (64, 32), (40, 24)))
        image.save(path, quality=100, xmp=xmp.encode())
    assert loaded(server, name, prefix="OmniX/gpano").shape == (128, 256, 3)
    posted = graph(name)
    for wrong, says in (
        ({"fit": "stretch"}, "not in list: fit"),
        ({"fit": "pad", "vertical_fov": 400.0}, "vertical_fov"),
    ):
        posted["load"]["inputs"] |= wrong
        with pytest.raises(GraphError) as caught:
            server.submit(posted)
        assert caught.value.node == "load" and says in caught.value.message


def test_a_damaged_jpeg_is_refused_in_the_run(server: Server) -> None:
    path = server.base / "input" / put(server, "damaged.jpg", 64, 128)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(GraphError, match=r"damaged\.jpg: the file is damaged"):
        server.run(graph("damaged.jpg"))


def test_a_sample_that_was_deleted_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panoramas.folder_paths, "get_input_directory", lambda: str(tmp_path))
    panoramas.put_samples_into_input()
    assert {path.name for path in tmp_path.glob("*.png")} == {*panoramas.samples()}
    (tmp_path / SAMPLE).unlink()
    (tmp_path / panoramas.samples()[1]).write_bytes(b"changed")
    panoramas.put_samples_into_input()
    assert not (tmp_path / SAMPLE).exists()
    assert (tmp_path / panoramas.samples()[1]).read_bytes() == b"changed"
    assert panoramas.pictures()[0] == SAMPLE, "still offered: the pack holds it"
    # A sample of a later version comes once, too.
    listed = tmp_path / panoramas.COPIED
    listed.write_text(listed.read_text().replace(f"{SAMPLE}\n", ""))
    panoramas.put_samples_into_input()
    assert (tmp_path / SAMPLE).exists()


def test_a_replaced_file_is_noticed(server: Server) -> None:
    name = put(server, "replaced.png", 16, 32)
    before = loaded(server, name)
    Image.fromarray(255 - before).save(server.base / "input" / name)
    assert np.array_equal(loaded(server, name), 255 - before)


def test_one_run_writes_one_number(server: Server) -> None:
    """Also if a file of the last run is gone, or one of another kind has the name."""
    output = server.base / "output" / "OmniX"
    name = put(server, "numbered.png", 16, 32)
    for run, expected in enumerate(("00001", "00002", "00004")):
        posted = graph(name, 16 + 8 * run, filename_prefix="OmniX/numbered", depth=["map", 0], normal=["map", 0])
        result = server.run(posted)
        shown = [file["filename"] for file in result.files("save")]
        assert shown == [f"numbered_{expected}_{part}.png" for part in ("panorama", "depth_view", "normal")]
        written = sorted(path.name.split("_", 2)[2] for path in output.glob(f"numbered_{expected}_*"))
        exact = ["depth_16bit.png", "depth_float.exr"]
        assert written == sorted([*exact, "depth_view.png", "normal.png", "panorama.png"])
        assert [file["filename"].split("_", 2)[2] for file in result.files("save", "omnix_values")] == exact
        if run == 1:
            (output / "numbered_00002_normal.png").unlink()
            (output / "numbered_00003_depth_16bit.png").write_bytes(b"")


def test_one_run_writes_equal_numbers_as_exr_and_png(server: Server, tmp_path: Path) -> None:
    """Read by another library: the floats with the precision of 16 bits, not a brighter or a stretched copy."""
    name = put(server, "equal.png", 16, 32)
    result = server.run(graph(name, filename_prefix="OmniX/equal", depth=["map", 0], values="depth"))
    read = {}
    for file in result.files("save", "omnix_values"):
        path = tmp_path / file["filename"]
        path.write_bytes(server.fetch(file))
        read[path.suffix] = OpenImageIO.ImageBuf(str(path)).get_pixels(OpenImageIO.FLOAT)
    assert read[".exr"].shape == read[".png"].shape and read[".exr"].std() > 0.1
    assert np.abs(read[".exr"] - read[".png"]).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize(("values", "count"), [("every map", 3), ("none", 1)])
def test_the_values_that_are_asked_for(server: Server, values: str, count: int) -> None:
    name = put(server, "asked.png", 16, 32)
    posted = graph(name, filename_prefix=f"OmniX/asked {values}", values=values, normal=["map", 0])
    del posted["save"]["inputs"]["panorama"]
    result = server.run(posted)
    assert len(result.files("save")) + len(result.files("save", "omnix_values")) == count


def test_a_batch_and_another_shape(server: Server) -> None:
    name = put(server, "batch.png", 16, 32)
    posted = graph(name, filename_prefix="OmniX/batch")
    posted["two"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["load", 0], "amount": 2}}
    posted["save"]["inputs"]["panorama"] = ["two", 0]
    files = server.run(posted).files("save")
    assert [file["filename"] for file in files] == ["batch_00001_panorama.png", "batch_00002_panorama.png"]
    posted["save"]["inputs"]["normal"] = ["map", 0]
    with pytest.raises(GraphError, match="save maps of one panorama together"):
        server.run(posted)
    del posted["save"]["inputs"]["normal"], posted["save"]["inputs"]["panorama"]
    with pytest.raises(GraphError, match="There is nothing to save"):
        server.run(posted)


def test_the_picture_says_that_it_is_a_panorama_and_holds_its_graph(server: Server) -> None:
    result = server.run(graph(put(server, "told.png", 24, 48), filename_prefix="OmniX/told"))
    (data,) = server.images(result, "save")
    with Image.open(io.BytesIO(data)) as image:
        assert 'GPano:ProjectionType="equirectangular"' in image.info["XML:com.adobe.xmp"]
        assert "OmniXLoadPanorama" in image.info["prompt"]


def test_a_panorama_of_any_origin_is_viewed_saved_and_made_a_scene(server: Server) -> None:
    """A picture and a depth map of other programs, read by core's own loader, with no model in the graph."""
    with Image.open(server.base / "input" / "omnix_sample_room_depth.png") as depth:
        eight = (np.asarray(depth) / 257).round().astype(np.uint8)  # what every host's Load Image reads
    Image.fromarray(eight).save(server.base / "input" / "eight.png")
    files = {"load": SAMPLE, "map": "eight.png"}
    posted: dict[str, Any] = {
        **{name: {"class_type": "LoadImage", "inputs": {"image": file}} for name, file in files.items()},
        "mask": {"class_type": "ImageToMask", "inputs": {"image": ["map", 0], "channel": "red"}},
    }
    pictures = {"panorama": ["load", 0], "depth": ["map", 0], "filename_prefix": "OmniX/any_origin", "values": "none"}
    posted["save"] = {"class_type": "OmniXSavePanorama", "inputs": pictures}
    viewer = {"image": ["load", 0], "depth": ["map", 0], "view": "", "width": 64}
    posted["viewer"] = {"class_type": "OmniXPanoramaViewer", "inputs": viewer}
    scene = {"image": ["load", 0], "depth": ["mask", 0], "cut": True, "camera_height": 1.6, "triangles": 20000}
    scene |= {"tolerance": 0.03, "max_error": 0.001, "unlit": True}
    posted["scene"] = {"class_type": "OmniXScene", "inputs": scene}
    posted["report"] = {"class_type": "PreviewAny", "inputs": {"source": ["scene", 2]}}
    result = server.run(posted)
    assert len(result.files("save")) == 2
    assert {entry["label"] for entry in result.outputs["viewer"]["omnix_maps"]} == {"image", "depth"}
    (report,) = result.outputs["report"]["text"]
    assert "Mesh: " in report and "OmniX" not in report
