"""Try other nodes and packs beside OmniX on one MODEL, and write the table and the messages of docs/together.md.

    python lab/bench/together.py --packs FOLDER     core nodes, packs and stand-ins: writes them into the page
    python lab/bench/together.py                    only core nodes and stand-ins: prints them

with the python and, as COMFYUI_PATH, the comfyui of `python dev.py setup --json`, and a folder with clones of the
packs that `packs.py` lists; if one is missing, it says how to get it.

Each companion is put on before Apply OmniX Adapters and after it, and KSampler is run on a tiny random FLUX.1. The same
companion on a model whose FLUX is the tests' oracle (Diffusers and PEFT, one whole model a stream) tells what is right.
"""

from __future__ import annotations

import argparse
import functools
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "together.md"
TASK = "rgb_to_depth"
EXACT = 1e-5
CALLS, ROW = "calls", "row of a pack: "
Outcomes: TypeAlias = dict[str, float | str]
"""An order -> its error, or what was said; "calls" -> how often the right way called FLUX."""
MARKS = (
    ("it, on ComfyUI ", ". The figure"),
    ("| FLUX called |\n|---|---|---|---|---|---|\n", "\n\nFour packs"),
    ("The messages of the refused nodes:\n\n", "\n\nEasyCache"),
)
"""What is before and after each part of the page that is measured: the version, the rows of the table, the messages."""


def main() -> None:
    """Write the page; without packs only print the results, so that the page keeps all its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, metavar="FOLDER", help="where the packs' clones are")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.packs
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/together.py")
    sys.path.insert(0, str(ROOT / "tests" / "omnix"))
    from comfyui_version import __version__
    from companions import CORE, DOUBLES
    from packs import companions

    packs = companions(folder.expanduser().resolve()) if folder else []
    if options.row is not None:
        with tempfile.TemporaryDirectory() as temporary:
            print(ROW + json.dumps(Trial(Path(temporary)).outcomes(packs[options.row])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        trial = Trial(Path(temporary))
        core, doubles = ([(one, trial.outcomes(one)) for one in rows] for rows in (CORE, DOUBLES))
    results = [*core, *((one, alone(folder, number)) for number, one in enumerate(packs)), *doubles]
    table = "\n".join(row(one, outcomes) for one, outcomes in results)
    messages = "\n".join(f"- {one.name}: *{said}*" for one, outcomes in results for said in sentences(outcomes))
    if folder:
        page = rewritten(PAGE.read_text(encoding="utf-8"), (__version__, table, messages))
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    else:
        print(f"{table}\n\n{messages}")


def rewritten(page: str, parts: Sequence[str]) -> str:
    """Return the page with other measured parts, in the order of MARKS."""
    for (before, after), part in zip(MARKS, parts, strict=True):
        start, _, rest = page.partition(before)
        page = start + before + part + after + rest.partition(after)[2]
    return page


def alone(folder: Path, number: int) -> Outcomes:
    """Try one row of a pack in a process of its own: packs change the host as they are imported."""
    command = [sys.executable, __file__, "--packs", str(folder), "--row", str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith(ROW)]
    if done.returncode or not told:
        sys.exit(f"together: row {number} of the packs ended without a result; its error stands above.")
    return json.loads(told[-1].removeprefix(ROW))


class Trial:
    """One task's case, our way to run it and the oracle's."""

    def __init__(self, folder: Path) -> None:
        import oracle
        import rig

        self.rig = rig
        self.case = rig.make_case(folder, TASK)
        self.streams = functools.cache(lambda skipped, weights: skipping(oracle, self.case, skipped, weights))
        self.calls = 0

    def outcomes(self, one: Any) -> Outcomes:
        """Return for each order the relative error, or the sentence of a refusal; nothing if FLUX fails with it."""
        if not self.runs_on_flux(one):
            return {}
        right = replace(one, put=lambda model: model, through=None) if one.neutral else one
        self.calls = 0
        expected = self.sample(self.reference(right), right)
        return {CALLS: self.calls, **{order: self.outcome(one, order, expected) for order in one.orders}}

    def runs_on_flux(self, one: Any) -> bool:
        """Tell whether the companion runs on FLUX without OmniX."""
        model = self.rig.load_flux(self.case.flux)
        try:
            self.ksample(one.put(model), self.case, replace(one, steps=2), self.rig.conditioning(model, self.case, ()))
        except (TypeError, KeyError, AttributeError, ImportError):
            return False
        return True

    def outcome(self, one: Any, order: str, expected: Any) -> float | str:
        """Run one order.  Only ValueError is a refusal; anything else is a fault and ends the trial."""
        model = self.rig.load_flux(self.case.flux)
        apply = functools.partial(self.rig.patched, case=self.case, seam=0)
        try:
            got = self.sample(apply(one.put(model)) if order == "before" else one.put(apply(model)), one)
        except ValueError as error:
            return " ".join(str(error).split())
        return float((got - expected).norm() / expected.norm())

    def sample(self, model: Any, one: Any) -> Any:
        """Run KSampler; where guidance is tried, the negative is another text with the same reference latents."""
        other = replace(self.case, text=self.case.text.flip(1), pooled=self.case.pooled.flip(1))
        changes = {"negative": self.rig.conditioning(model, other)} if "cfg" in one.run else {}
        return self.ksample(model, self.case, one, self.rig.conditioning(model, self.case, **one.told()), **changes)

    def ksample(self, model: Any, case: Any, one: Any, positive: Any, **changes: Any) -> Any:
        """Run KSampler, or what the companion puts in its place."""
        import comfy.sample

        own = comfy.sample.sample
        through = functools.partial(one.through, own) if one.through else own
        with mock.patch.object(comfy.sample, "sample", through):
            return self.rig.ksample(model, case, one.steps, positive, **changes, **one.run)

    def reference(self, one: Any) -> Any:
        """Return a model with the companion whose FLUX is the oracle, with OmniX Flow Shift."""
        from comfy.patcher_extension import WrappersMP

        height, width = self.case.noise.shape[-2:]
        plain = self.rig.load_flux(self.case.flux)
        shifted = self.rig.patch.with_flow_shift(plain, self.rig.flow_shift(height, width, 0))
        # EasyCache writes into what it is given, which in float32 is the sampler's own: what is right has a copy.
        shifted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "copy", on_a_copy)
        own = one.put(shifted).clone()
        own.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "oracle", functools.partial(self.velocity, one.weights))
        return own

    def velocity(
        self, weights: Any, _: Any, x: Any, timestep: Any, context: Any, y: Any, guidance: Any, *given: Any, **more: Any
    ) -> Any:
        """Predict the target's velocity with the oracle, without the blocks that a guidance of skipped layers names."""
        options = more.get("transformer_options") or next((one for one in given if isinstance(one, dict)), {})
        patches = options.get("patches_replace", {}).get("dit", {})
        skipped = frozenset(place for place, patch in patches.items() if patch.__name__ == "skip")
        conditions = [one.expand(x.shape[0], -1, -1, -1) for one in self.case.conditions]
        self.calls += 1
        return self.streams(skipped, weights).predict(
            [*conditions, x], float(timestep[0]), context, y, float(guidance[0])
        )[-1]


def on_a_copy(executor: Any, x: Any, *given: Any, **more: Any) -> Any:
    """Run what is inside on a copy of x."""
    return executor(x.clone(), *given, **more)


def skipping(oracle: Any, case: Any, skipped: frozenset[tuple[str, int]], weights: Any) -> Any:
    """Return the oracle's streams, whose models leave out the blocks ("double_block" or "single_block", number).

    `weights` makes their weights of FLUX's own, if it is given.
    """
    streams = oracle.Streams(weights(case.flux) if weights else case.flux, case.states)
    for model in streams.models:
        for kind, number in skipped:
            blocks = model.transformer_blocks if kind == "double_block" else model.single_transformer_blocks
            blocks[number].forward = lambda hidden_states, encoder_hidden_states, **_: (
                encoder_hidden_states,
                hidden_states,
            )
    return streams


def row(companion: Any, outcomes: Outcomes) -> str:
    """Return a row of the table."""
    told = [outcomes.get(order) for order in ("before", "after")]
    shown = ["" if one is None else f"{one:.1e}" if isinstance(one, float) else "refused" for one in told]
    ran = any(isinstance(one, float) for one in told)
    shown.append(f"{outcomes[CALLS]} for {companion.steps} steps" if ran else "")
    return f"| {companion.name} | {companion.source} | {verdict(outcomes)} | {' | '.join(shown)} |"


def verdict(outcomes: Outcomes) -> str:
    """Say what the two orders come to."""
    if not outcomes:
        return "fails on this ComfyUI without OmniX too"
    outcomes = {order: outcome for order, outcome in outcomes.items() if order != CALLS}
    right = [order for order, outcome in outcomes.items() if isinstance(outcome, float) and outcome <= EXACT]
    wrong = [order for order, outcome in outcomes.items() if isinstance(outcome, float) and not outcome <= EXACT]
    if len(right) == len(outcomes):
        return "right"
    if right:
        return f"order matters: put it {right[0]} Apply OmniX Adapters"
    return "**wrong**" if wrong else "refused"


def sentences(outcomes: Outcomes) -> list[str]:
    """Return what was said, each sentence once."""
    return list(dict.fromkeys(said for said in outcomes.values() if isinstance(said, str)))


if __name__ == "__main__":
    main()
