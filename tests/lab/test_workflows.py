"""The shipped graphs: up to date, valid for the host, the same in every form, and readable."""

import functools
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.pages import thumbnails
from comfyui_omnix.lab.workflows import build, forms
from comfyui_omnix.omnix.runtime.tasks import STREAMS
from graph_files import (
    API,
    BLUEPRINTS,
    FIELDS,
    FORMS,
    ROOT,
    UI,
    Definition,
    Graph,
    by_host,
    described,
    merged,
    posted,
    read,
    shape,
)
from PIL import Image

pytestmark = pytest.mark.server
FILES = ("unet_name", "vae_name", "clip_name1", "clip_name2", "ckpt_name", "lora_name", "folder", "image")


@pytest.fixture(scope="module")
def describe(server: Server) -> Any:
    return functools.cache(server.node_info)


def test_every_graph_is_there() -> None:
    assert sorted(UI) == sorted(FORMS.values())
    assert sorted(API) == sorted(FORMS)


@pytest.mark.since("0.30.0")  # older hosts describe some nodes of their own in another way
def test_files_are_up_to_date(describe: Any) -> None:
    """What `python lab/workflows/build.py` writes is what is committed."""
    stale = [path for path, text in build.files(describe) if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, "run python lab/workflows/build.py"


@pytest.mark.parametrize("slug", by_host(API))
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
    assert wanted == "*" or produced in wanted.split(","), f"{where}: {source} gives {produced}, expected {wanted}"


def check_value(given: Any, kind: str, options: Definition, field: str) -> None:
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if kind in types:
        assert isinstance(given, types[kind]), field
    if kind in ("INT", "FLOAT"):
        assert options.get("min", given) <= given <= options.get("max", given), field
    if kind == "COMBO" and field not in FILES:
        assert given in options["options"], field


@pytest.mark.parametrize("slug", by_host({slug: API[slug] for slug in FORMS}))
def test_forms_are_the_same_graph(slug: str, describe: Any) -> None:
    found, graph = merged(posted(read(UI[FORMS[slug]]), describe)), read(API[slug])
    assert shape(found) == shape({name: {**node} for name, node in graph.items()})


@pytest.mark.parametrize("name", UI)
def test_browser_form_is_consistent(name: str, describe: Any) -> None:
    form = read(UI[name])
    nodes = {node["id"]: node for node in form["nodes"]}
    inside = form.get("definitions", {}).get("subgraphs", [])
    numbers = [node["id"] for graph in (form, *inside) for node in graph["nodes"]]
    assert len({*numbers}) == len(numbers) and form["last_node_id"] == max(numbers)
    wires = [link[0] for link in form["links"]] + [link["id"] for graph in inside for link in graph["links"]]
    assert len({*wires}) == len(wires) and form["last_link_id"] == max(wires)
    frames = [frame["id"] for graph in (form, *inside) for frame in graph["groups"]]
    assert len({*frames}) == len(frames)
    for number, origin, output, target, slot, kind in form["links"]:
        assert number in nodes[origin]["outputs"][output]["links"]
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number
        assert {kind, "*"} & set(nodes[target]["inputs"][slot]["type"].split(","))
    ends = [n for node in form["nodes"] for out in node["outputs"] for n in out["links"]]
    assert sorted(ends) == sorted(link[0] for link in form["links"])


def test_a_template_is_fitted_between_the_same_bars_as_a_file() -> None:
    script = (ROOT / "web" / "view.js").read_text(encoding="utf-8")
    bars = {name: int(number) for name, number in re.findall(r"(left|top|right|bottom): (\d+)", script)}
    (width, height), (left, top) = forms.SCREEN, forms.SCREEN_AT
    assert bars == {"left": left, "top": top, "right": 1920 - left - width, "bottom": 1080 - top - height}
    assert re.findall(r"TITLE = (\d+)", script) == [str(forms.TITLES)]


@pytest.mark.parametrize("name", UI)
def test_nothing_overlaps(name: str) -> None:
    form = read(UI[name])
    boxes = [(*node["pos"], *node["size"]) for node in form["nodes"]]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
            assert apart


@pytest.mark.parametrize("name", UI)
def test_a_workflow_is_few_boxes(name: str) -> None:
    """What is inside can be looked at; what stands outside is what people change and see."""
    form = read(UI[name])
    assert len([node for node in form["nodes"] if node["type"] != "MarkdownNote"]) <= 10
    boxes = {graph["id"]: graph["name"] for graph in form.get("definitions", {}).get("subgraphs", [])}
    assert set(boxes.values()) <= set(BLUEPRINTS)
    for graph in form.get("definitions", {}).get("subgraphs", []):
        blueprint = read(BLUEPRINTS[graph["name"]])
        assert graph == blueprint["definitions"]["subgraphs"][0], "a workflow's box is the blueprint of that name"
    if "Panorama to" in name:
        assert any(node["type"] == "OmniXLoadPanorama" for node in form["nodes"])


@pytest.mark.parametrize("name", UI)
def test_the_app_shows_fields_and_pictures_that_are_there(name: str) -> None:
    form = read(UI[name])
    nodes = {node["id"]: node for node in form["nodes"]}
    app = form["extra"].get("linearData", {"inputs": [], "outputs": []})
    for number, field in app["inputs"]:
        assert {"name": field} in [slot.get("widget") for slot in nodes[number]["inputs"]]
    assert all(nodes[number]["type"] in ("OmniXSavePanorama", "SaveImage", "SaveGLB") for number in app["outputs"])
    assert bool(app["outputs"]) == (name != "OmniX extra - Save the prompt once")


@pytest.mark.parametrize("path", [*UI.values(), *BLUEPRINTS.values()], ids=lambda path: path.stem)
def test_nodes_say_where_they_come_from(path: Path) -> None:
    """The browser offers the missing pack and the missing files from these entries."""
    form = read(path)
    graphs = form.get("definitions", {}).get("subgraphs", [])
    boxes = {graph["id"] for graph in graphs}
    loaders = 0
    for node in [*form["nodes"], *(node for graph in graphs for node in graph["nodes"])]:
        if node["type"] in ("MarkdownNote", *boxes):
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
    loading = "FLUX.1-dev (OmniX)" in [graph["name"] for graph in graphs] or "extra" in path.stem
    assert bool(loaders) == loading


@pytest.mark.parametrize("slug", FORMS)
def test_notes_name_every_file(slug: str) -> None:
    """The notes list what has to be downloaded for the graph, and where it belongs; their command gets the adapters."""
    graph, notes = read(API[slug]), "\n".join(notes_of(FORMS[slug]))
    patterns = [*re.findall(r"'([\w*]+/?\*)'", notes)]
    for node in graph.values():
        wanted = [v for v in node["inputs"].values() if isinstance(v, str) and v.endswith(".safetensors")]
        assert all(name in notes for name in wanted)
        for stream in STREAMS.get(node["inputs"].get("task"), ()):
            file = f"{node['inputs']['task']}/{stream}/pytorch_lora_weights.safetensors"
            assert any(fnmatch(file, pattern) for pattern in patterns) and "`models/loras/OmniX`" in notes
    assert not patterns or notes.count("python_embeded") == 1


def notes_of(name: str) -> list[str]:
    return [node["widgets_values"][0] for node in read(UI[name])["nodes"] if node["type"] == "MarkdownNote"]


# What notes name in italics that is no field: what the frontend and the viewer write on their buttons.
BUTTONS = {"Enter subgraph", "Capture", "with saved prompt"}


@pytest.mark.parametrize("name", UI)
def test_notes_name_nodes_and_fields_as_they_are_on_the_canvas(name: str, describe: Any) -> None:
    form = read(UI[name])
    nodes = [node for node in form["nodes"] if node["type"] != "MarkdownNote"]
    inner = [node for graph in form.get("definitions", {}).get("subgraphs", []) for node in graph["nodes"]]
    titles = {node.get("title") or describe(node["type"])["display_name"] for node in nodes}
    inside = {node.get("title") or describe(node["type"])["display_name"] for node in inner}
    slots = {slot["name"] for node in nodes for slot in (*node["inputs"], *node["outputs"])}
    boxes = {title for path in BLUEPRINTS for title in (path, path.removesuffix(" (OmniX)"))}
    for text in notes_of(name):
        assert "omnix-panorama/omnix-panorama" in text, "web/notes.css finds our notes by it"
        for sentence in re.split(r"\n|(?<=\.) ", re.sub(r"(?s)```.*?```", "", text)):
            bold = re.findall(r"\*\*([^*]+)\*\*", sentence)
            italic = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", re.sub(r"\*\*[^*]+\*\*", "", sentence))
            known = titles | {"Run", "R"} | (inside if "inside the box" in sentence else set())
            assert {*bold} <= known, sentence
            assert {*italic} <= slots | {*UI} | BUTTONS | (boxes | {"saved_prompt"} if "extra" in name else set())
            for field in {*italic} & slots:
                for title in re.findall(rf"\*{re.escape(field)}\* of \*\*([^*]+)\*\*", sentence):
                    (node,) = [n for n in nodes if (n.get("title") or "") == title]
                    assert field in [slot["name"] for slot in node["inputs"]], f"{title} has no {field}"


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
