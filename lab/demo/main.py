"""The whole pipeline: convert full-size adapters, load them in a real ComfyUI, and predict the maps of a panorama.

    python dev.py demo                       no downloads: full-size adapters with random numbers, and the micro model
    python dev.py demo --flux F --vae V --clip-l C --t5 T --adapters A --panorama P      predict with real files

The first run downloads ComfyUI and its Python packages: about 7 GB in your cache folder, once. The output folder gets
2.2 GB of converted adapters; you may delete it. Without real files, the micro model of lab/micro predicts the maps of a
rendered room that it was not trained on. A sheet shows predictions, ground truth and errors, and the maps become a 3D
scene.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ("flux", "vae", "clip_l", "t5", "adapters")
LEAST_HEIGHT, HEIGHT_STEP = 64, 8


def main() -> int:
    """Run the demo; return the exit status."""
    options = checked(sys.argv[1:])
    if options.panorama:
        check_panorama(options.panorama)
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("demo")
    from comfyui_omnix.lab.demo import conversion, micro, perception

    real = options.flux is not None
    try:
        if real:
            perception.check(options)
    except ValueError as error:
        sys.exit(f"demo: {error}")
    options.output.mkdir(parents=True, exist_ok=True)
    if real:
        perception.show(options)
    else:
        conversion.show(options.output)
        micro.show(options.output, options.steps)
    return 0


def checked(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options.  Exits with one sentence if an option is wrong; needs no package."""
    options = parser().parse_args(arguments)
    absent = [option(name) for name in WEIGHTS if getattr(options, name) is None]
    if 0 < len(absent) < len(WEIGHTS):
        together = ", ".join(map(option, WEIGHTS))
        sys.exit(f"demo: real weights need {together} together; {', '.join(absent)} missing.")
    for name in (*WEIGHTS, "panorama"):
        path, folder = getattr(options, name), name == "adapters"
        if path and not (path.is_dir() if folder else path.is_file()):
            wanted = "a folder" if folder else "a file"
            sys.exit(f"demo: {option(name)} {path}: expected {wanted}, {kind(path)}; check the path.")
    if options.output.exists() and not options.output.is_dir():
        sys.exit(f"demo: --output {options.output}: expected a folder, {kind(options.output)}; name another one.")
    if options.height is not None and (options.height < LEAST_HEIGHT or options.height % HEIGHT_STEP):
        sys.exit(f"demo: --height {options.height}: expected a multiple of {HEIGHT_STEP}, {LEAST_HEIGHT} or more.")
    if options.steps is not None and options.steps < 1:
        sys.exit(f"demo: --steps {options.steps}: expected 1 or more.")
    if options.flux is None:
        check_micro(options)
    return options


def check_panorama(path: Path) -> None:
    """Exit with one sentence, before the host is loaded, if the file is not a picture twice as wide as high."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError) as error:
        sys.exit(f"demo: --panorama {path}: expected a picture ({error}); choose another file.")
    width, height = picture.size
    if width != 2 * height:
        sys.exit(f"demo: --panorama {path}: expected a picture twice as wide as high, got {width}x{height}; resize it.")


def check_micro(options: argparse.Namespace) -> None:
    """Exit with one sentence for options that the micro model does not support."""
    for name in ("panorama", "height"):
        if getattr(options, name) is not None:
            sys.exit(
                f"demo: {option(name)}: without real weights the demo uses the micro model, which works only for "
                f"rendered rooms of 128x64; leave the option out, or set {', '.join(map(option, WEIGHTS))} too."
            )


def option(name: str) -> str:
    """Return an option as on the command line."""
    return f"--{name.replace('_', '-')}"


def kind(path: Path) -> str:
    """Describe a path: folder, file or missing."""
    return "this is a folder" if path.is_dir() else "this is a file" if path.exists() else "it does not exist"


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
    made.add_argument("--panorama", type=Path, help="your own panorama, twice as wide as high")
    made.add_argument("--height", type=int, help="height of the maps in pixels, with real weights (default 720)")
    made.add_argument("--steps", type=int, help="sampling steps (default 2, with real weights 28)")
    made.add_argument(
        "--output", type=Path, default=ROOT / "demo-output", help="where the results go (default demo-output)"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
