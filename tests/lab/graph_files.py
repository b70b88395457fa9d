"""The shipped graphs on disk, and how the browser turns its form of a graph into the posted one, read from the host."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UI = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
OWN_MODEL = ("OmniX 13 - Any model to panorama to maps",)
"""Workflows that need a user's own checkpoint: no test has one, so the host's message covers them."""
API = {path.stem: path for path in sorted((ROOT / "lab" / "workflows" / "api").glob("*.json"))}
BLUEPRINTS = {path.stem: path for path in sorted((ROOT / "subgraphs").glob("*.json"))}
FORMS = {
    "image_to_pano": "OmniX 01 - Image to panorama",
    "text_to_pano": "OmniX 02 - Text to panorama",
    "rgb_to_depth": "OmniX 03 - Panorama to depth",
    "rgb_to_normal": "OmniX 04 - Panorama to normal",
    "rgb_camray_to_normal": "OmniX 05 - Panorama to normal with camera rays",
    "rgb_to_albedo": "OmniX 06 - Panorama to albedo",
    "rgb_to_pbr": "OmniX 07 - Panorama to roughness and metallic",
    "rgb_to_semantic": "OmniX 08 - Panorama to semantic",
    "all_maps": "OmniX 09 - Panorama to all maps",
    "panorama_to_scene": "OmniX 10 - Panorama to 3D scene",
    "photo_to_scene": "OmniX 11 - Photo to 3D scene",
    "whole_scene": "OmniX 12 - Panorama to whole 3D scene",
    "any_model": "OmniX 13 - Any model to panorama to maps",
    "save_prompt": "OmniX extra - Save the prompt once",
}
# Nodes of the graphs that the oldest hosts lack -> the first version that has them.
SINCE = {"SaveImageAdvanced": "0.23.0"}
FIELDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")

Graph = dict[str, dict[str, Any]]
Definition = Mapping[str, Any]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def by_host(paths: Mapping[str, Path]) -> list[Any]:
    """Return the names of graphs as parameters of a test, those marked that need a newer host."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    return [
        pytest.param(name, marks=[pytest.mark.since(version) for node, version in SINCE.items() if node in text])
        for name, text in texts.items()
    ]


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


def posted(form: Mapping[str, Any], describe: Any) -> dict[str, dict[str, Any]]:
    """Turn the browser's form of a workflow into the posted one as the browser does, its boxes opened ("box:node")."""
    definitions = {graph["id"]: graph for graph in form.get("definitions", {}).get("subgraphs", [])}
    links = {link[0]: (link[1], link[2]) for link in form["links"]}
    found: dict[str, dict[str, Any]] = {}
    for node in form["nodes"]:
        if node["type"] in definitions:
            for number, inner in inside(definitions[node["type"]], describe).items():
                inputs = {
                    field: outer(node, form, given, links, definitions) for field, given in inner["inputs"].items()
                }
                inputs = {field: given for field, given in inputs.items() if given is not UNSET}
                found[f"{node['id']}:{number}"] = {**inner, "inputs": {**inner["own"], **inputs}}
        elif node["type"] != "MarkdownNote":
            plain = fields(node, describe)
            linked = {
                slot["name"]: source(form, *links[slot["link"]], definitions)
                for slot in node["inputs"]
                if slot.get("link") is not None
            }
            found[str(node["id"])] = {"class_type": node["type"], "inputs": {**plain, **linked}}
    return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in found.items()}


UNSET = object()


def inside(definition: Definition, describe: Any) -> dict[int, dict[str, Any]]:
    """Return a box's nodes by number: the fields of each, and its links as (number or -10, slot)."""
    links = {link["id"]: (link["origin_id"], link["origin_slot"]) for link in definition["links"]}
    return {
        node["id"]: {
            "class_type": node["type"],
            "own": fields(node, describe),
            "inputs": {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot.get("link") is not None},
        }
        for node in definition["nodes"]
    }


def outer(node: Any, form: Any, given: tuple[int, int], links: Any, definitions: Any) -> Any:
    """Return what an input inside of a box gets: a link, or UNSET where the field inside counts."""
    if given[0] != -10:
        return [f"{node['id']}:{given[0]}", given[1]]
    link = node["inputs"][given[1]].get("link")
    return UNSET if link is None else source(form, *links[link], definitions)


def source(form: Any, number: int, slot: int, definitions: Any) -> list[Any]:
    """Return the link to an output, followed into the box that it belongs to."""
    node = next(node for node in form["nodes"] if node["id"] == number)
    if node["type"] not in definitions:
        return [str(number), slot]
    leaving = [w for w in definitions[node["type"]]["links"] if (w["target_id"], w["target_slot"]) == (-20, slot)]
    return [f"{number}:{leaving[0]['origin_id']}", leaving[0]["origin_slot"]]


def fields(node: Any, describe: Any) -> dict[str, Any]:
    """Read the values of a node's fields, in the frontend's order: a button for uploads comes last."""
    values = iter(node["widgets_values"])
    inputs: dict[str, Any] = {}
    ending = 0
    for name, kind, options, _ in described(describe(node["type"]), inputs):
        if kind in FIELDS and not options.get("forceInput"):
            inputs[name] = next(values)
            if options.get("control_after_generate"):
                assert next(values) in ("fixed", "randomize")
            ending += bool(options.get("image_upload"))
    assert list(values) == ["image"] * ending
    return inputs


def merged(graph: Graph) -> Graph:
    """Put nodes that do the same work together, as the host does when it runs them; names are those of the first."""
    same: dict[str, str] = {}
    kept: dict[str, str] = {}
    found: Graph = {}
    waiting = dict(graph)
    while waiting:
        for name, node in list(waiting.items()):
            links = [given[0] for given in node["inputs"].values() if isinstance(given, list)]
            if not all(link in same for link in links):
                continue
            inputs = {f: [same[v[0]], v[1]] if isinstance(v, list) else v for f, v in node["inputs"].items()}
            work = json.dumps([node["class_type"], inputs], sort_keys=True)
            same[name] = kept.setdefault(work, name)
            if same[name] == name:
                found[name] = {"class_type": node["class_type"], "inputs": inputs}
            del waiting[name]
    return found


def shape(graph: Graph) -> list[str]:
    """Return what every node does, its sources included, without names: equal for equal graphs."""
    done: dict[str, str] = {}

    def work(name: str) -> str:
        if name not in done:
            node = graph[name]
            given = {f: [work(v[0]), v[1]] if isinstance(v, list) else v for f, v in sorted(node["inputs"].items())}
            done[name] = hashlib.sha256(json.dumps([node["class_type"], given]).encode()).hexdigest()
        return done[name]

    return sorted(work(name) for name in graph)
