"""Make the micro model, and measure it on rooms that it was not trained on.

    python -m lab.micro make [--stages vae base rgb_to_depth ...] [--steps N] [--begin lab/micro/weights]
    python -m lab.micro average BEFORE AFTER TARGET
    python -m lab.micro evaluate [--rooms N] [--seed S] [--steps N] [--threads N]

`make` continues where it was stopped; its rooms, saves and curves are in --folder. `average` writes the mean of the
adapters of two folders of weights. `evaluate` prints the model's
figures next to baselines: the mean of each row, a ridge regression on colour and row, and the depth and normals of the
empty room.
See README.md in this folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from ..host.pack import enter

CORES = os.cpu_count() or 1


def main() -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the server of the evaluation inherits this environment
    torch.set_num_threads(options.threads)
    enter("lab.micro", cpu=options.cpu or not torch.cuda.is_available())
    from comfyui_omnix.lab.host.environment import cache_folder

    try:
        COMMANDS[options.command](options, options.folder or cache_folder() / "micro")
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"micro: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("micro: stopped; the same command continues from the last save.", file=sys.stderr)
        return 130
    return 0


def _make(options: argparse.Namespace, folder: Path) -> None:
    from comfyui_omnix.lab.micro import making

    stages = making.chosen(options.stages or making.STAGES, options.steps, options.learning_rate)
    if options.begin:
        making.begin(options.begin, folder)
    making.make(folder, stages, options.threads, options.rooms or making.ROOMS)


def _average(options: argparse.Namespace, _folder: Path) -> None:
    from comfyui_omnix.lab.micro import making

    making.average(options.before, options.after, options.target)


def _evaluate(options: argparse.Namespace, folder: Path) -> None:
    from comfyui_omnix.lab.micro import evaluating, graphs

    own = folder / "weights"
    weights = options.weights or (own if graphs.tasks(own) else graphs.WEIGHTS)
    chosen = {name: value for name in ("rooms", "seed", "steps") if (value := getattr(options, name)) is not None}
    evaluating.evaluate(folder, evaluating.Choice(weights, **chosen))


COMMANDS = {"make": _make, "average": _average, "evaluate": _evaluate}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="render rooms and train")
    make.add_argument("--stages", nargs="+", help="train only these (default: all of recipe.py, in its order)")
    make.add_argument("--steps", type=_number, help="last training step of these stages (default: the table's)")
    make.add_argument("--learning-rate", type=float, help="the highest learning rate (default: the table's)")
    make.add_argument("--begin", type=Path, help="continue from these weights if the saves are lost; not for the base")
    make.add_argument("--rooms", type=_number, help="own rooms to render if there are none yet (default 9000)")
    average = commands.add_parser("average", help="write the mean of the adapters of two folders of weights")
    average.add_argument("before", type=Path, help="the weights that a run began with")
    average.add_argument("after", type=Path, help="the weights that it made; the base must be the same")
    average.add_argument("target", type=Path, help="a new folder")
    evaluate = commands.add_parser("evaluate", help="measure the model on rooms that it was not trained on")
    evaluate.add_argument(
        "--weights", type=Path, help="the weights to measure (default: those in --folder, else the shipped ones)"
    )
    evaluate.add_argument(
        "--rooms",
        type=_number,
        help="number of own rooms; half as many crowded ones and as many foreign ones are added (default 64)",
    )
    evaluate.add_argument("--seed", type=int, help="seed of the first room (default 1000000)")
    evaluate.add_argument("--steps", type=_number, help="sampling steps (default: the workflows' for this model)")
    for command in (make, average, evaluate):
        command.add_argument("--folder", type=Path, help="rooms, saves, results (default: in dev.py's cache folder)")
        command.add_argument("--threads", type=_number, default=CORES, help="threads (default: one for each core)")
        command.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
