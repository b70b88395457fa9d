"""The shipped graphs: up to date, valid for the host, the same in every form, and running on a real server."""

import functools
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.converters import STREAMS
from comfyui_omnix.demo import tiny
from comfyui_omnix.demo.server import Server
from comfyui_omnix.demo.tiny_models import ModelNames
from comfyui_omnix.workflows import build, thumbnails
from PIL import Image

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[1]
UI = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
API = {path.stem: path for path in sorted((ROOT / "workflows" / "api").glob("*.json"))}
BLUEPRINTS = {path.stem: path for path in sorted((ROOT / "subgraphs").glob("*.json"))}
FORMS = {
    "image_to_pano": "OmniX 1 - Image to panorama",
    "text_to_pano": "OmniX 2 - Text to panorama",
    "rgb_to_depth": "OmniX 3 - Panorama to depth",
    "rgb_to_normal": "OmniX 4 - Panorama to normal",
    "rgb_camray_to_normal": "OmniX 5 - Panorama to normal with camera rays",
    "rgb_to_albedo": "OmniX 6 - Panorama to albedo",
    "rgb_to_pbr": "OmniX 7 - Panorama to roughness and metallic",
    "rgb_to_semantic": "OmniX 8 - Panorama to semantic",
    "all_maps": "OmniX 9 - Panorama to all maps",
    "save_prompt": "OmniX extra - Save the prompt once",
}
SAVED = {
    "image_to_pano": ["panorama"],
    "text_to_pano": ["panorama"],
    "rgb_to_depth": ["depth"],
    "rgb_to_normal": ["normal"],
    "rgb_camray_to_normal": ["normal"],
    "rgb_to_albedo": ["albedo"],
    "rgb_to_pbr": ["roughness", "metallic"],
    "rgb_to_semantic": ["semantic"],
    "all_maps": ["depth", "normal", "albedo", "roughness", "metallic", "semantic"],
}
WHOLE = {
    "Panorama to depth (OmniX)": "rgb_to_depth",
    "Panorama to normal (OmniX)": "rgb_to_normal",
    "Panorama to albedo (OmniX)": "rgb_to_albedo",
    "Panorama to roughness and metallic (OmniX)": "rgb_to_pbr",
    "Panorama to semantic (OmniX)": "rgb_to_semantic",
    "Image to panorama (OmniX)": "image_to_pano",
}
FIELDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
FILES = ("unet_name", "vae_name", "clip_name1", "clip_name2", "folder", "image")
NAMES = ModelNames()
WIDTH, HEIGHT = 128, 64

Graph = dict[str, dict[str, Any]]
Definition = Mapping[str, Any]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def describe(server: Server) -> Any:
    return functools.cache(server.node_info)


def test_every_graph_is_there() -> None:
    assert sorted(UI) == sorted(FORMS.values())
    assert sorted(API) == sorted(FORMS)
    assert sorted(BLUEPRINTS) == sorted(WHOLE)


def test_files_are_up_to_date(describe: Any) -> None:
    """What `python workflows/build.py` writes is what is committed."""
    stale = [path for path, text in build.files(describe) if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, "run python workflows/build.py"


def described(definition: Definition, chosen: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """Yield (name, type, options, optional) of a node's inputs, those of chosen options included."""
    for section in ("required", "optional"):
        for name, spec in definition["input"].get(section, {}).items():
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            yield name, kind, options, section == "optional"
            if kind == "COMFY_DYNAMICCOMBO_V3":
                picked = [option for option in options["options"] if option["key"] == chosen[name]]
                assert len(picked) == 1, f"{name}: {chosen[name]} is no option"
                for inner, (inner_kind, inner_options) in picked[0]["inputs"]["required"].items():
                    yield f"{name}.{inner}", inner_kind, inner_options, False


@pytest.mark.parametrize("slug", API)
def test_posted_form_is_valid(slug: str, describe: Any) -> None:
    """Every node is known, every input is given and no other, every link fits, every value is allowed."""
    graph = read(API[slug])
    for name, node in graph.items():
        definition = describe(node["class_type"])
        assert definition, f"{name}: the host has no {node['class_type']}"
        inputs = dict(node["inputs"])
        for field, kind, options, optional in described(definition, node["inputs"]):
            if field not in inputs:
                assert optional and kind not in FIELDS, f"{name}: {field} is missing"
                continue
            given = inputs.pop(field)
            if isinstance(given, list):
                check_link(graph, given, kind, options, describe, f"{name}.{field}")
            else:
                check_value(given, kind, options, field)
        assert not inputs, f"{name}: the host does not know {sorted(inputs)}"


def check_link(graph: Graph, link: list[Any], kind: str, options: Definition, describe: Any, where: str) -> None:
    source = graph[link[0]]["class_type"]
    produced = describe(source)["output"][link[1]]
    wanted = options["template"]["allowed_types"] if kind == "COMFY_MATCHTYPE_V3" else kind
    # The one node here that gives what it takes is given images.
    produced = "IMAGE" if produced == "COMFY_MATCHTYPE_V3" else produced
    assert produced in wanted.split(","), f"{where}: {source} gives {produced}, expected {wanted}"


def check_value(given: Any, kind: str, options: Definition, field: str) -> None:
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if kind in types:
        assert isinstance(given, types[kind]), field
    if kind in ("INT", "FLOAT"):
        assert options.get("min", given) <= given <= options.get("max", given), field
    if kind == "COMBO" and field not in FILES:
        assert given in options["options"], field


def posted(nodes: list[Any], links: dict[int, tuple[int, int]], describe: Any) -> dict[int, dict[str, Any]]:
    """Turn the browser's nodes into the posted form as the browser does; `links` maps a link to where it comes from."""
    found = {}
    for node in nodes:
        if node["type"] == "MarkdownNote":
            continue
        values = iter(node["widgets_values"])
        linked = {slot["name"]: slot["link"] for slot in node["inputs"] if slot.get("link") is not None}
        inputs: dict[str, Any] = {}
        for name, kind, options, _ in described(describe(node["type"]), inputs):
            if kind in FIELDS:
                inputs[name] = next(values)
                for extra in ("control_after_generate", "image_upload"):
                    if options.get(extra):
                        assert next(values) in ("fixed", "randomize", "image")
            if name in linked:
                inputs[name] = list(links[linked.pop(name)])
        assert next(values, None) is None and not linked
        found[node["id"]] = {"class_type": node["type"], "inputs": inputs}
    return found


def relabelled(graph: Mapping[Any, Any], names: Mapping[Any, str]) -> Graph:
    """Give a graph's nodes other names; titles are left out."""
    return {
        names[key]: {
            "class_type": node["class_type"],
            "inputs": {
                field: [names[given[0]], given[1]] if isinstance(given, list) else given
                for field, given in node["inputs"].items()
            },
        }
        for key, node in graph.items()
    }


@pytest.mark.parametrize("slug", FORMS)
def test_forms_are_the_same_graph(slug: str, describe: Any) -> None:
    form, graph = read(UI[FORMS[slug]]), read(API[slug])
    links = {link[0]: (link[1], link[2]) for link in form["links"]}
    found = posted(form["nodes"], links, describe)
    assert relabelled(found, dict(zip(found, graph))) == relabelled(graph, {name: name for name in graph})


@pytest.mark.parametrize("name", UI)
def test_browser_form_is_consistent(name: str, describe: Any) -> None:
    form = read(UI[name])
    nodes = {node["id"]: node for node in form["nodes"]}
    assert len(nodes) == len(form["nodes"]) == form["last_node_id"] == max(nodes)
    assert len({link[0] for link in form["links"]}) == len(form["links"]) == form["last_link_id"]
    for number, origin, output, target, slot, kind in form["links"]:
        assert number in nodes[origin]["outputs"][output]["links"]
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number
        assert kind in nodes[target]["inputs"][slot]["type"].split(",")
    ends = [n for node in form["nodes"] for out in node["outputs"] for n in out["links"]]
    assert sorted(ends) == sorted(link[0] for link in form["links"])


@pytest.mark.parametrize("name", UI)
def test_nothing_overlaps(name: str) -> None:
    form = read(UI[name])
    boxes = [(*node["pos"], *node["size"]) for node in form["nodes"]]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
            assert apart
    frames = [group["bounding"] for group in form["groups"]]
    for node in form["nodes"]:
        (x, y), (w, h) = node["pos"], node["size"]
        around = [f for f in frames if f[0] < x and f[1] < y and x + w < f[0] + f[2] and y + h < f[1] + f[3]]
        assert len(around) == (node["type"] != "MarkdownNote")


@pytest.mark.parametrize("path", [*UI.values(), *BLUEPRINTS.values()], ids=lambda path: path.stem)
def test_nodes_say_where_they_come_from(path: Path) -> None:
    """The browser offers the missing pack and the missing files from these entries."""
    form = read(path)
    inner = [node for graph in form.get("definitions", {}).get("subgraphs", []) for node in graph["nodes"]]
    loaders = 0
    for node in inner or form["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"].startswith("OmniX")
        assert node["properties"]["cnr_id"] == ("omnix-panorama" if ours else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        models = node["properties"].get("models", [])
        if node["type"] in ("UNETLoader", "VAELoader", "DualCLIPLoader"):
            loaders += 1
            files = [value for value in node["widgets_values"] if value.endswith(".safetensors")]
            assert [model["name"] for model in models] == files
        for model in models:
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(model["name"])
            assert model["directory"] in ("diffusion_models", "vae", "text_encoders")
    assert loaders


@pytest.mark.parametrize("slug", FORMS)
def test_notes_name_every_file(slug: str) -> None:
    """The notes list what has to be downloaded for the graph, and where it belongs."""
    form, graph = read(UI[FORMS[slug]]), read(API[slug])
    notes = "\n".join(node["widgets_values"][0] for node in form["nodes"] if node["type"] == "MarkdownNote")
    for node in graph.values():
        wanted = [v for v in node["inputs"].values() if isinstance(v, str) and v.endswith(".safetensors")]
        task = node["inputs"].get("task")
        for stream in STREAMS.get(task, ()):
            wanted.append(f"models/loras/OmniX/{task}/{stream}/pytorch_lora_weights.safetensors")
        assert all(name in notes for name in wanted)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_is_its_graph(name: str, describe: Any) -> None:
    """Unfolded, a blueprint is the task's graph without loading, saving and looking."""
    form = read(BLUEPRINTS[name])
    (outer,), (inner,) = form["nodes"], form["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and inner["name"] == name and inner["category"] == "OmniX"
    assert inner["description"] and form["extra"]["BlueprintSearchAliases"]
    assert [(i["name"], i["type"]) for i in outer["inputs"]] == [(i["name"], i["type"]) for i in inner["inputs"]]
    assert [(o["name"], o["type"]) for o in outer["outputs"]] == [(o["name"], o["type"]) for o in inner["outputs"]]
    whole = read(API[WHOLE[name]])
    inputs = {-10: [port["name"] for port in inner["inputs"]]}
    links = {
        link["id"]: (link["origin_id"], link["origin_slot"]) for link in inner["links"] if link["target_id"] != -20
    }
    graph = posted(inner["nodes"], links, describe)
    for node in graph.values():
        task = node["inputs"].get("task")
        assert task in (None, WHOLE[name])
    kept = [key for key, node in whole.items() if node["class_type"] not in OUTSIDE]
    assert [whole[key]["class_type"] for key in kept] == [node["class_type"] for node in graph.values()]
    names = {**dict(zip(graph, kept)), -10: "outside"}
    for key, node in relabelled(graph, names).items():
        for field, given in node["inputs"].items():
            if isinstance(given, list) and given[0] == "outside":
                assert inputs[-10][given[1]]
            else:
                assert given == whole[key]["inputs"][field]


OUTSIDE = ("LoadImage", "SaveImage", "SaveImageAdvanced", "OmniXPanoramaViewer", "OmniXColourDepth")


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_links_meet(name: str) -> None:
    """Every port of a blueprint has its links, and they exist on both ends."""
    inner = read(BLUEPRINTS[name])["definitions"]["subgraphs"][0]
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = {link["id"]: link for link in inner["links"]}
    assert len(links) == len(inner["links"]) == inner["state"]["lastLinkId"]
    for side, end, slot in (("inputs", "origin_id", "origin_slot"), ("outputs", "target_id", "target_slot")):
        for position, port in enumerate(inner[side]):
            assert port["linkIds"]
            assert all(links[i][end] == (-10 if side == "inputs" else -20) for i in port["linkIds"])
            assert all(links[i][slot] == position and links[i]["type"] == port["type"] for i in port["linkIds"])
    for link in links.values():
        if link["target_id"] != -20:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        if link["origin_id"] != -10:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_server_offers_the_blueprint(name: str, server: Server) -> None:
    offered = server._get("/global_subgraphs")
    (key,) = [key for key, entry in offered.items() if entry["name"] == name]
    assert offered[key]["source"] == "custom_node"
    assert json.loads(server._get(f"/global_subgraphs/{key}")["data"]) == read(BLUEPRINTS[name])


def test_server_offers_the_templates(server: Server) -> None:
    offered = server._get("/workflow_templates")["omnix-panorama"]
    assert sorted(offered) == sorted(UI)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thumbnails")
    thumbnails.draw_all(folder, FORMS)
    return folder


@pytest.mark.parametrize("name", UI)
def test_thumbnail(name: str, drawn: Path) -> None:
    """Small enough for a browser, and what the command draws (another JPEG library may round otherwise)."""
    path = ROOT / "workflows" / f"{name}.jpg"
    assert path.stat().st_size < 40_000
    with Image.open(path) as image, Image.open(drawn / path.name) as again:
        assert image.format == "JPEG" and image.size == (400, 200)
        one, two = (np.asarray(picture.convert("RGB"), dtype=float) for picture in (image, again))
        assert one.std() > 15
        assert np.abs(one - two).mean() < 3


@pytest.fixture(scope="module")
def files(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put tiny adapters for every task, a panorama and a picture where the graphs look for them."""
    for task, streams in STREAMS.items():
        for number, stream in enumerate(streams):
            folder = server.base / "models" / "loras" / "OmniX" / task / stream
            tiny.save(tiny.adapter(seed=number), folder / "pytorch_lora_weights.safetensors")
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([2 * x, 4 * y, 128 + 0 * x], -1).astype(np.uint8)
    folder = tmp_path_factory.mktemp("pictures")
    for name, shown in (("panorama.png", pixels), ("example.png", pixels[:, :HEIGHT])):
        Image.fromarray(shown).save(folder / name)
        assert server.upload(folder / name) == name


SMALL = {
    "unet_name": NAMES.flux,
    "vae_name": NAMES.vae,
    "clip_name1": NAMES.clip_l,
    "clip_name2": NAMES.t5,
    "steps": 2,
    "resize_type.width": WIDTH,
}
SIZES = {
    "OmniXPlaceOnPanorama": {"width": WIDTH, "height": HEIGHT},
    "EmptySD3LatentImage": {"width": HEIGHT, "height": HEIGHT},
    "ModelSamplingFlux": {"width": HEIGHT, "height": HEIGHT},
}


def small(graph: Graph) -> Graph:
    """Point a shipped graph at the tiny models and sizes; links stay as they are."""
    for node in graph.values():
        for field, given in {**SMALL, **SIZES.get(node["class_type"], {})}.items():
            if not isinstance(node["inputs"].get(field, []), list):
                node["inputs"][field] = given
    return graph


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", SAVED)
def test_graph_runs(slug: str, server: Server) -> None:
    """Posted as it is but for files and size, a graph finishes and saves every map in the panorama's size."""
    result = server.run(small(read(API[slug])))
    for name in SAVED[slug]:
        (data,) = server.images(result, f"save_{name}")
        image = np.asarray(Image.open(io.BytesIO(data)))
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.std() > 1
    shown = {entry["label"] for entry in result.outputs["viewer"]["omnix_maps"]}
    assert shown == {"image"} | (set(SAVED[slug]) - {"panorama"})
    if "depth" in SAVED[slug]:
        (file,) = result.files("save_depth_exr")
        assert file["filename"].endswith(".exr")
        assert server.fetch(file)[:4] == b"\x76\x2f\x31\x01"


@pytest.mark.usefixtures("files")
def test_saved_prompt_replaces_the_text_encoders(server: Server) -> None:
    """With the prompt saved once, perception gives the same picture and needs no text encoder."""
    written = server.run(small(read(API["save_prompt"])))
    name = Path(written.outputs["save"]["text"][0]).name
    graph = small(read(API["rgb_to_albedo"]))
    (before,) = server.images(server.run(graph), "save_albedo")
    for encoder in ("clip", "prompt", "text"):
        del graph[encoder]
    graph["guided"] = {"class_type": "OmniXLoadConditioning", "inputs": {"name": name}}
    (after,) = server.images(server.run(graph), "save_albedo")
    one, two = (np.asarray(Image.open(io.BytesIO(data))) for data in (before, after))
    assert np.array_equal(one, two)
