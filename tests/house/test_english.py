"""Plain English in everything that ships, and on all pages: the phrases that people stumbled over do not come back.

Only prose is read: Markdown outside of code, the texts of JSON files, and comments, docstrings and strings of code.
"""

import ast
import io
import json
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Lines = Iterator[tuple[int, str]]
# Pattern -> what to write instead.
INSTEAD = {
    r"mend(s|ed|ing)?": "correct, fix",
    r"hang(s|ing)? on": "depends on",
    r"as they say": "a row for each, with its default",
    r"does as well": "works too",
    r"at hand|to hand": "available, installed",
    r"(has|have) (its|their) hand on|hand(s|ed)? (on|over)": "has patched; pass",
    r"nobody's fault": "not an error",
    r"(give|gives|given|gave|giving) out": "output",
    r"(go|goes|going|gone) on": "continue, resume",
    r"(take|takes|taken|took) alike": "accepts both",
    r"(stand|stands|standing|stood) (beside|for|round|in the (way|place))|defaults? stands?": "is next to, replaces",
    r"stood|stands (under|behind|before|after|last|alone|twice|there|where)": "is",
    r"blam(e|es|ed|ing)|culprits?|strangers?|hindrances?": "the function that was replaced, the pack that did it",
    r"(is|are|be|was|were) there(?=[,.;:)]|$)": "exists, is available, is installed",
    r"tells|told": "stores, reports, describes; say who reads it",
    r"tell (whether|if|which|what|how|from|apart|of)": "return whether, find out",
    r"not looking": "mean-prediction baseline",
    r"one that holds": "name the thing",
    r"(what|who|that|which|it) (is|are) no(ne)?(?! (longer|more))": "files that are not, is not a",
    r"who loads": "if you load",
    r"see to (it|its|the)": "check",
    r"of ours|of yours": "our, your",
    r"anew": "again",
    r"seldom": "rarely",
    r"whoever": "name the person or the program",
    r"work(s|ed)? out|working out": "compute",
    r"as (it|they) stands?": "name the thing",
    r"knows? (neither|nothing)": "uses neither, does not depend on",
}
PLAIN = re.compile(rf"(?i)\b({'|'.join(INSTEAD)})\b|\| wanted \|")
# A clause in place of a noun: "What is brighter ends there." Questions and headings may start so.
CLAUSE = re.compile(r"(?:^|[.:!] )(?:Who|What|Whoever|Whatever) [^?]*[.;,]")
# A phrase with such a word that is right -> its meaning there.
RIGHT = {
    "tell us how it went": "people tell",
    "can't tell": "is not able to find out",
    "nothing is there": "at a place",
}


def of_markdown(text: str) -> Lines:
    """Yield the lines outside of blocks of code, without code in backquotes; headings may start with What."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.startswith("```")
        if not code and not line.startswith(("#", "    ")):
            yield number, re.sub(r"`[^`]*`", "`", line.lstrip("|- *"))


def of_json(text: str) -> Lines:
    def texts(form: object) -> Iterator[str]:
        if isinstance(form, dict):
            form = list(form.values())
        if isinstance(form, list):
            for each in form:
                yield from texts(each)
        elif isinstance(form, str):
            yield from form.splitlines()

    for line in texts(json.loads(text)):
        yield 0, re.sub(r"`[^`]*`", "`", line.lstrip("|#- *"))


def of_python(text: str) -> Lines:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, re.sub(r"`[^`]*`", "`", line.strip())


def of_script(text: str) -> Lines:
    for number, line in enumerate(text.splitlines(), 1):
        for prose in re.findall(r'(?://|/\*\*?|^\s*\*) ?(.+)|"([^"]* [^"]*)"', line):
            yield number, re.sub(r"`[^`]*`", "`", "".join(prose))


READERS: dict[str, Callable[[str], Lines]] = {
    "*.md": of_markdown,
    "*.py": of_python,
    "*.js": of_script,
    "locales/en/*.json": of_json,
    "workflows/*.json": of_json,
    "subgraphs/*.json": of_json,
}
NOT_SHIPPED = ("tests/", "lab/", ".github/")


def is_read(name: str) -> bool:
    """Return whether the test reads a file: everything that ships, and the pages of the other folders."""
    return not name.startswith(NOT_SHIPPED) or name.endswith("README.md")


def stumbles(line: str) -> list[str]:
    """Return what is wrong with a line of prose: the words, and what to write instead."""
    for right in RIGHT:
        line = line.replace(right, "")
    found = [match[0] for match in PLAIN.finditer(line)]
    said = [
        next((f"{word}: write {INSTEAD[p]}" for p in INSTEAD if re.fullmatch(rf"(?i){p}", word)), word)
        for word in found
    ]
    return said + [f"{match[0]}: a clause is not a noun; name the thing" for match in CLAUSE.finditer(line)]


@pytest.mark.parametrize("kind", READERS)
def test_shipped_words_are_plain(root: Path, kind: str) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", kind]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [root / name for name in names if is_read(name) and (root / name).is_file()]
    assert files
    found = [
        f"{path.relative_to(root)}:{number}: {said}"
        for path in files
        for number, line in READERS[kind](path.read_text("utf-8"))
        for said in stumbles(line)
    ]
    assert not found, "\n".join(found)
