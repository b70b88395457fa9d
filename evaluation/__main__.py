"""Run the command line: `python -m evaluation` in a clone, `omnix-evaluate` installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        from .command import main as command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "numpy":
            raise
        print('omnix-evaluate: figures need numpy, which is not here: pip install "numpy>=1.25,<3"', file=sys.stderr)
        return 1
    return command(arguments)


if __name__ == "__main__":
    sys.exit(main())
