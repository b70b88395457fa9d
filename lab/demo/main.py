"""The main job, end to end: convert adapters of full size, prove them in a real ComfyUI, and perceive a panorama in it.

    python dev.py demo                                       made-up weights: shows that it runs, not what OmniX can do
    python dev.py demo --flux F --vae V --clip-l C --t5 T --adapters A --panorama P      the same with real files

Without real files everything is made up: a rendered room, a tiny FLUX.1, VAE and text encoders, and random adapters.
Random weights give meaningless maps; the contact sheet says so.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the demo; return the exit status."""
    options = parser().parse_args()
    given = [options.flux, options.vae, options.clip_l, options.t5, options.adapters]
    if any(given) and not all(given):
        sys.exit(
            "demo: real weights need --flux, --vae, --clip-l, --t5 and --adapters together; name the missing ones."
        )
    missing = [path for path in (*given, options.panorama) if path and not path.exists()]
    if missing:
        sys.exit(f"demo: {missing[0]} does not exist; check the path.")
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("demo")
    from comfyui_omnix.lab.demo import conversion, perception

    options.output.mkdir(parents=True, exist_ok=True)
    if not any(given):
        conversion.show(options.output)
    perception.show(options)
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    made = argparse.ArgumentParser(
        prog="dev.py demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--flux", type=Path, help="FLUX.1-dev as one safetensors file, in any precision")
    made.add_argument("--vae", type=Path, help="ae.safetensors of FLUX.1")
    made.add_argument("--clip-l", type=Path, help="clip_l.safetensors")
    made.add_argument("--t5", type=Path, help="t5xxl safetensors")
    made.add_argument("--adapters", type=Path, help="folder of OmniX adapters, original or converted")
    made.add_argument("--panorama", type=Path, help="a panorama of your own, twice as wide as high")
    made.add_argument("--height", type=int, help="height in pixels to work at (default 128, with real weights 720)")
    made.add_argument("--steps", type=int, help="sampling steps (default 4, with real weights 28)")
    made.add_argument("--output", type=Path, default=ROOT / "demo-output", help="where the results go")
    return made


if __name__ == "__main__":
    sys.exit(main())
