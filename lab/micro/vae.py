"""The VAE in TAESD's form, which VAELoader reads: its encoder is the block transform itself, its decoder is trained.

The encoder needs no training. Two strided convolutions put the pixels of 4x4 blocks side by side in 48 channels, which
are never below 0 and so pass every ReLU. The third computes the transform's coefficients and, in other channels, their
negatives: ReLU(c) - ReLU(-c) is c. All residual blocks add nothing.
The decoder can't be the transform's inverse, because it repeats pixels before each convolution. A narrow decoder is
trained, with one residual block on each level, and written into TAESD's 64 channels with zeros around it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from ...mapfiles.pictures import replacing
from ...training import record
from ...training.config import Config
from ...training.optimizers import learning_rate
from ..host.tiny_models import CHANNELS, DECODER, ENCODER, LATENT, SCALE, SHIFT
from .blocks import BLOCK, Blocks
from .graphs import VAE
from .pictures import Images, as_images
from .recipe import BEGUN, Stage

SMALL = 0.05
"""TAESD's networks get such a small multiple of the latent that their tanh(x / 3) * 3 does not change it."""
OF_PIXELS, OF_CHANNELS = "k (c y2 y1 y0 x2 x1 x0)", "k (c y0 x0 y1 x1) y2 x2"
"""An axis of the transform by a block's pixels, and by the channels and taps of the encoder's third strided layer."""
WIDTHS = (64, 64, 40, 16)
"""Channels that are trained at an eighth, a quarter, a half and all of the size."""
SAVE_EVERY, WARMUP, AVERAGED = 100, 100, 0.995
RESOLUTIONS = ((1, 3), (7, 8), (12, 13), (17, 18))
"""TAESD's numbers of the decoder's convolution and trained block at each level; `LAST` gives the colours."""
LAST = 19


class Residual(nn.Module):
    """TAESD's block: three convolutions added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
        nn.init.zeros_(layers[2].weight)
        self.conv = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + conv(x))."""
        return torch.relu(x + self.conv(x))


def narrow_decoder() -> nn.Sequential:
    """Make the decoder that is trained, from latents to colours in [0, 1]; modules have TAESD's numbers as names."""
    layers: list[tuple[str, nn.Module]] = []
    before = LATENT
    for level, ((number, block), width) in enumerate(zip(RESOLUTIONS, WIDTHS)):
        if level:
            layers.append((str(number - 1), nn.Upsample(scale_factor=2)))
        layers.append((str(number), nn.Conv2d(before, width, 3, padding=1, bias=not level)))
        layers += [(str(number + 1), nn.ReLU())] if not level else []
        layers.append((str(block), Residual(width)))
        before = width
    result = nn.Sequential()
    for name, layer in (*layers, (str(LAST), nn.Conv2d(before, 3, 3, padding=1))):
        result.add_module(name, layer)
    return result


def train(latents: Mapping[str, Tensor], images: Images, stage: Stage, folder: Path) -> dict[str, Tensor]:
    """Train the decoder to the stage's end, from the save in `folder` if there is one; return the average's weights."""
    decoder, saved = narrow_decoder().to(comfy.model_management.get_torch_device()), folder / "vae.pt"
    if (folder / BEGUN / VAE).is_file():
        decoder.load_state_dict(narrowed(load_file(folder / BEGUN / VAE)))
    average = copy.deepcopy(decoder).requires_grad_(False)
    optimizer = torch.optim.AdamW(decoder.parameters(), stage.learning_rate, weight_decay=0.0)
    parts = {"decoder": decoder, "average": average, "optimizer": optimizer}
    schedule = Config(steps=stage.steps, learning_rate=stage.learning_rate, warmup=WARMUP, decay=True)
    step = 0
    if saved.is_file():
        state = torch.load(saved, map_location="cpu", weights_only=True)
        step = state.pop("step")
        for name, kept in state.items():
            parts[name].load_state_dict(kept)
    curve = record.Curve(folder / "vae.csv", ("loss",), step)
    for number in tqdm(range(step, stage.steps), "vae", stage.steps, initial=step, disable=None):
        loss = one_step(decoder, latents, images, stage, number)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, number)
        optimizer.step()
        optimizer.zero_grad()
        follow(average, decoder, min(AVERAGED, (1 + number) / (10 + number)))
        curve.add(number + 1, {"loss": loss})
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == stage.steps:
            with replacing(saved) as temporary:
                torch.save({"step": number + 1, **{n: part.state_dict() for n, part in parts.items()}}, temporary)
    return {name: tensor.cpu() for name, tensor in average.state_dict().items()}


def one_step(decoder: nn.Module, latents: Mapping[str, Tensor], images: Images, stage: Stage, number: int) -> float:
    """Add the gradients of one batch, some pictures of every stream; return the mean square error."""
    draw = torch.Generator().manual_seed(number)
    seen, wanted = [], []
    for place, (name, stack) in enumerate(latents.items()):
        n = (stage.batch + (place + number) % len(latents)) // len(latents)
        chosen = torch.randint(len(stack), (n,), generator=draw)
        turns = torch.randint(stack.shape[-1], (n,), generator=draw).tolist()
        for one, turn in zip(chosen.tolist(), turns):
            seen.append(stack[one].float().roll(turn, -1))
            wanted.append(as_images(images[name][one : one + 1])[0].roll(turn * BLOCK, -1))
    device = next(decoder.parameters()).device
    loss = mse_loss(decoder(torch.stack(seen).to(device)), torch.stack(wanted).to(device))
    loss.backward()
    nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
    return loss.item()


def follow(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """Update the moving average of the weights."""
    with torch.no_grad():
        for mean, now in zip(average.parameters(), trained.parameters()):
            mean.lerp_(now, 1 - decay)


def taesd(blocks: Blocks, decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write both networks as one file for VAELoader, in float16; except for that rounding, the encoder is exact."""
    state = {"vae_scale": torch.tensor(SMALL * SCALE), "vae_shift": torch.tensor(SHIFT)}
    state |= {f"taesd_encoder.{name}": tensor for name, tensor in _encoder(blocks).items()}
    state |= {f"taesd_decoder.{name}": tensor for name, tensor in _decoder(decoder).items()}
    return {name: tensor.half() if tensor.ndim else tensor for name, tensor in state.items()}


def _silent(kind: str) -> dict[str, Tensor]:
    """Return a layer of zeros: a residual block that adds nothing, or a convolution without a bias."""
    if kind != "block":
        return {"weight": torch.zeros(CHANNELS, CHANNELS, 3, 3)}
    shapes = {"weight": (CHANNELS, CHANNELS, 3, 3), "bias": (CHANNELS,)}
    return {f"conv.{i}.{name}": torch.zeros(shape) for i in (0, 2, 4) for name, shape in shapes.items()}


def _encoder(blocks: Blocks) -> dict[str, Tensor]:
    layers = {number: _silent(kind) for number, kind in ENCODER}
    first, last = torch.zeros(CHANNELS, 3, 3, 3), torch.zeros(LATENT, CHANNELS, 3, 3)
    first[:3, :, 1, 1] = torch.eye(3)
    layers[0] = {"weight": first, "bias": torch.zeros(CHANNELS)}
    for number, channels in ((2, 3), (6, 12)):
        # the 2x2 pixels of the stride are at the taps 1 and 2
        layers[number]["weight"][: 4 * channels, :channels, 1:, 1:] = rearrange(
            torch.eye(4 * channels), "o (i y x) -> o i y x", y=2, x=2
        )
    axes = rearrange(blocks.axes, f"{OF_PIXELS} -> {OF_CHANNELS}", c=3, y2=2, y1=2, y0=2, x2=2, x1=2, x0=2)
    layers[10]["weight"][: 2 * LATENT, : axes.shape[1], 1:, 1:] = torch.cat([axes, -axes])
    scale = SMALL * blocks.scale
    last[:, : 2 * LATENT, 1, 1] = torch.cat([scale.diag(), -scale.diag()], dim=1)
    layers[14] = {"weight": last, "bias": -scale * (blocks.axes @ blocks.mean)}
    return {f"{number}.{name}": tensor for number, layer in layers.items() for name, tensor in layer.items()}


def _decoder(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers = {number: _silent(kind) for number, kind in DECODER}
    layers[1] = {"weight": torch.zeros(CHANNELS, LATENT, 3, 3), "bias": torch.zeros(CHANNELS)}
    layers[LAST] = {"weight": torch.zeros(3, CHANNELS, 3, 3), "bias": torch.zeros(3)}
    state = {f"{number}.{name}": tensor for number, layer in layers.items() for name, tensor in layer.items()}
    for name, tensor in trained.items():
        state[name][tuple(slice(size) for size in tensor.shape)] = tensor
    state["1.weight"] /= SMALL
    return state


def transform_of(state: Mapping[str, Tensor]) -> Blocks:
    """Read the transform from the encoder of such a file; of the mean block it has only the part along the axes."""
    weights = {number: state[f"taesd_encoder.{number}.weight"].float() for number in (10, 14)}
    kept = weights[10][:LATENT, : 3 * 16, 1:, 1:]
    axes = rearrange(kept, f"{OF_CHANNELS} -> {OF_PIXELS}", y0=2, x0=2, y1=2, x1=2)
    scale = weights[14][:, :LATENT, 1, 1].diag() / SMALL
    along = -state["taesd_encoder.14.bias"].float() / (SMALL * scale)
    return Blocks(axes, along @ axes, scale)


def narrowed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the trained decoder from such a file."""
    found = {
        name: state[f"taesd_decoder.{name}"][tuple(slice(size) for size in tensor.shape)].float()
        for name, tensor in narrow_decoder().state_dict().items()
    }
    return {**found, "1.weight": found["1.weight"] * SMALL}
