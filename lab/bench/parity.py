"""Measure how far the graph's result is from the reference pipeline's, and print the table of docs/exactness.md.

    python lab/bench/parity.py        with the python and, as COMFYUI_PATH, the comfyui of `python dev.py setup --json`

Relative error, L2, float32, euler, simple scheduler with OmniX Flow Shift, against the oracle of the tests
(Diffusers + PEFT) and its recorded results in float64 (tests/golden), on a tiny random FLUX.1.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print one row a case."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/parity.py")
    sys.path.insert(0, str(ROOT / "tests" / "omnix"))
    import recorded
    import test_parity
    from comfyui_omnix.omnix.runtime.tasks import TASKS
    from measure import relative_error
    from oracle import sample
    from rig import ksample, load_flux, make_case, patched

    print("| task | streams | steps | against | relative error |\n|---|---|---|---|---|")
    for task, steps in recorded.RUNS:
        case = test_parity.recorded_case(task)
        got = ksample(patched(load_flux(case.flux), case), case, steps)
        row(task, len(case.task.streams), steps, "recorded", relative_error(got, recorded.result(task, steps)))
    with tempfile.TemporaryDirectory() as folder:
        for task, steps in [*((task, 2) for task in TASKS), ("rgb_to_depth", 28)]:
            case = make_case(Path(folder, f"{task}-{steps}"), task)
            got = ksample(patched(load_flux(case.flux), case), case, steps)
            error = relative_error(got, sample(**case.oracle(), steps=steps))
            row(task, len(case.task.streams), steps, "oracle", error)


def row(task: str, streams: int, steps: int, against: str, error: float) -> None:
    """Print a row of the table."""
    print(f"| {task} | {streams} | {steps} | {against} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
