"""The shipped graphs on disk, and how the browser turns its form of a graph into the posted one, told from the host."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
