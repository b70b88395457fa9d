"""Both languages have a text for every node, input, output and option, and for nothing else."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from comfyui_omnix.graph.older import WORKFLOWS
from comfyui_omnix.lab.host.server import ROOT, Server
from comfyui_omnix.lab.pages import descriptions

LANGUAGES = ("en", "zh")
# Texts that are not translated into Chinese: names, file names, and values that users also see in English.
SAME = {"vae", "Latent", "ORM", "OpenGL", "DirectX", "Turbo", "PNG", "JPEG"} | {
    workflow for workflow, _ in WORKFLOWS.values()
}


@pytest.fixture(scope="module")
def schemas() -> list[Any]:
    return asyncio.run(descriptions.schemas())


def locale(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every text with the keys that lead to it."""
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, (*path, key))


def wanted(schemas: list[Any]) -> dict[tuple[str, ...], str]:
    return dict(leaves({schema.node_id: descriptions.definition(schema) for schema in schemas}))


def test_the_generated_files_are_up_to_date(schemas: list[Any]) -> None:
    for path, content in descriptions.files(schemas):
        assert (ROOT / path).read_text(encoding="utf-8") == content, f"{path}: run python lab/pages/descriptions.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_is_covered_and_nothing_is_stale(language: str, schemas: list[Any]) -> None:
    got, want = dict(leaves(locale(language))), wanted(schemas)
    assert sorted(want.keys() - got.keys()) == []
    assert sorted(got.keys() - want.keys()) == []


def test_a_schema_has_texts_of_every_kind(schemas: list[Any]) -> None:
    want = wanted(schemas)
    assert {"display_name", "description", "name", "tooltip", "options"} <= {key for path in want for key in path}
    assert ("OmniXColourDepth", "inputs", "colours", "options", "turbo") in want
    assert ("OmniXLoadAdapters", "inputs", "folder", "options") not in {path[:4] for path in want}


def test_missing_and_stale_keys_would_be_noticed(schemas: list[Any]) -> None:
    want = wanted(schemas)
    assert len(want) > 150
    assert all(isinstance(text, str) and text.strip() for text in want.values())


def test_chinese_is_chinese(schemas: list[Any]) -> None:
    english = wanted(schemas)
    for path, text in leaves(locale("zh")):
        assert re.search(r"[\u4e00-\u9fff]", text) or text in SAME, f"{path}: {text}"
        assert text != english[path] or text in SAME, path
        # Full-width punctuation between Chinese characters, as in ComfyUI's own texts.
        assert not re.search(r"[\u4e00-\u9fff][,;:!?()]", text), f"{path}: {text}"


def test_chinese_names_other_nodes_as_they_are_called() -> None:
    texts = locale("zh")
    names = {entry["display_name"] for entry in texts.values()}
    for path, text in leaves(texts):
        quoted = re.findall(r"“([^”]+)”", text)
        assert set(quoted) <= names | {"捕获", "模板"}, path


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_what_the_frontend_reads_as_markup(language: str) -> None:
    """`@` links, `{}` interpolates and `|` makes plurals in the frontend's message format."""
    for path, text in leaves(locale(language)):
        assert not re.search(r"[@{}|$]", text), path
    for node in locale(language):
        assert "." not in node


def test_numbers_and_names_survive_translation(schemas: list[Any]) -> None:
    """File names, tasks, sizes and axes are the same in both languages."""
    fixed = re.compile(r"models/\w+|\w+\.safetensors|rgb_\w+|image_to_pano|\[EQUIRECTANGULAR\]|[+-][XYZ]|\bT5\b|\d+")
    english = wanted(schemas)
    for path, text in leaves(locale("zh")):
        if "options" not in path:
            assert set(fixed.findall(english[path])) == set(fixed.findall(text)), path


def test_there_are_no_other_files() -> None:
    folder = ROOT / "locales"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {f"{language}/nodeDefs.json" for language in LANGUAGES}


@pytest.mark.server
def test_the_host_serves_both(server: Server) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    served = json.loads(direct.open(f"{server.url}/i18n", timeout=60).read())
    for language in LANGUAGES:
        for node, entry in locale(language).items():
            assert served[language]["nodeDefs"][node] == entry


def test_the_viewer_says_everything_in_chinese() -> None:
    """Every English sentence that its scripts say is a key of its table, and every key is said somewhere."""
    folder = ROOT / "web" / "panorama"
    table = (folder / "words.js").read_text(encoding="utf-8").split("export function")[0]
    chinese = dict(re.findall(r'"([^"]+)":\s+"([^"]+)"', table))
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js") if path.name != "words.js")
    assert len(chinese) > 30 and all(re.search(r"[\u4e00-\u9fff]", text) for text in chinese.values())
    said = {text for text in re.findall(r'"((?:[^"\\]|\\.)*)"', scripts) if re.search(r"[A-Z].* |\{0\}", text)}
    code = {text for text in said if re.match(r"The panorama viewer's shader", text)}
    assert said - code <= chinese.keys()
    maps = {"image", "depth", "normal", "albedo", "roughness", "metallic", "semantic"}
    assert [text for text in chinese if f'"{text}"' not in scripts and text not in maps] == []
