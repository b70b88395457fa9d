"""A labelled contact sheet: all maps of a panorama on one picture.

Pictures are scaled and placed as tensors, so that they keep their float values; only the text is drawn with Pillow.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER = (0.09, 0.09, 0.10)
INK = (0.93, 0.93, 0.91)
FAINT_INK = (0.68, 0.68, 0.66)


def contact_sheet(
    pictures: Sequence[tuple[str, Tensor]], columns: int = 2, tile_width: int = 640, note: str = ""
) -> Tensor:
    """Return one sheet [B, H, W, 3] of (label, image [B or 1, h, w, 1 or >=3]) pairs, in rows of `columns`.

    Every picture is scaled to tile_width pixels with its own proportions; a note, if any, is wrapped below.
    Image b of the result shows image b of every batch; a batch of one is shown on every sheet.
    """
    if not pictures:
        raise ValueError("A contact sheet needs at least one picture; connect a map.")
    if columns < 1 or tile_width < 64:
        raise ValueError(
            f"A contact sheet needs at least 1 column and tiles at least 64 wide, got {columns} and {tile_width}."
        )
    batch = _common_batch(pictures)
    columns = min(columns, len(pictures))
    tiles = [(label, _tile(image, tile_width, batch)) for label, image in pictures]
    gap = max(8, tile_width // 40)
    strip = tile_width + gap
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    blocks = [_row(row, columns * strip - gap, strip, gap) for row in rows]
    if note:
        blocks.append(_text_block(note, columns * strip - gap, _text_size(tile_width) * 4 // 5, FAINT_INK, gap, batch))
    return _pad(torch.cat(blocks, dim=1), gap, gap, gap, 0)


def _common_batch(pictures: Sequence[tuple[str, Tensor]]) -> int:
    for label, image in pictures:
        if image.ndim != 4 or image.shape[-1] == 2 or min(image.shape) < 1:
            raise ValueError(f"{label}: expected an image [batch, height, width, 3], got {list(image.shape)}.")
    sizes = {image.shape[0] for _, image in pictures} - {1}
    if len(sizes) > 1:
        found = " and ".join(str(size) for size in sorted(sizes))
        raise ValueError(
            f"The pictures on one sheet are batches of {found}; use batches of the same size, or single pictures."
        )
    return sizes.pop() if sizes else 1


def _tile(image: Tensor, width: int, batch: int) -> Tensor:
    """Scale image [B or 1, h, w, C] to [batch, h * width / w, width, 3], on the CPU."""
    colours = repeat(image, "b h w 1 -> b h w c", c=3) if image.shape[-1] == 1 else image[..., :3]
    height = max(1, round(width * image.shape[1] / image.shape[2]))
    planes = rearrange(colours.float().cpu().clamp(0.0, 1.0), "b h w c -> b c h w")
    scaled = F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return rearrange(scaled, "b c h w -> b h w c").expand(batch, height, width, 3)


def _row(tiles: list[tuple[str, Tensor]], width: int, strip: int, gap: int) -> Tensor:
    """Set one row of tiles, each under its label: [B, H, width, 3] with a gap below."""
    size = _text_size(strip - gap)
    batch = tiles[0][1].shape[0]
    labels = [_text_block(label, strip - gap, size, INK, size // 3, batch) for label, _ in tiles]
    above = max(label.shape[1] for label in labels)
    below = max(tile.shape[1] for _, tile in tiles) + gap
    row = labels[0].new_tensor(PAPER).repeat(batch, above + below, width, 1)
    for number, (label, (_, tile)) in enumerate(zip(labels, tiles)):
        columns = slice(number * strip, number * strip + strip - gap)
        row[:, above - label.shape[1] : above, columns] = label
        row[:, above : above + tile.shape[1], columns] = tile
    return row


def _text_size(tile_width: int) -> int:
    return max(12, tile_width // 26)


def _text_block(text: str, width: int, size: int, colour: tuple[float, float, float], below: int, batch: int) -> Tensor:
    """Set text in lines at most width pixels wide: [batch, H, width, 3] with `below` empty rows under it."""
    coverage = rearrange(_coverage(text, width, size), "h w -> 1 h w 1")
    ink, paper = coverage.new_tensor(colour), coverage.new_tensor(PAPER)
    return _pad(torch.lerp(paper, ink, coverage), 0, 0, 0, below).expand(batch, -1, -1, -1)


def _coverage(text: str, width: int, size: int) -> Tensor:
    """Draw text with Pillow's own font: the share of ink in every pixel, [H, width] in [0, 1]."""
    font = _font(size)
    lines = _wrap(text, width, font)
    leading = math.ceil(size * 1.35)
    canvas = Image.new("L", (width, leading * len(lines)), 0)
    drawing = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        drawing.text((0, number * leading), line, fill=255, font=font)
    drawn = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
    return rearrange(drawn, "(h w) -> h w", w=width).float() / 255.0


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break text into lines that fit, at spaces where there are any."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        letters = max(1, len(paragraph))
        while any(font.getlength(line) > width for line in textwrap.wrap(paragraph, letters)) and letters > 1:
            letters -= 1
        lines += textwrap.wrap(paragraph, letters) or [""]
    return lines


def _pad(image: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Add margins of paper to image [B, H, W, 3]."""
    b, h, w, _ = image.shape
    padded = image.new_tensor(PAPER).repeat(b, h + top + bottom, w + left + right, 1)
    padded[:, top : top + h, left : left + w] = image
    return padded
