"""Train the adapters of a new task on a folder of panoramas: omnix-train [CONFIG] [--FIELD VALUE ...]

CONFIG is a TOML or YAML file. Every field of it is also a flag, and a flag overrides the file. The data folder has one
folder of pictures for each stream, with the same file names: rgb/0001.png, shading/0001.png. The saves contain adapters
for Load OmniX Adapters. Exit status: 0 finished or interrupted with a save, 1 failed (one sentence gives the reason),
2 wrong arguments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..mapfiles.texts import text_of
from .config import Config, TrainingError

COMFYUIS = ("torch", "numpy", "safetensors", "einops")
"""Packages that ComfyUI's Python has; the extra `training` installs the others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        config = with_flags(from_file(given.config) if given.config else Config(), given)
        return _dry_run(config) if given.dry_run else _run(config, given.resume)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _failed(f"{place}{error.strerror or error}; earlier saves are complete.")
    except ValueError as error:  # our own: TrainingError, AdapterError, MapError, and the errors of the runtime
        return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(_missing((error.name or "").partition(".")[0]))
    except KeyboardInterrupt:
        return _failed("interrupted; earlier saves are complete.")


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
        "--dry-run",
        action="store_true",
        help="read every picture, print what would be trained and its memory; write nothing",
    )
    parser.add_argument("--resume", action="store_true", help="continue exactly from the newest save in --output")
    add_flags(parser)
    return parser


def _dry_run(config: Config) -> int:
    from .run import dry_run  # here, since --help must not need torch

    for line in dry_run(config):
        print(line)
    return 0


def _run(config: Config, resume: bool) -> int:
    from .run import run

    results = run(config, resume=resume)
    for result in results:
        words = "interrupted; continue with --resume" if result.stopped else "done"
        print(f"{result.folder}: {words} after step {result.step}, loss {result.loss:.4g}")
    return 0


def _failed(reason: str) -> int:
    print(f"omnix-train: {reason}", file=sys.stderr)
    return 1


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def from_file(path: Path) -> Config:
    """Read a TOML or YAML file.  Raises TrainingError, OSError."""
    return from_mapping(_read(path), str(path))


def _read(path: Path) -> Any:
    text = text_of(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(path, text)
    try:
        if path.suffix.lower() != ".toml":
            raise TrainingError(f"{path}: expected a file that ends in .toml, .yaml or .yml; rename it.")
        if sys.version_info < (3, 11):
            raise TrainingError(f"{path}: TOML needs Python 3.11 or newer; write the file as YAML.")
        import tomllib

        return tomllib.loads(text)
    except ValueError as error:
        if isinstance(error, TrainingError):
            raise
        raise _unreadable(path, error) from error


def _read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise TrainingError(
            f'{path}: reading YAML needs PyYAML, which is not installed: pip install "omnix-panorama[training]", or '
            "write the file as TOML."
        ) from error
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        names = [key.value for key, _value in tree.value] if isinstance(tree, yaml.MappingNode) else []
        if twice := [name for name in names if names.count(name) > 1]:
            raise TrainingError(f"{path}: {twice[0]} is set twice; keep one line.")  # YAML would use the last one
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"{path}: {' '.join(str(error).split())}; correct the file.")


def from_mapping(values: Any, where: str) -> Config:
    """Set fields by name, each of the type of its default.  Raises TrainingError."""
    if not isinstance(values, Mapping):
        raise TrainingError(f"{where}: expected lines such as rank = 64, got {type(values).__name__}.")
    defaults = {entry.name: entry.default for entry in fields(Config)}
    if unknown := [str(name) for name in values if name not in defaults]:
        raise TrainingError(f"{where}: there is no field {unknown[0]}; the fields are {', '.join(defaults)}.")
    return Config(**{name: _typed(where, name, value, defaults[name]) for name, value in values.items()})


def _typed(where: str, name: str, value: Any, default: Any) -> Any:
    """Return a value of a file in the type of its field."""
    if isinstance(default, tuple):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(default, float) and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)  # YAML 1.1 reads 1e-4, which has no point, as text
    elif type(value) is type(default):
        return value
    wanted = {
        tuple: "a list of words",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text in quotes",
    }
    raise TrainingError(f"{where}: {name} is {value!r}; it must be {wanted[type(default)]}.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser one flag for every field; a flag that is not given has no attribute."""
    for entry in fields(Config):
        flag, words = f"--{entry.name.replace('_', '-')}", entry.metadata["help"].replace("%", "%%")
        shown = " ".join(entry.default) if isinstance(entry.default, tuple) else entry.default
        described = f"{words} (default {shown})" if shown not in ("", ()) else words
        if isinstance(entry.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=described)
        elif isinstance(entry.default, tuple):
            parser.add_argument(flag, nargs="+", default=argparse.SUPPRESS, help=described, metavar="NAME")
        else:
            kind = type(entry.default)
            parser.add_argument(
                flag, type=kind, default=argparse.SUPPRESS, help=described, metavar=kind.__name__.upper()
            )


def with_flags(config: Config, given: argparse.Namespace) -> Config:
    """Return a configuration with the flags that were given."""
    names = {entry.name for entry in fields(Config)}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(given).items() if name in names}
    return replace(config, **values)
