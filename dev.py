"""Set up, demonstrate, test and lint the pack on a machine that has only Python.

    python dev.py setup [--json]        a virtual environment and a pinned ComfyUI
    python dev.py demo  [options]       the main job, end to end (demo --help lists the options)
    python dev.py test  [pytest args]   every test, against the real host
    python dev.py test --fast           the tests without servers, browsers and long runs
    python dev.py lint                  ruff and the type checker

`--host VERSION` picks another ComfyUI of the table in lab/host/pins.py; COMFYUI_PATH uses an existing checkout instead.
`--frontend VERSION` has the test servers show another comfyui-frontend-package than the host's own; `newest` is pinned
there, too. Missing environments are first made in a per-user cache folder, which OMNIX_CACHE moves.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

from lab.host.environment import (
    Host,
    SetupError,
    cache_folder,
    chromium,
    downloaded_frontend,
    node_modules,
    script,
    set_up,
)
from lab.host.pins import HOSTS, NEWEST

ROOT = Path(__file__).resolve().parent
DEMO = ROOT / "lab" / "demo" / "main.py"


def main() -> int:
    """Run one command; return its exit status."""
    # The demo answers --help itself.
    own_help = "demo" not in sys.argv[1:]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=own_help
    )
    parser.add_argument("command", choices=("setup", "demo", "test", "lint"))
    parser.add_argument("--host", choices=tuple(HOSTS), default=NEWEST, help="ComfyUI version (default %(default)s)")
    parser.add_argument("--frontend", metavar="VERSION", help="frontend of the test servers: a version, or newest")
    parser.add_argument("--fast", action="store_true", help="test: leave out servers, browsers and slow tests")
    parser.add_argument("--json", action="store_true", help="setup: print where things are as the last line")
    arguments, rest = parser.parse_known_args()
    if arguments.command == "setup" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.fast and arguments.command == "test":
        rest = ["-m", "not server and not slow", *rest]
    if arguments.command == "demo":
        # Its help and its complaints come before the minutes of the set-up.
        runpy.run_path(str(DEMO))["checked"](rest)
    try:
        host = set_up(arguments.host)
        if arguments.frontend:
            host = host._replace(frontend=downloaded_frontend(cache_folder(), arguments.frontend, host.python))
        return COMMANDS[arguments.command](host, rest, arguments.json)
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 1


def setup(host: Host, _rest: list[str], as_json: bool) -> int:
    """Report the environment that set_up has made."""
    facts = {"python": str(host.python), "comfyui": str(host.comfyui), "comfyui_version": host.version}
    print(json.dumps(facts) if as_json else "\n".join(f"{name}: {value}" for name, value in facts.items()))
    return 0


def demo(host: Host, rest: list[str], _json: bool) -> int:
    """Run the main job in the environment of the host."""
    return subprocess.call([str(host.python), str(DEMO), *rest], env=environment(host))


def test(host: Host, rest: list[str], _json: bool) -> int:
    """Run pytest in the environment of the host; extra arguments go to pytest. The whole suite uses all cores.

    The pytest script is used, not `python -m pytest`, which would put our nodes.py before the host's.
    """
    some = any((ROOT / argument.split("::")[0]).exists() for argument in rest)
    # A file's tests stay together: they share a model or a server.
    chosen = rest if some else ["--numprocesses=auto", "--dist=loadfile", *rest, "tests"]
    command = [str(script(host.python, "pytest")), "-c", str(ROOT / "tests" / "pytest.ini"), *chosen]
    packages = node_modules(cache_folder(), host.python)
    extra = {"OMNIX_CHROMIUM": str(chromium()), "OMNIX_NODE_MODULES": str(packages)}
    return subprocess.call(command, cwd=ROOT, env=environment(host) | extra)


def lint(host: Host, _rest: list[str], _json: bool) -> int:
    """Check format, lint rules and types."""
    commands = (
        [str(script(host.python, "ruff")), "check", "."],
        [str(script(host.python, "ruff")), "format", "--check", "."],
        [str(script(host.python, "basedpyright")), "--pythonpath", str(host.python), "--project", str(ROOT)],
    )
    return max(subprocess.call(command, cwd=ROOT, env=environment(host)) for command in commands)


COMMANDS = {"setup": setup, "demo": demo, "test": test, "lint": lint}


def environment(host: Host) -> dict[str, str]:
    """Return the variables of a child process: where the host is, nothing cached in the checkout, no telemetry."""
    frontend = {"OMNIX_FRONTEND": str(host.frontend)} if host.frontend else {}
    return (
        os.environ
        | frontend
        | {
            "COMFYUI_PATH": str(host.comfyui),
            "OMNIX_BASE_PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
        }
    )


if __name__ == "__main__":
    sys.exit(main())
