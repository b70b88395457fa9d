"""Captions with the host's own text encoders: encoded once, unloaded while FLUX trains, dropped at the given rate."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference
import stock
import torch
from comfyui_omnix.lab.host import tiny, tiny_models
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.omnix.runtime.conditioning import save_conditioning
from comfyui_omnix.omnix.runtime.tasks import PROMPT_TAG
from comfyui_omnix.training import data, latents, pictures
from comfyui_omnix.training import run as steps
from comfyui_omnix.training.config import Config, TrainingError
from comfyui_omnix.training.host import HostBase
from comfyui_omnix.training.samples import draw
from folders import small_run
from measure import relative_error

CAPTIONS = {"0000": "a hall with a red door", "0001": "a kitchen", "0003": "a kitchen"}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """Four rooms, three with captions, and text encoders in place of a saved prompt."""
    root = tmp_path_factory.mktemp("captions")
    encoders = {"clip_l": tiny_models.clip_l(), "t5": tiny_models.t5()}
    files = {name: str(tiny.save(state, root / f"{name}.safetensors")) for name, state in encoders.items()}
    config = small_run(root, alpha=4.0, steps=2, held_out=0, caption_dropout=0.25, conditioning="", **files)
    for stem, words in CAPTIONS.items():
        layout.write_caption(Path(config.data), stem, words)
    with stock.tiny_text_encoders():
        yield config


class Watched(HostBase):
    """Notes which prompts are encoded, and what was still in memory when FLUX came in."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.asked: list[str] = []
        self.encoders: list[weakref.ref[Any]] = []
        self.left: list[Any] = []

    def prompt(self, words: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Note the words and who encodes them."""
        self.asked.append(words)
        found = super().prompt(words)
        self.encoders.append(weakref.ref(self._clip.cond_stage_model))
        return found

    def flux(self) -> torch.nn.Module:
        """Look round before FLUX comes in."""
        gc.collect()
        self.left = [*filter(None, (kept() for kept in self.encoders))]
        return super().flux()


def test_captions_are_encoded_once_and_the_encoders_leave(captioned: Config) -> None:
    base = Watched(captioned)
    (result,) = steps.run(captioned, base=base, show=False)
    assert result.step == 2
    tagged = [f"{PROMPT_TAG} {words}" for words in dict.fromkeys(CAPTIONS.values())]
    assert sorted(base.asked) == sorted([PROMPT_TAG, *tagged])
    assert base.encoders and not base.left
    again = Watched(captioned)
    steps.run(replace(captioned, steps=3), base=again, resume=True, show=False)
    assert not again.asked


def test_they_are_what_omnix_encode_prompt_makes(captioned: Config) -> None:
    """Two samples of one batch, one with the bare tag: each has the text and the pooled vector of its own words."""
    samples = encoded(captioned)
    batch = samples.batch([0, 1], [False, True])
    want = [stock.text(words) for words in (f"{PROMPT_TAG} {CAPTIONS['0000']}", PROMPT_TAG)]
    for number, (text, pooled) in enumerate(want):
        assert torch.equal(batch.text[number], text[0].float())
        assert torch.equal(batch.pooled[number], pooled[0].float())
    assert not torch.equal(batch.text[0], batch.text[1])
    # A picture without a caption has the bare tag anyway.
    assert torch.equal(samples.batch([2], [False]).text, samples.batch([2], [True]).text)


def test_a_caption_of_more_than_512_tokens_is_cut_as_the_reference_cuts_it(
    captioned: Config, comfyui: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"{PROMPT_TAG} " + "a red wall and an old chair " * 120
    text, pooled = HostBase(captioned).prompt(words)
    want, other = reference.text(comfyui, words)
    assert text.shape == (1, 512, 64)
    assert relative_error(text, want) <= 1e-5 and relative_error(pooled, other) <= 1e-5
    (told,) = [message for message in caplog.messages if message.startswith("OmniX: ")]
    assert "[EQUIRECTANGULAR] a red wall" in told and "T5 reads 512 of them" in told


@pytest.mark.parametrize(("rows", "warnings"), [(512, 0), (256, 1)])
def test_a_saved_prompt_of_another_length_is_reported(
    captioned: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, warnings: int
) -> None:
    path = tmp_path / "prompt.safetensors"
    save_conditioning([(torch.zeros(1, rows, 64), {"pooled_output": torch.zeros(1, 32)})], path)
    text, _ = HostBase(replace(captioned, conditioning=str(path))).prompt(PROMPT_TAG)
    assert text.shape == (1, rows, 64)
    assert sum("OmniX: --conditioning" in message for message in caplog.messages) == warnings


def test_prompts_of_the_256_rows_of_before_are_encoded_again(captioned: Config) -> None:
    """The folder of latents may hold some under the encoders' checksums alone."""
    assert HostBase(captioned).text_identity.startswith("512 rows ")


def encoded(config: Config) -> latents.Cached:
    """Encode the folder as a run does."""
    base = HostBase(config)
    (plan,) = steps.plans(config)
    sources = data.find(config, plan)
    cache = latents.Cache(Path(config.output) / steps.LATENTS, base, base.vae_identity)
    pairs = [(stem, pictures.FRONT) for stem in sources.stems]
    return latents.encoded(cache, config, plan, sources, pairs, False)


def test_the_share_of_dropped_captions(captioned: Config) -> None:
    """Three deviations of 4000 draws at 1/4 are 0.0205."""
    bare = [alone for number in range(2000) for alone in draw(captioned, number, 4, (8, 16)).bare]
    assert abs(sum(bare) / len(bare) - 0.25) < 0.0205
    for share, every in ((0.0, False), (1.0, True)):
        told = replace(captioned, caption_dropout=share)
        assert all(draw(told, number, 4, (8, 16)).bare == [every] * 2 for number in range(50))


def test_a_changed_caption_is_seen(captioned: Config) -> None:
    before = encoded(captioned).identity
    layout.write_caption(Path(captioned.data), "0001", "a cellar")
    try:
        assert encoded(captioned).identity != before
    finally:
        layout.write_caption(Path(captioned.data), "0001", CAPTIONS["0001"])
    assert encoded(captioned).identity == before


@pytest.mark.parametrize(
    ("kind", "taken", "words"),
    [
        ("t5", "clip_l", r"clip_l\.safetensors: expected the text encoder T5 .* correct --t5"),
        ("clip_l", "t5", r"t5\.safetensors: expected the text encoder CLIP-L .* correct --clip-l"),
        ("t5", "vae", r"vae\.safetensors: expected the text encoder T5"),
        ("t5", "", "--t5 is missing"),
    ],
)
def test_another_file_is_no_text_encoder(captioned: Config, kind: str, taken: str, words: str) -> None:
    """The host accepts any file, and layers that are missing in it keep the previous contents of the memory."""
    told = replace(captioned, **{kind: getattr(captioned, taken) if taken else ""})
    with pytest.raises(TrainingError, match=words):
        HostBase(told).prompt(PROMPT_TAG)


@pytest.mark.parametrize("content", ["clip_l", "model", b"", b"junk" * 100, b"{}"])
def test_another_file_is_no_vae(captioned: Config, tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_bytes(content if isinstance(content, bytes) else Path(getattr(captioned, content)).read_bytes())
    with pytest.raises(TrainingError, match=r"vae\.safetensors: ComfyUI can't load it as a VAE \(.*use FLUX\.1's VAE"):
        HostBase(replace(captioned, vae=str(path))).encode(torch.zeros(1, 64, 128, 3))


def test_a_vae_of_another_family(captioned: Config, tmp_path: Path) -> None:
    """TAESD has latents of 4 channels."""
    from comfy.taesd.taesd import TAESD

    state = TAESD(latent_channels=4).state_dict()
    path = tiny.save({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "taesd.safetensors")
    with pytest.raises(
        TrainingError, match=r"taesd\.safetensors: expected a VAE of 16 channels .* got \[1, 4, 8, 16\]"
    ):
        HostBase(replace(captioned, vae=str(path))).encode(torch.zeros(1, 64, 128, 3))


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"GGUF\x03\0\0\0" + bytes(200)])
def test_a_damaged_text_encoder(captioned: Config, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t5.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"as a whole \.safetensors file"):
        HostBase(replace(captioned, t5=str(tmp_path / "t5.safetensors"))).prompt(PROMPT_TAG)
