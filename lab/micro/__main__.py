"""Make the micro model, and measure it on rooms that it was not trained on.

    python -m lab.micro make [--stages vae base rgb_to_depth ...] [--steps N] [--begin lab/micro/weights]
    python -m lab.micro evaluate

`make` goes on where it was stopped; its rooms, saves and curves are in --folder. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from ..host.pack import enter


def main() -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args()
    enter("lab.micro", cpu=options.cpu or not torch.cuda.is_available())
    from comfyui_omnix.lab.host.environment import cache_folder
    from comfyui_omnix.lab.micro import evaluating, making

    folder = options.folder or cache_folder() / "micro"

    try:
        if options.command == "evaluate":
            return evaluating.evaluate(folder, folder / "weights")
        stages = making.chosen(options.stages or making.STAGES, options.steps, options.learning_rate)
        if options.begin:
            making.begin(options.begin, folder)
        making.make(folder, stages, options.threads, options.rooms or making.ROOMS)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"micro: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("micro: stopped; the same command goes on from the last save.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("make", "evaluate"))
    parser.add_argument("--folder", type=Path, help="rooms, saves and curves (in the cache folder of dev.py)")
    parser.add_argument("--stages", nargs="+", help="train these alone (all of the table in recipe.py, in its order)")
    parser.add_argument("--steps", type=int, help="end these stages at this step instead of the table's")
    parser.add_argument("--learning-rate", type=float, help="the highest (the table's; with --begin less loses less)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (one a core)")
    parser.add_argument("--begin", type=Path, help="go on from these weights, whose saves are gone; not for the base")
    parser.add_argument("--rooms", type=int, help="rooms to render where there are none yet (9000)")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
