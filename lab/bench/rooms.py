"""Time the making of rooms: CPU seconds of one core a room, the best of three, mean and longest over some seeds.

python lab/bench/rooms.py [--seeds N]
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="how many rooms (12)")
    seeds = parser.parse_args().seeds
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()
    from comfyui_omnix.lab.rooms.lighting import FAST, PICTURE
    from comfyui_omnix.lab.rooms.random_room import random_room
    from comfyui_omnix.lab.rooms.room import render

    stages = [random_room(seed) for seed in range(seeds)]
    rows = [("random_room", [best(lambda s=seed: random_room(s)) for seed in range(seeds)])]
    for name, quality, width in (("fast", FAST, 256), ("picture", PICTURE, 256), ("picture", PICTURE, 512)):
        times = [best(lambda s=s, q=quality, w=width: render(w, w // 2, stage=s, quality=q)) for s in stages]
        rows.append((f"render, {name}, {width}x{width // 2}", times))
    print("| what | mean, s | longest, s |\n|---|---|---|")
    for name, times in rows:
        print(f"| {name} | {sum(times) / seeds:.3f} | {max(times):.3f} |")


def best(work: Callable[[], object]) -> float:
    """Return the least CPU time of three runs, in seconds."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
