"""The base model through ComfyUI: the only module of the trainer that imports ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import safetensors
import torch
from torch import Tensor, nn

from ..omnix.runtime import patch
from ..omnix.runtime.conditioning import encode_prompt, load_conditioning, note_on_rows
from ..omnix.runtime.tasks import PROMPT_TAG, TEXT_ROWS
from .config import Config, TrainingError, precision_on
from .latents import checksum
from .pictures import PIXELS_PER_LATENT

CHANNELS = 16
_GGUF = "omnix_gguf"
"""The name under which the pack ComfyUI-GGUF is imported."""


@contextmanager
def differentiable() -> Iterator[None]:
    """Make the host compute with operations that have a gradient, instead of its fast kernels."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:  # a host that has no other kernels
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


class LoadedBase:
    """A MODEL that the host has loaded, as a base for the engine."""

    def __init__(self, model: Any, identity: str = "loaded") -> None:
        self.model, self.identity = model, identity
        patch.flux_of(model)

    def flux(self) -> nn.Module:
        """Return the transformer, frozen."""
        comfy.model_management.load_models_gpu([self.model], force_full_load=True)
        return patch.flux_of(self.model).requires_grad_(False)

    def device(self) -> torch.device:
        """Return the device where the host runs it; DynamicVRAM moves a weight there only when it is used."""
        return self.model.load_device

    def dtype(self) -> torch.dtype:
        """Return the dtype in which the host samples with it."""
        return self.model.model.get_dtype_inference()

    def differentiable(self) -> Any:
        """Let the host compute with operations that have a gradient."""
        return differentiable()


class HostBase(LoadedBase):
    """FLUX.1-dev, its VAE and its text encoders from files, each in memory only while it is needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.files = {kind: located(getattr(config, kind), kind) for kind in _FOLDERS if getattr(config, kind)}
        for kind in ("model", "vae"):
            if kind not in self.files:
                raise TrainingError(
                    f"--{kind} is missing: name FLUX.1-dev's {kind} as a path, or below ComfyUI's models."
                )
        self.identity = checksum(self.files["model"])
        self.vae_identity = checksum(self.files["vae"])
        sums = [checksum(self.files[kind]) for kind in _TEXT if kind in self.files]
        self.text_identity = " ".join([f"{TEXT_ROWS} rows", *sums])
        self._vae: Any = None
        self._clip: Any = None
        self._loaded = False

    def flux(self) -> nn.Module:
        """Load the transformer once, after everything else has left the memory."""
        if not self._loaded:
            self.release()
            self.model = load_model(self.files["model"], self.config)
            self._loaded = True
        return super().flux()

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Turn an image [b, H, W, 3] in [0, 1] into the latent [b, 16, H/8, W/8] that FLUX sees."""
        with _explained(self.files["vae"], "a VAE", "FLUX.1's VAE"):
            latent = self._decoder().encode(image)
        wanted = (len(image), CHANNELS, image.shape[1] // PIXELS_PER_LATENT, image.shape[2] // PIXELS_PER_LATENT)
        if tuple(latent.shape) != wanted:
            raise TrainingError(
                f"{self.files['vae']}: expected a VAE of {CHANNELS} channels and latents {list(wanted)}, got "
                f"{list(latent.shape)}; use FLUX.1's VAE."
            )
        return comfy.latent_formats.Flux().process_in(latent.float().cpu())

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Undo `encode`."""
        return self._decoder().decode(comfy.latent_formats.Flux().process_out(latent)).float().cpu()

    def _decoder(self) -> Any:
        if self._vae is None:
            state = comfy.utils.load_torch_file(str(self.files["vae"]))
            # While FLUX is loaded the VAE stays on the CPU: the host would move FLUX away to make room for it.
            self._vae = comfy.sd.VAE(sd=state, device=torch.device("cpu") if self._loaded else None)
            self._vae.throw_exception_if_invalid()
        return self._vae

    @torch.no_grad()
    def prompt(self, words: str) -> tuple[Tensor, Tensor]:
        """Encode a prompt as the graphs do: text [1, tokens, channels], pooled vector [1, channels]."""
        if "conditioning" in self.files:
            if words != PROMPT_TAG:
                raise TrainingError(
                    f"--conditioning contains only the prompt {PROMPT_TAG}, but {words!r} must be encoded; name "
                    "--clip-l and --t5 instead, or use no captions (--caption-dropout 1) and no --prompt."
                )
            text, options = load_conditioning(self.files["conditioning"])[0]
            if note := note_on_rows(text):
                patch.warn(f"--conditioning {self.files['conditioning']}: {note}")
            if "pooled_output" not in options:
                raise TrainingError(
                    f"{self.files['conditioning']}: expected CLIP-L's pooled vector in it, got none; save it "
                    "again with OmniX Encode Prompt and Save OmniX Conditioning."
                )
            return text.float(), options["pooled_output"].float()
        if self._clip is None:
            paths = [str(self._encoder(kind)) for kind in _ENCODERS]
            with _explained(" and ".join(paths), "text encoders", "FLUX.1's CLIP-L and T5"):
                self._clip = comfy.sd.load_clip(ckpt_paths=paths, clip_type=comfy.sd.CLIPType.FLUX)
        ((text, options),) = encode_prompt(
            self._clip, words, self.config.guidance, lambda note: patch.warn(f"{words[:60]!r}: {note}")
        )
        return text.float().cpu(), options["pooled_output"].float().cpu()

    def _encoder(self, kind: str) -> Path:
        """Return a text encoder's file.  Raises TrainingError for other files, which the host would load in part."""
        if kind not in self.files:
            raise TrainingError(f"--{kind.replace('_', '-')} is missing: name both text encoders, or --conditioning.")
        path = self.files[kind]
        try:
            with safetensors.safe_open(path, "pt") as file:
                names = set(file.keys())
        except (safetensors.SafetensorError, OSError):
            names = set()
        encoder, layer = _ENCODERS[kind]
        if layer not in names:
            raise TrainingError(
                f"{path}: expected the text encoder {encoder} as a whole .safetensors file, got another; "
                f"correct --{kind.replace('_', '-')}."
            )
        return path

    def release(self) -> None:
        """Remove the VAE and the text encoders from memory."""
        self._vae = self._clip = None
        if not self._loaded:
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()


_FOLDERS = {
    "model": "diffusion_models",
    "vae": "vae",
    "clip_l": "text_encoders",
    "t5": "text_encoders",
    "conditioning": "conditioning",
}


_TEXT = ("clip_l", "t5", "conditioning")


_ENCODERS = {
    "clip_l": ("CLIP-L", "text_model.encoder.layers.1.mlp.fc1.weight"),
    "t5": ("T5", "encoder.block.1.layer.0.SelfAttention.q.weight"),
}
"""The text encoders' names, and a weight that only this encoder has."""


def located(name: str, kind: str) -> Path:
    """Return a file by its path, or by its name below the host's models.  Raises TrainingError."""
    path = Path(name)
    if path.exists():
        return path.resolve()
    folder = _FOLDERS[kind]
    if folder in folder_paths.folder_names_and_paths and (found := folder_paths.get_full_path(folder, name)):
        return Path(found)
    raise TrainingError(
        f"--{kind.replace('_', '-')} {name}: no such file, nor below ComfyUI's models/{folder}; check the name."
    )


def load_model(path: Path, config: Config) -> Any:
    """Load a FLUX.1 as the host's own loaders do.  Raises TrainingError for other models."""
    if path.suffix == ".gguf":
        return _load_gguf(path)
    wanted = config.weight_dtype
    if wanted == "default":
        device = comfy.model_management.get_torch_device().type
        wanted = "float32" if precision_on(config, device) == "float32" else ""
    options = {"dtype": getattr(torch, wanted)} if wanted else {}
    with _explained(path, "FLUX.1-dev", "FLUX.1-dev's own file"):
        if path.is_dir():
            shards = [str(shard) for shard in sorted(path.glob("*.safetensors"))]
            return _checked(path, patch.load_diffusers_flux(shards))
        return _checked(path, comfy.sd.load_diffusion_model(str(path), model_options=options))


@contextmanager
def _explained(file: Path | str, expected: str, instead: str, loader: str = "ComfyUI") -> Iterator[None]:
    """Turn any error of a loader into one sentence about its file."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        reason = _one_line(error)
        raise TrainingError(f"{file}: {loader} can't load it as {expected} ({reason}); use {instead}.") from error


def _checked(path: Path, model: Any) -> Any:
    try:
        patch.flux_of(model)
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error
    return model


def _load_gguf(path: Path) -> Any:
    """Load a GGUF file with the pack ComfyUI-GGUF, if it is installed."""
    pack = _gguf_pack(path)
    # Its loader searches the host's folders by name, and another file there may have the same name.
    folder_paths.add_model_folder_path("diffusion_models", str(path.parent), is_default=True)
    with _explained(path, "FLUX.1-dev", "another file", "ComfyUI-GGUF"):
        model = pack.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]().load_unet(path.name)[0]
    return _checked(path, model)


def _gguf_pack(path: Path) -> Any:
    """Import the pack ComfyUI-GGUF from below the host's custom_nodes, once."""
    if _GGUF in sys.modules:
        return sys.modules[_GGUF]
    roots = [Path(root) for root in folder_paths.get_folder_paths("custom_nodes")]
    folder = next(
        (found for root in roots for found in sorted(root.glob("*GGUF*")) if (found / "nodes.py").is_file()), None
    )
    if folder is None:
        raise TrainingError(
            f"{path}: a GGUF file needs the pack ComfyUI-GGUF below custom_nodes; install it, or use another file."
        )
    spec = importlib.util.spec_from_file_location(
        _GGUF, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise TrainingError(f"{folder}: expected a ComfyUI pack; install ComfyUI-GGUF again.")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[_GGUF] = pack
    try:
        spec.loader.exec_module(pack)
    except ImportError as error:
        del sys.modules[_GGUF]
        raise TrainingError(
            f"{folder}: the pack can't be imported ({_one_line(error)}); pip install -r {folder / 'requirements.txt'}."
        ) from error
    return pack


def _one_line(error: Exception) -> str:
    """Return an error's words on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200]
