"""The help pages: one for every node; they agree with the schemas, the code's messages and the names on the screen."""

import ast
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_omnix import nodes
from comfyui_omnix.lab.host.server import PACK, ROOT, Server
from PIL import Image

DOCS = ROOT / "web" / "docs"
IDS = [node.__name__ for node in nodes.NODES]
SECTIONS = ["Inputs", "Outputs", "When it fails", "Example"]
CHINESE = {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*/zh.md"))}
NEVER_FAIL = {"OmniXPrompt"}
# A template with fewer fixed letters would match almost any sentence.
LETTERS = 30


def page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    found = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", text)
    assert found is not None, title
    return found[1]


def messages(node: str) -> list[str]:
    """The sentences that a page says the node may fail with."""
    return re.findall(r"(?m)^- `(.+)`$", section(page(node), "When it fails"))


def templates() -> list[re.Pattern[str]]:
    """Every text in the code that people may read, with its blanks open."""
    files = [
        path
        for room in ("graph", "omnix", "converters", "evaluation", "mapfiles")
        for path in (ROOT / room).rglob("*.py")
    ]
    found = [text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8")))]
    return [re.compile(text) for text in found if len(re.findall(r"[a-z]", text.replace(".*", ""))) >= LETTERS]


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".*" for one in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)


TEMPLATES = templates()


def is_said(message: str) -> bool:
    return any(template.fullmatch(message) for template in TEMPLATES)


def test_one_page_for_every_node_and_no_other() -> None:
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted(IDS)


@pytest.mark.parametrize("node", IDS)
def test_a_page_has_its_parts_in_order(node: str) -> None:
    text = page(node)
    assert re.findall(r"(?m)^## (.+)$", text) == SECTIONS
    assert re.search(r"(?m)\A# .+\n\n[A-Z][^\n]{30}", text)
    assert all(section(text, title).strip() for title in SECTIONS)
    assert max(map(len, re.sub(r"(?m)^(\||- `).*$", "", text).splitlines())) <= 125


@pytest.mark.parametrize("node", IDS)
def test_a_page_quotes_the_sentences_of_the_code(node: str) -> None:
    assert bool(messages(node)) != (node in NEVER_FAIL)
    for message in messages(node):
        assert is_said(message), message


def test_a_sentence_that_nobody_says_would_be_noticed() -> None:
    assert len(TEMPLATES) > 50
    assert not is_said(
        "A panorama is twice as high as wide, got 640x480; resize it to 960x480 first. "
        "If it isn't a panorama, load another picture."
    )
    assert not is_said("The seam is too wide for this latent; lower seam_columns or use a larger picture.")


@pytest.mark.parametrize("node", IDS)
def test_a_page_has_a_picture_of_its_own(node: str) -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page(node))
    assert [name for _, name in shown] == [f"{node}.jpg"]
    assert len(shown[0][0]) > 10
    path = DOCS / f"{node}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and 250 <= picture.width <= 900
        assert len(picture.resize((64, 64)).quantize(16).getcolors() or ()) >= 3, "more than an empty picture"
    assert path.stat().st_size < 60_000


def test_the_pictures_are_small_and_belong_to_pages() -> None:
    pictures = list(DOCS.glob("*.jpg"))
    assert sorted(path.stem for path in pictures) == sorted(IDS)
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
    assert {path.suffix for path in DOCS.iterdir() if path.is_file()} == {".md", ".jpg"}
    assert {path.name for path in DOCS.glob("*/*")} == {"zh.md"}


def test_nodes_on_the_canvas_have_a_chinese_page() -> None:
    graphs = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "workflows").glob("*.json")]
    on_canvas = {node["type"] for graph in graphs for node in graph["nodes"]} & {*IDS}
    assert on_canvas and on_canvas <= CHINESE.keys() <= {*IDS} and len(CHINESE) >= 10


@pytest.mark.parametrize("node", CHINESE)
def test_a_chinese_page_names_the_same_fields_and_messages(node: str) -> None:
    text, english = CHINESE[node], page(node)
    names = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert text.splitlines()[0] == f"# {names[node]['display_name']}"
    assert re.findall(r"(?m)^## (.+)$", text) == ["输入", "输出", "出错时", "示例"]
    assert re.findall(r"\((\w+\.jpg)\)", text) == [f"{node}.jpg"]
    fields = re.compile(r"(?m)^\| `(\w+)`")
    assert fields.findall(section(text, "输入")) == fields.findall(section(english, "Inputs"))
    outputs = re.compile(r"(?m)^\| `")
    assert len(outputs.findall(section(text, "输出"))) == len(outputs.findall(section(english, "Outputs")))
    messages = re.findall(r"(?m)^- `(.+)`$", section(text, "出错时"))
    assert messages and all(f"- `{message}`" in english for message in messages), messages
    assert {*re.findall(r"\*\*([^*]+)\*\*", text)} <= {entry["display_name"] for entry in names.values()}
    assert not re.search(r"[\u4e00-\u9fff][,;:!?()]", re.sub(r"`[^`]*`", "", text))


def test_workflows_that_pages_name_are_shipped() -> None:
    shipped = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    prose = "".join(re.sub(r"`.+`", "", page(node)) for node in IDS)
    named = set(re.findall(r"OmniX (?:\d|extra) - [A-Z][a-z ]+[a-z]", prose))
    assert named and named <= shipped


@pytest.mark.server
@pytest.mark.since("0.26.0")
def test_nodes_are_called_as_on_the_screen(server: Server) -> None:
    """Bold text on a page is the name of a node, ours or the host's."""
    reported = json.loads(fetched(server, "/object_info")).values()
    known = {entry["display_name"] or entry["name"] for entry in reported}
    for node in IDS:
        bold = set(re.findall(r"\*\*([^*]+)\*\*", page(node)))
        assert bold <= known, f"{node}: {bold - known}"
        assert page(node).splitlines()[0] == f"# {server.node_info(node)['display_name']}"


@pytest.mark.server
@pytest.mark.parametrize("node", IDS)
def test_the_server_gives_out_the_page_and_its_picture(server: Server, node: str) -> None:
    folder = f"/extensions/{PACK}/docs/"
    assert server.node_info(node)["python_module"] == f"custom_nodes.{PACK}"
    assert fetched(server, f"{folder}{node}.md").decode() == page(node)
    if node in CHINESE:  # the frontend asks for {node}/{language}.md first
        assert fetched(server, f"{folder}{node}/zh.md").decode() == CHINESE[node]
    assert fetched(server, f"{folder}{node}.jpg") == Path(DOCS, f"{node}.jpg").read_bytes()


def fetched(server: Server, path: str) -> bytes:
    """Get a file as the browser does; a proxy from the environment could not reach a server on this machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return direct.open(server.url + path, timeout=60).read()
