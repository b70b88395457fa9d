"""A whole run: from a folder of pictures to the adapters of each target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..omnix.tasks import tagged_prompt
from . import data
from .config import Config, Plan, check, plans
from .engine import Result, train
from .errors import TrainingError
from .heldout import Watch
from .place import use_host

LATENTS = "latents"


def run(config: Config, *, base: Any = None, go_on: bool = False, show: bool = True) -> tuple[Result, ...]:
    """Train every target of a configuration, one after the other; return what each came to.

    `base` is a FLUX.1 with its VAE and text encoders (`Base` and `Pictures`); None loads the configuration's through
    ComfyUI. `go_on` continues from the newest saves. Raises TrainingError, AdapterError, MapError, OSError.
    """
    check(config)
    if not config.output:
        raise TrainingError("--output is missing: name the folder for saves, sheets and curves.")
    tasks = plans(config)
    found = [data.find(config, plan) for plan in tasks]
    results: list[Result] = []
    for plan, sources in zip(tasks, found):
        results.append(_train_one(config, plan, sources, base or host_base(config), go_on, show))
        if results[-1].stopped:
            break
    return tuple(results)


def host_base(config: Config) -> Any:
    """Return the configuration's base model through ComfyUI."""
    use_host(config.comfyui, config.device == "cpu")
    try:
        from .host import HostBase  # knows the host, which can be imported only now
    except RuntimeError as error:  # the host looks for a GPU while it is imported
        reason = str(error).splitlines()[0]
        raise TrainingError(f"ComfyUI found no GPU ({reason}). Check the GPU driver, or use --device cpu.") from error
    return HostBase(config)


def folder_of(config: Config, plan: Plan) -> Path:
    """Return where a task's saves go: into the output, below it in a folder of its own if there are several."""
    output = Path(config.output)
    return output if len(config.target) == 1 else output / plan.task.name


def _train_one(config: Config, plan: Plan, sources: data.Sources, base: Any, go_on: bool, show: bool) -> Result:
    trained, held_out = data.split(sources.stems, config.held_out)
    output = folder_of(config, plan)
    cache = data.Cache(Path(config.output) / LATENTS, base, base.vae_identity)
    samples = _encoded(config, plan, sources, trained, cache, base, show)
    shown = _encoded(config, plan, sources, held_out, cache, base, show) if held_out else None
    base.release()
    watch = Watch(config, plan, sources, held_out, base, output)
    return train(config, plan.task, base, samples, output, go_on=go_on, held_out=shown, sampled=watch, show=show)


def _encoded(
    config: Config, plan: Plan, sources: data.Sources, stems: Sequence[str], cache: data.Cache, base: Any, show: bool
) -> data.Cached:
    """Encode what is not in the cache yet, pictures first, then prompts, so that the VAE and T5 never meet."""
    sums: dict[Path, str] = {}
    latents, kept = [], []
    for stem in tqdm(stems, desc="encoding pictures", disable=not show, dynamic_ncols=True):
        row = [sources.files[stem, stream.name] for stream in plan.streams]
        sums |= {path: _sum(path) for files in row for path in files if path not in sums}
        latents.append(
            [cache.latent(config, s, files, [sums[path] for path in files]) for s, files in zip(plan.streams, row)]
        )
        kept.append([stem, [path.name for path in latents[-1]], sources.captions[stem]])
    base.release()
    captions = sources.captions if config.caption_dropout < 1 else dict.fromkeys(stems, "")
    words = [tagged_prompt(captions[stem] or config.prompt) for stem in stems]
    bare = cache.prompt(tagged_prompt("" if any(captions.values()) else config.prompt), base.text_identity)
    prompts = [
        cache.prompt(text, base.text_identity) for text in tqdm(words, desc="encoding prompts", disable=not show)
    ]
    base.release()
    identity = hashlib.sha256(json.dumps([kept, bare.name]).encode()).hexdigest()
    return data.Cached(latents, prompts, bare, identity, data.maps(plan))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
