"""Plain English in everything that ships: phrases that people stumbled over do not come back."""

import re
import subprocess
from pathlib import Path

import pytest

# What a reader marked -> what to write instead.
INSTEAD = {
    r"mend(s|ed|ing)?": "correct, fix",
    r"hangs on": "depends on",
    r"as they say": "one row for each, with its default",
    r"at hand": "available, installed",
    r"has its hand on": "has patched",
    r"nobody's fault": "not an error",
    r"gives? out": "output",
    r"taken alike": "accepts both",
    r"one that holds": "name the thing",
    r"(what|who) is no": "files that are not",
    r"who loads": "if you load",
}
ANY = re.compile(rf"(?i)\b({'|'.join(INSTEAD)})\b")


@pytest.mark.parametrize("kind", ["*.md", "*.py", "locales/en/*.json", "workflows/*.json"])
def test_shipped_words_are_plain(root: Path, kind: str) -> None:
    left_out = ("tests/", "lab/", "dev.py", ".github/")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", kind]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [root / name for name in names if not name.startswith(left_out) and (root / name).is_file()]
    assert files
    found = [
        f"{path.relative_to(root)}:{number}: {match[0]}: write {INSTEAD[wanted]}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if (match := ANY.search(line))
        for wanted in INSTEAD
        if re.fullmatch(rf"(?i){wanted}", match[0])
    ]
    assert not found, "\n".join(found)
