"""Nodes that load and convert files."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from .. import converters
from ..converters.console import line
from ..omnix.runtime import patch
from ..omnix.runtime.adapter import fingerprint, folders_with_tasks, known_tasks, misplaced, task_files, task_in
from ..omnix.runtime.tasks import Task
from .files import allowed, check_name, choices, hidden, inside, located, posted_input
from .model import Adapters


class OmniXLoadAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names, tasks = cls.known()
        folders = choices(folders_with_tasks(names, tasks))
        return io.Schema(
            node_id="OmniXLoadAdapters",
            display_name="Load OmniX Adapters",
            category="OmniX/loaders",
            description="Load the adapters of one OmniX task, one for each stream. Accepts original Diffusers "
            "files and converted files.",
            search_aliases=[
                *("omnix", "panorama", "360", "equirectangular", "ERP", "HDRI", "lora", "adapter", "intrinsic"),
                *("depth", "normal", "albedo", "PBR", "semantic", "segmentation"),
            ],
            inputs=[
                io.Combo.Input("task", options=list(tasks), tooltip="The task. Each task has its own set of adapters."),
                io.Combo.Input(
                    "folder",
                    options=folders,
                    tooltip="Folder in models/loras with the task's files. Example: OmniX, if the file is "
                    "OmniX/rgb_to_depth/rgb.safetensors. Press R after you add files.",
                ),
            ],
            outputs=[Adapters.Output(display_name="adapters", tooltip="Connect to Apply OmniX Adapters.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, task: str, folder: str) -> io.NodeOutput:
        chosen, files = cls.found(task, folder)
        for doubt in misplaced(files, chosen):
            patch.warn(doubt)
        return io.NodeOutput(patch.load_adapters(files, chosen))

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        # The host marks every input that this function takes as an argument. So it takes only the folder, where the
        # files are missing, and looks up the task. A task that is linked or unknown is not checked here.
        task = posted_input(hidden(cls, "unique_id"), "task")
        if folder is None or not isinstance(task, str):
            return True
        return allowed(lambda: cls.found(task, folder)) if task in cls.known()[1] else True

    @classmethod
    def fingerprint_inputs(cls, task: str, folder: str) -> str:
        return fingerprint(cls.found(task, folder)[1])

    @classmethod
    def found(cls, task: str, folder: str) -> tuple[Task, tuple[Path, ...]]:
        """Return a task, with the streams that the folder's files describe, and those files."""
        names, tasks = cls.known()
        check_name(folder)
        chosen = task_in(folder, task, tasks, located("loras"))
        below = any(name.startswith(f"{folder}/") for name in names)
        if not below and folder not in (there := folders_with_tasks(names, tasks)):
            if not there:
                raise ValueError(
                    "No folder in models/loras contains the adapters of an OmniX task; download them from "
                    "huggingface.co/KevinHuang/OmniX into models/loras/OmniX, then press R."
                )
            raise ValueError(
                f"{folder}: no such folder in models/loras; folders with OmniX adapters are {', '.join(there)}."
            )
        return chosen, task_files(located("loras"), folder, chosen)

    @staticmethod
    def known() -> tuple[list[str], dict[str, Task]]:
        """Return the names of all files in models/loras, and the tasks: OmniX's own and those these files describe."""
        names = folder_paths.get_filename_list("loras")
        return [name.replace("\\", "/") for name in names], known_tasks(names, located("loras"))


class OmniXLoadDiffusersFlux(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadDiffusersFlux",
            display_name="Load Diffusers FLUX",
            category="OmniX/loaders",
            description="Load FLUX.1-dev from a Hugging Face Diffusers snapshot in models/diffusers, if you already "
            "have those 24 GB.",
            search_aliases=["omnix", "diffusers", "flux", "hugging face", "sharded"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=choices(diffusers_snapshots()),
                    tooltip="Snapshot in models/diffusers that contains transformer/*.safetensors.",
                )
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="FLUX.1-dev.")],
        )

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        return io.NodeOutput(patch.load_diffusers_flux(cls.shards(folder)))

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        return folder is None or allowed(lambda: cls.shards(folder))

    @staticmethod
    def shards(folder: str) -> list[str]:
        check_name(folder)
        if folder not in (snapshots := diffusers_snapshots()):
            raise ValueError(
                f"{folder}: expected a snapshot with transformer/*.safetensors in models/diffusers, got none; "
                "copy the snapshot of FLUX.1-dev there and press R."
            )
        return transformer_shards(snapshots[folder])


def diffusers_snapshots() -> dict[str, Path]:
    """Map the names of the snapshots in models/diffusers to their transformer folders."""
    roots = [Path(root) for root in folder_paths.get_folder_paths("diffusers")]
    found = [(root, path) for root in roots for path in sorted(root.glob("**/transformer/*.safetensors"))]
    return {path.parent.parent.relative_to(root).as_posix(): path.parent for root, path in reversed(found)}


def transformer_shards(folder: Path) -> list[str]:
    """List the shards of a transformer folder; if it has an index, the shards in the index.  Raises ValueError."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        return [str(path) for path in sorted(folder.glob("*.safetensors"))]
    try:
        names = sorted(set(json.loads(indices[0].read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{indices[0]}: expected an index of shards, got {error}; download it again.") from error
    # Other kinds of files are excluded: the host reads .bin and .pt with pickle.
    shards = {path.name for path in folder.glob("*.safetensors")}
    missing = [name for name in names if Path(str(name)).name not in shards]
    if missing:
        raise ValueError(f"{folder}: expected {len(names)} shards, got none named {missing[0]}; download it again.")
    return [str(folder / Path(str(name)).name) for name in names]


# Advice that names an option of the command -> the same advice for the node, which has no such option.
_WORDS = (
    ("use --force to replace it", "choose another name, or delete the file"),
    ("use --allow-unused to leave them out", "the command of docs/converter.md can leave them out"),
    (
        "use --header-alpha apply or --header-alpha ignore",
        "the command of docs/converter.md lets you choose",
    ),
    ("choose a wider type with --dtype", "the command of docs/converter.md can write a wider type"),
    ("(--split can't undo it)", "(it can't be split back bit for bit)"),
    (", or give it to --split for the original", ""),
)


def without_flags(text: str) -> str:
    """Return a message of the converter with the advice for the node."""
    for flag, words in _WORDS:
        text = text.replace(flag, words)
    return text


class OmniXConvertAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXConvertAdapter",
            display_name="Convert FLUX LoRA",
            category="OmniX/loaders",
            description="Convert a Diffusers FLUX.1 LoRA into a file for ComfyUI's LoRA loaders, merged or bypassed. "
            "Load OmniX Adapters accepts both, so the OmniX tasks do not need this node.",
            search_aliases=["omnix", "convert lora", "diffusers", "fuse", "qkv"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "source",
                    options=choices(folder_paths.get_filename_list("loras")),
                    tooltip="A LoRA in models/loras in Diffusers layout.",
                ),
                io.String.Input(
                    "name",
                    default="OmniX/converted",
                    tooltip="Name of the new file in models/loras, without .safetensors. Press R to see it in the "
                    "loaders.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="Name of the converted file in models/loras.")],
        )

    @classmethod
    def validate_inputs(cls, source: str | None, name: str | None = None) -> bool | str:
        answer = source is None or allowed(lambda: cls.file(source))
        return answer if answer is not True or name is None else allowed(lambda: cls.target(name))

    @staticmethod
    def file(source: str) -> Path:
        check_name(source)
        path = located("loras")(source)
        if path is None:
            raise ValueError(f"{source}: no such file in models/loras; choose another and press R.")
        return Path(path)

    @classmethod
    def execute(cls, source: str, name: str) -> io.NodeOutput:
        root, target = cls.target(name)
        if target.exists():
            raise ValueError(
                f"{name}: models/loras already has a file of that name; choose another name, or delete the file."
            )
        job = converters.Job(cls.file(source), target, converters.slot_of_name(source))
        started = time.perf_counter()
        try:
            report = converters.convert(job.source, target, slot=job.slot)
        except converters.AdapterError as error:
            raise converters.AdapterError(without_flags(str(error))) from error
        written = target.relative_to(root).as_posix()
        report = report._replace(source=source, destination=written)
        said = line(converters.Outcome(job, report, None, time.perf_counter() - started), dry_run=False)
        return io.NodeOutput(written, ui={"text": [without_flags(said)]})

    @classmethod
    def fingerprint_inputs(cls, source: str | None, name: str | None) -> str:
        """Change with the source, and each time the converted file is missing, so that the node makes it again."""
        if source is None or name is None:  # linked: the host's own cache key contains their values
            return ""
        _, target = cls.target(name)
        _MISSING[target] += not target.exists()
        return f"{fingerprint([cls.file(source)])} {_MISSING[target]}"

    @staticmethod
    def target(name: str) -> tuple[Path, Path]:
        """Return the folder of new LoRAs, and the path in it of the file with this name."""
        root = Path(folder_paths.get_folder_paths("loras")[0])
        plain = inside(root, name.removesuffix(".safetensors"))
        return root.resolve(), plain.with_name(f"{plain.name}.safetensors")


_MISSING: Counter[Path] = Counter()
"""How often each converted file was missing when its node was run; the host's cache does not check that."""
