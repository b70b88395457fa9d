"""Train the adapters of a new task on a folder of panoramas: omnix-train [CONFIG] [--FIELD VALUE ...]

CONFIG is a TOML or YAML file; every field of it is also a flag, and a flag wins. The folder of data has a folder of
pictures for each stream, with equal names: rgb/0001.png, shading/0001.png. Saves hold adapters for Load OmniX Adapters.
Exit status: 0 done or stopped with a save, 1 something failed (one sentence says why), 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .config import Config, check, from_file, plans, with_flags
from .config import add_flags as add_config_flags

COMFYUIS = ("torch", "numpy", "safetensors", "einops")
"""Packages that ComfyUI's Python has; the extra `training` brings the others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        config = with_flags(from_file(given.config) if given.config else Config(), given)
        return _dry_run(config) if given.dry_run else _run(config, given.resume)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _failed(f"{place}{error.strerror or error}; saves made before are whole.")
    except ValueError as error:  # ours: TrainingError, AdapterError, MapError, and what the runtime refuses
        return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(_missing((error.name or "").partition(".")[0]))
    except KeyboardInterrupt:
        return _failed("interrupted; saves made before are whole.")


def _missing(package: str) -> str:
    """Return the sentence for a package that is not installed."""
    if package in COMFYUIS:
        return (
            f"training needs {package}, which is not installed here; run this with ComfyUI's own Python, which has it."
        )
    return f'training needs {package}, which is not installed here: pip install "omnix-panorama[training]"'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnix-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a .toml, .yaml or .yml file")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained, its bytes and memory; do nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest save in --output, exactly")
    add_config_flags(parser)
    return parser


def _dry_run(config: Config) -> int:
    from . import data  # here, since --help must not need torch
    from .estimate import lines

    check(config)
    model = Path(config.model) if config.model else None
    for plan in plans(config):
        sources = data.find(config, plan)
        trained, held_out = data.split(sources.stems, config.held_out)
        for stream in plan.streams:  # the first picture shows what is wrong with all of them
            data.picture(config, stream, sources.files[sources.stems[0], stream.name])
        print("\n".join(lines(config, plan, len(trained), len(held_out), model if model and model.exists() else None)))
    return 0


def _run(config: Config, go_on: bool) -> int:
    from .run import run

    results = run(config, go_on=go_on)
    for result in results:
        words = "stopped; go on with --resume" if result.stopped else "done"
        print(f"{result.folder}: {words} after step {result.step}, loss {result.loss:.4g}")
    return 0


def _failed(reason: str) -> int:
    print(f"omnix-train: {reason}", file=sys.stderr)
    return 1
