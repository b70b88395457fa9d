"""Injected faults: after each one the MODEL is bit-identical, the next run works, and nothing is left behind."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfyui_omnix.converters import AdapterError
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import low_rank
from comfyui_omnix.omnix.runtime.adapter import fingerprint, task_files
from comfyui_omnix.omnix.runtime.conditioning import load_conditioning, save_conditioning
from rig import Case, Model, conditioning, forward, hook_count, ksample, load_flux, make_case, patched

STEPS = 3


class Broken(RuntimeError):
    """The exception that only the tests raise."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), "rgb_camray_to_normal")


@pytest.fixture(scope="module")
def model(manager: str, case: Case) -> Model:
    return load_flux(case.flux)


@pytest.fixture(scope="module")
def ours(model: Model, case: Case) -> Model:
    return patched(model, case)


@pytest.fixture(scope="module")
def plain(model: Model, case: Case) -> torch.Tensor:
    """The result of the plain MODEL before any error."""
    return forward(model, case)


@pytest.fixture(scope="module")
def expected(ours: Model, case: Case) -> torch.Tensor:
    """The result of a run without errors."""
    return ksample(ours, case, STEPS)


@pytest.fixture(autouse=True)
def nothing_is_left(model: Model, ours: Model, case: Case, plain: torch.Tensor, expected: torch.Tensor) -> Iterator:
    """After every test here: no hook, the plain MODEL unchanged, and the next run as if nothing had happened."""
    hooks = hook_count(model), hook_count(ours)
    yield
    assert (hook_count(model), hook_count(ours)) == hooks
    assert torch.equal(forward(model, case), plain)
    assert torch.equal(ksample(ours, case, STEPS), expected)


def layers_of(model: Model) -> list[str]:
    """Name every layer of the FLUX that holds weights."""
    named = model.model.diffusion_model.named_modules()
    return [name for name, module in named if next(module.parameters(recurse=False), None) is not None]


@contextlib.contextmanager
def raising(layer: torch.nn.Module, error: BaseException, call: int) -> Iterator[None]:
    """Raise `error` instead of the layer's result, at its call number `call`."""
    calls = []

    def fail(*_: Any) -> None:
        calls.append(None)
        if len(calls) == call:
            raise error

    hook = layer.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_exception_in_every_layer(model: Model, ours: Model, case: Case, plain: torch.Tensor) -> None:
    """In the middle of the second step, in each layer in turn."""
    names = layers_of(model)
    assert len(names) >= 2 * 12 + 2 * 5
    hooks = hook_count(model)
    for name in names:
        with raising(model.model.diffusion_model.get_submodule(name), Broken(name), 2), pytest.raises(Broken):
            ksample(ours, case, STEPS)
        assert hook_count(model) == hooks, name
    assert torch.equal(forward(model, case), plain)


@pytest.mark.parametrize("step", range(STEPS))
def test_cancel_at_every_step(ours: Model, case: Case, step: int) -> None:
    """Cancel sets a flag, on which the host's progress callback and its casts of weights raise."""

    def cancel(current: int, *_: Any) -> None:
        if current == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(ours, case, STEPS, callback=cancel)


@pytest.mark.parametrize("layer", ["double_blocks.1.img_attn.qkv", "single_blocks.0.linear1", "final_layer.linear"])
def test_cancel_inside_a_step(model: Model, ours: Model, case: Case, layer: str) -> None:
    stop = comfy.model_management.InterruptProcessingException()
    with raising(model.model.diffusion_model.get_submodule(layer), stop, 2), pytest.raises(type(stop)):
        ksample(ours, case, STEPS)


@pytest.mark.parametrize("call", [1, 4, 7])
def test_out_of_memory_in_the_attention(ours: Model, case: Case, call: int) -> None:
    calls = []

    def attention(func: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) == call:
            raise torch.OutOfMemoryError("no memory, on purpose")
        return func(*args, **kwargs)

    other = ours.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = attention
    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        ksample(other, case, STEPS)
    assert len(calls) == call


@pytest.mark.parametrize("damage", ["deleted", "truncated", "replaced"])
def test_adapter_file_lost_after_loading(
    model: Model, expected: torch.Tensor, case: Case, tmp_path: Path, damage: str
) -> None:
    """Loaded adapters no longer depend on the file."""
    own = make_case(tmp_path, "rgb_camray_to_normal")
    loaded = patched(model, own)
    file = own.folder / "rgb_camray_to_normal/normal/pytorch_lora_weights.safetensors"
    if damage == "deleted":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, 1000)
    else:
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert torch.equal(ksample(loaded, case, STEPS), expected)
    if damage != "deleted":
        with pytest.raises(AdapterError, match="normal"):
            own.loaded()
    else:
        with pytest.raises(AdapterError, match=r"missing in that folder: .*normal"):
            own.loaded()


def test_adapter_file_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header was whole when it was checked, the data is gone when it is wanted."""
    own = make_case(tmp_path)
    file = own.folder / "rgb_to_depth/depth/pytorch_lora_weights.safetensors"
    opened = low_rank.read_layers.__globals__["open_adapter"]

    def cut(path: Path) -> Any:
        adapter = opened(path)
        if path == file:
            os.truncate(path, path.stat().st_size // 2)
        return adapter

    monkeypatch.setitem(low_rank.read_layers.__globals__, "open_adapter", cut)
    with pytest.raises(AdapterError, match="the file changed while it was read, so download it again"):
        own.loaded()


def swap(file: Path, how: str) -> None:
    """Put another adapter of the same size, and the same time, under a name."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    other = tiny.save(tiny.adapter(seed=999), file.with_name("other.bin"))
    assert other.stat().st_size == file.stat().st_size
    if how == "renamed over":
        other.replace(file)
    else:
        file.write_bytes(other.read_bytes())
        other.unlink()
    os.utime(file, ns=times)


# Windows keeps no time of the last change, only that of the creation.
@pytest.mark.parametrize("how", ["renamed over"] if sys.platform == "win32" else ["renamed over", "written over"])
def test_file_replaced_under_the_same_name_is_noticed(tmp_path: Path, how: str) -> None:
    """All OmniX adapters have one size, and `cp -p` gives them one time."""
    own = make_case(tmp_path)
    files = task_files(own.locate, ".", own.task)
    before = fingerprint(files)
    assert fingerprint(files) == before
    swap(files[1], how)
    assert fingerprint(files) != before


def test_changed_alpha_beside_the_file_is_noticed(tmp_path: Path) -> None:
    """PEFT keeps alpha in adapter_config.json, which belongs to the adapter as much as its tensors."""
    own = make_case(tmp_path)
    files = task_files(own.locate, ".", own.task)
    config = files[0].with_name("adapter_config.json")
    seen = [fingerprint(files)]
    for text in ('{"lora_alpha": 8}', '{"lora_alpha": 16}', None):
        config.unlink() if text is None else config.write_text(text, "utf-8")
        seen.append(fingerprint(files))
    assert len(set(seen[:3])) == 3
    assert seen[3] == seen[0]


@pytest.fixture
def saved(model: Model, case: Case) -> list[list[Any]]:
    """A conditioning of some size."""
    return conditioning(model, case)


def fits_nowhere(path: Path, saved: list[list[Any]], message: str) -> None:
    """Saving says why it failed, names the file, leaves no part of it, and works once there is room."""
    with pytest.raises(OSError, match=message) as failed:
        save_conditioning(saved, path)
    assert failed.value.filename == str(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite" if hasattr(os, "pwrite") else "write", "ftruncate", "fsync"])
def test_disk_full(saved: list[list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Any of the calls can be the first to fail: with delayed allocation it is not always the write."""
    path = tmp_path / "saved.safetensors"

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patching:
        patching.setattr(os, call, full)
        fits_nowhere(path, saved, os.strerror(errno.ENOSPC))
    save_conditioning(saved, path)
    assert torch.equal(load_conditioning(path)[0][0], saved[0][0])


def test_saved_file_is_never_replaced(saved: list[list[Any]], tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    path.write_bytes(b"somebody's")
    with pytest.raises(AdapterError, match="expected no file of that name"):
        save_conditioning(saved, path)
    assert path.read_bytes() == b"somebody's"
    assert list(tmp_path.iterdir()) == [path]


# Limits on file sizes and read-only folders are things of POSIX.
if sys.platform != "win32":
    import resource

    @contextlib.contextmanager
    def largest_file(size: int) -> Iterator[None]:
        """Let the kernel refuse to make a file larger than `size` bytes."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def test_file_too_large_for_the_disk(saved: list[list[Any]], tmp_path: Path) -> None:
        path = tmp_path / "saved.safetensors"
        with largest_file(4096):
            fits_nowhere(path, saved, os.strerror(errno.EFBIG))
        save_conditioning(saved, path)
        assert torch.equal(load_conditioning(path)[0][0], saved[0][0])

    @contextlib.contextmanager
    def as_nobody() -> Iterator[None]:
        """Give up root's right to write everywhere for a while; others have none."""
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    def test_read_only_output(saved: list[list[Any]]) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o555)
            with as_nobody():
                fits_nowhere(folder / "saved.safetensors", saved, os.strerror(errno.EACCES))
            folder.chmod(0o755)
            save_conditioning(saved, folder / "saved.safetensors")
