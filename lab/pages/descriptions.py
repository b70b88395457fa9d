"""Write the texts that are generated from the nodes' schemas:  python lab/pages/descriptions.py

It writes the English locale, the list of nodes for the registry, the page docs/nodes.md, and the tables of inputs and
outputs in the help pages; those of the Chinese help pages use the Chinese locale. COMFYUI_PATH names the host, as
`python dev.py setup --json` prints it. Prose and translations are written by hand.
"""

from __future__ import annotations

import asyncio
import json
import re
import runpy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
CHINESE = ROOT / "locales" / "zh" / "nodeDefs.json"
# Combos whose options are names of files: they differ from machine to machine, so there is nothing to translate.
FILES = {"folder", "name", "source", "image"}


async def schemas() -> list[Any]:
    """Load the extension as the host does and return its nodes' schemas."""
    from ...nodes import comfy_entrypoint

    extension = await comfy_entrypoint()
    await extension.on_load()
    return [node.GET_SCHEMA() for node in await extension.get_node_list()]


def files(schemas: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield every file as (path below the repository, text)."""
    yield "locales/en/nodeDefs.json", text({schema.node_id: definition(schema) for schema in schemas})
    yield "node_list.json", text({schema.node_id: schema.description for schema in schemas})
    yield "docs/nodes.md", nodes_page(schemas)
    for schema in schemas:
        page = DOCS / f"{schema.node_id}.md"
        if page.is_file():
            yield page.relative_to(ROOT).as_posix(), with_tables(page.read_text("utf-8"), schema)
        page = DOCS / schema.node_id / "zh.md"
        if page.is_file():
            yield page.relative_to(ROOT).as_posix(), with_chinese_tables(page.read_text("utf-8"), schema)


def text(form: dict[str, Any]) -> str:
    """Return a form as JSON text."""
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def definition(schema: Any) -> dict[str, Any]:
    """Return a node's entry of nodeDefs.json: its names, descriptions and the options of its combos."""
    inputs = {each.id: _input(each) for each in schema.inputs}
    outputs = {
        str(slot): {"name": each.display_name, "tooltip": each.tooltip} for slot, each in enumerate(schema.outputs)
    }
    parts = {"inputs": inputs, "outputs": outputs}
    names = {"display_name": schema.display_name, "description": schema.description}
    return names | {name: part for name, part in parts.items() if part}


def _input(each: Any) -> dict[str, Any]:
    entry = {"name": each.display_name or each.id, "tooltip": each.tooltip}
    return entry | ({"options": {option: option for option in fixed_options(each)}} if fixed_options(each) else {})


def fixed_options(each: Any) -> list[str]:
    """List the options of a combo that are the same on every machine; empty for any other input."""
    return [] if each.id in FILES else [str(option) for option in getattr(each, "options", None) or ()]


def with_tables(page: str, schema: Any) -> str:
    """Return a help page with its sections Inputs and Outputs rewritten."""
    inputs = [_input_row(each) for each in schema.inputs]
    outputs = [[f"`{each.display_name}`", each.tooltip] for each in schema.outputs]
    sections = {
        "Inputs": _table(["input", "default", "what it is"], inputs),
        "Outputs": _table(["output", "what it is"], outputs) if outputs else "None: the node ends a graph.\n",
    }
    return _with_sections(page, sections)


def with_chinese_tables(page: str, schema: Any) -> str:
    """Return a Chinese help page with its sections for inputs and outputs rewritten from the Chinese locale."""
    words = json.loads(CHINESE.read_text("utf-8"))[schema.node_id]
    inputs = [_chinese_input_row(each, words["inputs"][each.id]) for each in schema.inputs]
    outputs = [[f"`{each['name']}`", each["tooltip"]] for each in words.get("outputs", {}).values()]
    sections = {
        "输入": _table(["输入", "默认值", "说明"], inputs),
        "输出": _table(["输出", "说明"], outputs) if outputs else "无：此节点是工作流的终点。\n",
    }
    return _with_sections(page, sections)


def _with_sections(page: str, sections: dict[str, str]) -> str:
    for title, body in sections.items():
        page = re.sub(rf"(?ms)^## {title}\n.*?(?=^## |\Z)", lambda _, made=f"## {title}\n\n{body}\n": made, page)
    return page


NODES_PAGE = """# Nodes and blueprints

`python lab/pages/descriptions.py` writes this page from the nodes' own descriptions. Each name links to the node's help
page. ComfyUI shows the same page: select the node and click **ⓘ** above it.
"""


def nodes_page(schemas: Sequence[Any]) -> str:
    """Return docs/nodes.md: a table of the nodes of each category, then the blueprints."""
    categories = dict.fromkeys(schema.category for schema in schemas)
    tables = {
        category.replace("/", " / "): _table(
            ["node", "what it does", "inputs", "outputs"],
            [_node_row(schema) for schema in schemas if schema.category == category],
        )
        for category in categories
    }
    tables["Blueprints"] = BLUEPRINTS + _table(["blueprint", "what it does"], _blueprint_rows())
    return NODES_PAGE + "".join(f"\n## {title}\n\n{table}" for title, table in tables.items())


BLUEPRINTS = """\
A blueprint is a whole task in one node, made of the nodes above and ComfyUI's own nodes. Find it by its name in the
list of nodes (double click on the canvas). To open it, click the arrow in its corner.

"""


def _node_row(schema: Any) -> list[str]:
    inputs = ", ".join(f"`{each.id}`" for each in schema.inputs)
    outputs = ", ".join(f"`{each.display_name}`" for each in schema.outputs)
    return [f"[{schema.display_name}](../web/docs/{schema.node_id}.md)", schema.description, inputs, outputs]


def _blueprint_rows() -> Iterator[list[str]]:
    for path in sorted((ROOT / "subgraphs").glob("*.json")):
        (form,) = json.loads(path.read_text("utf-8"))["definitions"]["subgraphs"]
        yield [path.stem, form["description"]]


def _input_row(each: Any) -> list[str]:
    return [f"`{each.id}`" + (" (optional)" if each.optional else ""), _default(each), each.tooltip + _limits(each)]


def _default(each: Any) -> str:
    default = getattr(each, "default", None)
    return "" if default in (None, "") else f"`{json.dumps(default) if isinstance(default, bool) else default}`"


def _chinese_input_row(each: Any, words: dict[str, Any]) -> list[str]:
    """Return a row with the id and the Chinese name, which the frontend shows."""
    low, high = getattr(each, "min", None), getattr(each, "max", None)
    limits = "" if low is None or high is None else f"范围：{low:g} 到 {high:g}。"
    options = [f"`{option}`（{name}）" for option, name in words.get("options", {}).items()]
    limits += f"可选：{'、'.join(options)}。" if options else ""
    return [
        f"`{each.id}`（{words['name']}）" + ("，可选" if each.optional else ""),
        _default(each),
        words["tooltip"] + limits,
    ]


def _limits(each: Any) -> str:
    if fixed_options(each):
        return f" One of {', '.join(f'`{option}`' for option in fixed_options(each))}."
    low, high = getattr(each, "min", None), getattr(each, "max", None)
    return "" if low is None or high is None else f" From {low:g} to {high:g}."


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Write the files; the pack is loaded as ComfyUI does."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("descriptions")
    from comfyui_omnix.lab.pages import descriptions

    for path, content in descriptions.files(asyncio.run(descriptions.schemas())):
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
