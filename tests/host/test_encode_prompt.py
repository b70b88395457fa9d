"""OmniX Encode Prompt on the host's own CLIP: the reference pipeline's text, and nothing of the user's CLIP changed."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import reference
import stock
import torch
from comfyui_omnix import nodes
from comfyui_omnix.lab.host import tiny_models
from comfyui_omnix.omnix.runtime.conditioning import load_conditioning, note_on_rows, save_conditioning
from measure import relative_error
from safetensors import safe_open

import nodes as host_nodes

TAG = "[EQUIRECTANGULAR]"
WORDS = {
    "nothing": "",
    "a few": "a hall",
    "as they are written": "a (red:1.4) hall ((with)) doors\\), embedding:none Ölgemälde  & <tiles>",
    "77 tokens of CLIP": "a red wall and an old chair " * 12,
    "300 tokens": "a red wall and an old chair " * 40,
    "512 tokens and more": "a red wall and an old chair " * 120,
}


@pytest.fixture(scope="module")
def clip() -> Iterator[Any]:
    """The host's CLIP of FLUX.1, with tiny weights."""
    states = [tiny_models.clip_l(), tiny_models.t5()]
    with stock.tiny_text_encoders(), torch.inference_mode():
        yield comfy.sd.load_text_encoder_state_dicts(states, clip_type=comfy.sd.CLIPType.FLUX)


def encode(clip: Any, prompt: str, *more: Any) -> list[list[Any]]:
    return nodes.OmniXEncodePrompt.execute(clip, prompt, 3.5, *more).result[0]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("tag", [True, False])
def test_it_is_diffusers_text(clip: Any, comfyui: Path, words: str, tag: bool) -> None:
    ((text, options),) = encode(clip, WORDS[words], tag)
    said = f"{TAG} {WORDS[words].strip()}".strip() if tag else WORDS[words]
    want, pooled = reference.text(comfyui, said)
    assert text.shape == (1, 512, 64) and options["guidance"] == 3.5
    assert relative_error(text, want) <= 1e-5
    assert relative_error(options["pooled_output"], pooled) <= 1e-5


def test_the_users_clip_stays_as_it_is(clip: Any) -> None:
    """CLIP Text Encode gives the same before and after, and the options of a CLIP do not change ours."""
    options = dict(clip.tokenizer_options)
    before = host_nodes.CLIPTextEncode().encode(clip, "a hall")[0]
    ours = encode(clip, "a hall " * 300)
    after = host_nodes.CLIPTextEncode().encode(clip, "a hall")[0]
    assert torch.equal(before[0][0], after[0][0]) and before[0][0].shape[1] == 256
    assert clip.tokenizer_options == options
    other = clip.clone()
    other.set_tokenizer_option("t5xxl_min_length", 1000)
    other.set_tokenizer_option("t5xxl_min_padding", 7)
    assert torch.equal(encode(other, "a hall " * 300)[0][0], ours[0][0])


@pytest.mark.parametrize("kind", ["SD1", "SDXL", "SD3"])
def test_other_text_encoders_are_refused(kind: str) -> None:
    """They have no T5, or are those of another model."""
    from comfy import sd1_clip, sdxl_clip
    from comfy.text_encoders import sd3_clip

    tokenizers = {"SD1": sd1_clip.SD1Tokenizer, "SDXL": sdxl_clip.SDXLTokenizer, "SD3": sd3_clip.SD3Tokenizer}
    other = type("CLIP", (), {"tokenizer": tokenizers[kind]()})()
    with pytest.raises(ValueError, match=rf"FLUX\.1's text encoders, got {kind}Tokenizer; connect Load CLIP \(Dual\)"):
        encode(other, "")


def test_a_checkpoint_without_text_encoders() -> None:
    with pytest.raises(ValueError, match=r"got NoneType; connect Load CLIP \(Dual\)"):
        encode(None, "")


@pytest.mark.parametrize(
    ("prompt", "reported"),
    [
        ("a hall (with doors) at 10:30 [sic]", None),
        ("a (red:1.2) hall", "Weights as in"),
        ("embedding:glass, a hall", "embeddings have no effect"),
        ("chair " * 512, r"has \d{3,4} tokens, and T5 reads 512 of them"),
    ],
)
def test_what_people_may_not_expect_is_said(
    clip: Any, caplog: pytest.LogCaptureFixture, prompt: str, reported: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        encode(clip, prompt)
    said = [message for message in caplog.messages if message.startswith("OmniX: ")]
    assert len(said) == (reported is not None)
    if reported is not None:
        assert re.search(reported, said[0])


def test_a_file_stores_its_rows(clip: Any, tmp_path: Path) -> None:
    for number, given in enumerate((encode(clip, ""), host_nodes.CLIPTextEncode().encode(clip, "")[0])):
        path = tmp_path / f"{number}.safetensors"
        save_conditioning(given, path)
        with safe_open(path, "pt") as file:
            assert file.metadata()["omnix_text_rows"] == ("[512]", "[256]")[number]
        note = note_on_rows(load_conditioning(path)[0][0])
        assert note is None if number == 0 else "has 256 rows" in (note or "")


@pytest.mark.parametrize(
    ("rows", "channels", "reported"),
    [
        (512, 4096, False),
        (512, 64, False),
        (256, 4096, True),
        (256, 64, True),
        (1024, 64, True),
        (20, 4096, True),
        (12, 64, False),
    ],
)
def test_which_texts_are_reported(rows: int, channels: int, reported: bool) -> None:
    assert (note_on_rows(torch.zeros(1, rows, channels)) is not None) == reported
