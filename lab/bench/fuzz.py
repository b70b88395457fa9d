"""Throw damaged adapter files at the reader and the converter: python lab/bench/fuzz.py [--cases 1000000]

Every case starts from a file in lab/bench/seeds, damages its bytes, its header's JSON or the adapter_config.json beside
it, and opens the result; every second file that opens is also inspected, converted, verified and split. Allowed are
success and AdapterError; no case may take 10 seconds, no process 64 MB, no file may turn up outside the destination.
A case is told by its number alone: `--case N` runs it again, with its traceback. Standard library only.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SEEDS = ROOT / "lab" / "bench" / "seeds"
LIMIT_SECONDS, LIMIT_MB = 10, 64
NUMBERS = (-1, 0, 1, 2, 3, 255, 2**31, 2**53, 2**62, 2**63, 2**64, 10**19, 10**40, -(2**63), 0.5, 1e308, -0.0)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(float("nan"), float("inf"), None, True, False, "", "x", "\ud800", "\0", "../..", "__metadata__", [], {}, [[]]),
    *(
        "F64",
        "F32",
        "BF16",
        "F8_E4M3",
        "I64",
        "U8",
        "BOOL",
        "F4",
        [0],
        [1, 1],
        [2, 0],
        [0, 2**62],
        {"*": None},
        {"a": 1},
    ),
    *("{", '{"double_blocks.0.img_attn.qkv":[["transformer_blocks.0.attn.to_q",0,2,1]]}', "(a+)+$", ".*.*.*.*.*x"),
)
BYTES = (
    b"\0",
    b"\xff",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"-",
    b"9" * 25,
    b"1e999",
    b"[" * 2000,
    b"\xed",
)
CONFIG = {"lora_alpha": 2, "use_rslora": False, "alpha_pattern": {"to_q": 3, ".*ff.net.2": 4}, "use_dora": False}


def main() -> int:
    """Run the cases in as many processes as asked for; print what came of them; 1 if a case broke a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        options.first, options.cases, options.worker = options.case, 1, True
    if options.worker:
        print(json.dumps(work(options.first, options.cases, stop=options.case is not None)))
        return 0
    return supervise(options.first, options.cases, options.workers)


def supervise(first: int, cases: int, workers: int) -> int:
    """Share the cases among processes and add up what they say."""
    started = time.perf_counter()
    share = -(-cases // workers)
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", f"--first={at}", f"--cases={min(share, first + cases - at)}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for at in range(first, first + cases, share)
    ]
    texts = [worker.communicate()[0] for worker in running]
    results = [json.loads(text) for text in texts if text]
    counts = sum((Counter(result["counts"]) for result in results), Counter())
    broken = [sentence for result in results for sentence in result["broken"]]
    broken += ["a process died" for worker in running if worker.returncode]
    print(
        f"{sum(counts[kind] for kind in ('opened', 'refused', 'broken'))} cases, {time.perf_counter() - started:.0f} s"
    )
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print(f"slowest case {max(result['slowest'] for result in results):.2f} s, ", end="")
    print(f"largest process {max(result['peak_mb'] for result in results):.0f} MB")
    print("\n".join(broken) or "no rule was broken")
    return int(bool(broken))


def work(first: int, cases: int, stop: bool = False) -> dict[str, Any]:
    """Run cases one after another in this process; return counts, broken rules, the slowest case, the peak memory."""
    block_torch()
    signal.signal(signal.SIGALRM, too_slow)
    counts: Counter[str] = Counter()
    broken, slowest = [], 0.0
    seeds = [path.read_bytes() for path in sorted(SEEDS.glob("*.safetensors"))]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        for number in range(first, first + cases):
            started = time.perf_counter()
            signal.alarm(LIMIT_SECONDS)
            try:
                counts.update(case(number, seeds, Path(name)))
            except Exception as error:  # whatever it is, it is what this looks for
                if stop:
                    raise
                counts["broken"] += 1
                broken.append(f"case {number}: {type(error).__name__}: {str(error)[:200]}")
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - started)
    peak = peak_mb()
    if peak >= LIMIT_MB:
        broken.append(f"cases {first} to {first + cases - 1}: {peak:.0f} MB of memory")
    return {"counts": counts, "broken": broken[:50], "slowest": slowest, "peak_mb": peak}


def block_torch() -> None:
    """Leave torch out, as it is for those who have none: its memory is not ours."""
    sys.path.insert(0, str(ROOT))
    sys.modules["torch"] = None  # type: ignore[assignment]


def too_slow(*_: object) -> None:
    """End a case that takes too long."""
    raise TimeoutError(f"over {LIMIT_SECONDS} s")


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def case(number: int, seeds: list[bytes], folder: Path) -> list[str]:
    """Make the file of a case and use it; return the kinds of what happened.  Raises what must not happen."""
    from converters import AdapterError, open_adapter

    noise = random.Random(number)
    source = folder / "in" / "pytorch_lora_weights.safetensors"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(damaged(noise, seeds))
    config = source.parent / "adapter_config.json"
    config.unlink(missing_ok=True)
    if noise.random() < 0.15:
        config.write_bytes(scrambled(noise, json.dumps(mutated(noise, CONFIG)).encode()))
    try:
        open_adapter(source)
    except AdapterError as error:
        if not str(error).startswith(str(source)) or not str(error).isprintable() or len(str(error)) > 1500:
            raise ValueError(f"no fit sentence: {error!r}") from error
        return ["refused"]
    return ["opened", *whole_way(source, folder)] if noise.random() < 0.5 else ["opened"]


def whole_way(source: Path, folder: Path) -> list[str]:
    """Inspect, convert, verify and split a file that opens; check that nothing lies elsewhere."""
    from converters import AdapterError, convert, inspect, split, verify

    result, back = folder / "out" / "b.safetensors", folder / "out" / "c.safetensors"
    done = []
    try:
        inspect(source)
        convert(source, result, allow_unused=True)
        done.append("converted")
        verify(source, result)
        split(result, back)
        done.append("split")
    except AdapterError:
        with contextlib.suppress(AdapterError):
            split(source, back)  # of a seed that is converted already
            done.append("split")
    extra = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    extra -= {"in/pytorch_lora_weights.safetensors", "in/adapter_config.json", "out/b.safetensors", "out/c.safetensors"}
    shutil.rmtree(folder / "out", ignore_errors=True)
    if extra:
        raise ValueError(f"files that must not be: {sorted(extra)}")
    return done


def damaged(noise: random.Random, seeds: list[bytes]) -> bytes:
    """Damage a seed: its bytes, or its header's JSON; now and then make a header that is as dear as can be."""
    seed = noise.choice(seeds)
    kind = noise.random()
    if kind < 0.3:
        return scrambled(noise, seed)
    if kind < 0.30002:
        return dear(noise)
    size = struct.unpack("<Q", seed[:8])[0]
    fields = mutated(noise, json.loads(seed[8 : 8 + size]))
    text = json.dumps(fields, ensure_ascii=noise.random() < 0.5).encode("utf-8", "surrogatepass")
    if noise.random() < 0.1:
        text = scrambled(noise, text)
    return struct.pack("<Q", len(text)) + text + seed[8 + size :]


def scrambled(noise: random.Random, data: bytes) -> bytes:
    """Flip, put in, cut out, double and cut off bytes."""
    for _ in range(noise.choice((1, 1, 1, 2, 4, 16))):
        at = noise.randrange(len(data) + 1) if noise.random() < 0.7 else noise.randrange(min(len(data), 16) + 1)
        end = at + noise.choice((0, 1, 2, 8, 64, 512))
        kind = noise.randrange(5)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << noise.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + noise.choice(BYTES) + data[at:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif noise.random() < 0.2:
            data = data[:at]
    return data


def mutated(noise: random.Random, value: Any) -> Any:
    """Change some places in a JSON value: another value, another name, one more, one less; JSON in texts too."""
    for _ in range(noise.choice((1, 1, 1, 2, 3))):
        value = changed(noise, value)
    return value


def changed(noise: random.Random, value: Any) -> Any:
    """Walk down to a place in a JSON value and change it."""
    if isinstance(value, dict) and value and noise.random() < 0.9:
        return changed_table(noise, value)
    if isinstance(value, list) and value and noise.random() < 0.8:
        at = noise.randrange(len(value))
        own = [changed(noise, value[at])] if noise.random() < 0.8 else noise.choice(([], [value[at]] * 2))
        return value[:at] + own + value[at + 1 :]
    if isinstance(value, str) and value[:1] in ("{", "[") and noise.random() < 0.8:
        with contextlib.suppress(ValueError):
            return json.dumps(changed(noise, json.loads(value)))
    if isinstance(value, int) and noise.random() < 0.5:
        return value + noise.choice((-1, 1, -2, 2, 64, -64))
    return noise.choice(VALUES)


def changed_table(noise: random.Random, table: dict[str, Any]) -> dict[str, Any]:
    """Change one name or value of a JSON object."""
    key = "__metadata__" if "__metadata__" in table and noise.random() < 0.3 else noise.choice(list(table))
    kind = noise.random()
    if kind < 0.7:
        return {**table, key: changed(noise, table[key])}
    rest = {name: value for name, value in table.items() if name != key}
    if kind < 0.8:
        return rest
    other = noise.choice(list(table))
    cut = noise.randrange(len(key) + 1)
    name = noise.choice(
        (other, key[:cut] + other[cut:], key[:cut], key + ".alpha", key.replace("lora_A", "lora_B"), "\ud800")
    )
    return {**rest, name: table[key]}


def dear(noise: random.Random) -> bytes:
    """Make a header that costs as much memory and time as one can."""
    unit = noise.choice(('{"ab":{}},', "[],", "999,", '"ab",', '"é☃",', "1e5,", '"\\u2603",', "[[[[[]]]]],"))
    text = ("[" + unit * noise.choice((30_000, 60_000, 180_000, 400_000)) + "1]").encode()[:5_000_000]
    if noise.random() < 0.5:
        text = json.dumps({"__metadata__": {"omnix_blocks": text.decode(errors="ignore"), "x": "\U0001f600"}}).encode()
    return struct.pack("<Q", len(text)) + text


if __name__ == "__main__":
    sys.exit(main())
