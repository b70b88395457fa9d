"""A short run of the fuzzer, and proof that it would find a fault."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path("lab") / "bench" / "fuzz.py"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(root / FUZZ), *arguments], capture_output=True, text=True, timeout=600)


def test_no_damaged_file_breaks_a_rule(root: Path) -> None:
    done = run(root, "--cases=6000", "--workers=1")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "no rule was broken", done.stdout + done.stderr
    assert lines[0].startswith("6000 cases, ")
    counts = {kind: int(number) for number, kind in (pair.split() for pair in lines[1].split(", "))}
    assert counts["opened"] + counts["refused"] == 6000 and min(counts.values()) > 10


def test_the_dearest_headers_stay_below_the_memory(root: Path) -> None:
    script = (
        "import importlib.util, random, sys, tempfile; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('fuzz', {str(root / FUZZ)!r})\n"
        "fuzz = importlib.util.module_from_spec(spec); spec.loader.exec_module(fuzz); fuzz.block_torch()\n"
        "from converters import AdapterError, open_adapter\n"
        "folder = tempfile.TemporaryDirectory(); path = Path(folder.name) / 'a.safetensors'\n"
        "for number in range(60):\n"
        "    path.write_bytes(fuzz.dear(random.Random(number)))\n"
        "    try:\n        open_adapter(path); print('opened')\n    except AdapterError: pass\n"
        "print(fuzz.peak_mb())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 64


def test_the_fuzzer_sees_other_exceptions(root: Path, tmp_path: Path) -> None:
    """The same run with a fault in the converter: a header that is not JSON raises JSON's own error."""
    for name in ("lab/bench", "converters"):
        for path in (root / name).rglob("*"):
            if path.suffix in (".py", ".safetensors"):
                copy = tmp_path / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    header = tmp_path / "converters" / "files" / "header.py"
    faulty = header.read_text().replace("except ValueError as error", "except KeyError as error")
    assert faulty != header.read_text()
    header.write_text(faulty)
    done = run(tmp_path, "--cases=300", "--workers=1")
    assert done.returncode == 1 and "JSONDecodeError" in done.stdout
