"""Panorama geometry: the 2:1 check, camera rays, placing a picture on a panorama, and the seam on the right.

A panorama is equirectangular and twice as wide as high. Row 0 is the top; the centre column looks to the front,
columns to the right look to the right, and the last column meets the first.
World axes of rays and normals: front +X, up +Y, left +Z, which is a left-handed frame.
Images are [B, H, W, C] in [0, 1], latents end in [.., h, w].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor

# The reference pipeline fills uncovered pixels with 127.5 of 255, which is exactly 0 for the VAE's encoder.
UNSEEN_GREY = 127.5 / 255.0


def check_panorama(height: int, width: int) -> None:
    """Raise ValueError unless the size is that of a panorama: width = 2 * height, in pixels."""
    if height < 1 or width != 2 * height:
        target = f"{2 * max(height, 1)}x{max(height, 1)}"
        raise ValueError(
            f"A panorama is twice as wide as high, got {width}x{height}; resize it to {target} first. "
            "If it isn't a panorama, load another picture."
        )


def camera_rays(height: int, width: int) -> Tensor:
    """Return the unit ray through every pixel centre, [H, W, 3] float32, axes front +X, up +Y, left +Z.

    lon = (0.5 - (j + 0.5) / W) * 2 pi, lat = (0.5 - (i + 0.5) / H) * pi,
    ray = (cos lat cos lon, sin lat, cos lat sin lon).
    """
    check_panorama(height, width)
    rows = torch.arange(height, dtype=torch.float64)
    columns = torch.arange(width, dtype=torch.float64)
    lat = rearrange((0.5 - (rows + 0.5) / height) * math.pi, "h -> h 1")
    lon = rearrange((0.5 - (columns + 0.5) / width) * (2 * math.pi), "w -> 1 w")
    rays = (lat.cos() * lon.cos(), lat.sin().expand(height, width), lat.cos() * lon.sin())
    return torch.stack(rays, dim=-1).float()


class Laid(NamedTuple):
    """A panorama with pictures on it: its colours [B, H, W, 3], and where nothing is yet, [B, H, W], 1 = unseen."""

    colours: Tensor
    unseen: Tensor


def place_on_panorama(
    image: Tensor,
    width: int,
    height: int,
    fov_x: float = 90.0,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    *,
    background: Sequence[float] = (UNSEEN_GREY,) * 3,
    feather: float = 0.0,
    onto: Laid | None = None,
) -> Laid:
    """Lay a perspective picture on a panorama of one colour, or on another that has pictures; return that panorama.

    image [B, h, w, >=3] in [0, 1]; fov_x is its horizontal field of view, all angles are in degrees. The camera first
    rolls (positive: clockwise as seen from behind it, and so the picture turns clockwise), then pitches (positive:
    looks up), then yaws (positive: looks to the right, so yaw 90 moves the picture by W/4 columns).
    Bilinear as in the reference: indices floor and floor + 1, modulo the picture's size.
    Over `feather` degrees from its border on, the picture counts as ever less unseen, and what it covers shows through.
    """
    check_panorama(height, width)
    _check_picture(image, fov_x)
    pixels = image[..., :3].float()
    batch = max(len(part) for part in (pixels, *(onto or ())))
    if onto is not None:
        _check_below(onto, batch, height, width)
    rows, columns = pixels.shape[1:3]
    u, v, seen = _project(rows, columns, width, height, fov_x, rotation(yaw, pitch, roll))
    seen, own = seen.to(image.device), _inner_share(u, v, (rows, columns), fov_x, feather).to(pixels)
    start = _empty(pixels, height, width, background) if onto is None else _filled(onto, pixels, background)
    colours, unseen = (part.expand(batch, *part.shape[1:]).clone() for part in start)
    below, before = colours[:, seen], unseen[:, seen]
    shown = rearrange(torch.where(before < 1, own, torch.ones_like(own)), "b n -> b n 1")
    placed = bilinear(pixels, u, v)
    colours[:, seen] = torch.where(shown < 1, below + (placed - below) * shown, placed)
    unseen[:, seen] = torch.minimum(before, 1 - own)
    return Laid(colours.to(image.dtype), unseen.to(image.dtype))


def _empty(pixels: Tensor, height: int, width: int, background: Sequence[float]) -> Laid:
    """Return a panorama [1, H, W, 3] of one colour, of which nothing is seen."""
    return Laid(pixels.new_tensor(background).expand(1, height, width, 3), pixels.new_ones(1, height, width))


def _filled(onto: Laid, pixels: Tensor, background: Sequence[float]) -> Laid:
    """Return a panorama, converted like a picture's pixels, with the background's colour in its unseen parts."""
    unseen = onto.unseen.to(pixels)
    nothing = rearrange(unseen >= 1, "b h w -> b h w 1")
    return Laid(torch.where(nothing, pixels.new_tensor(background), onto.colours[..., :3].to(pixels)), unseen)


def _check_below(onto: Laid, batch: int, height: int, width: int) -> None:
    """Raise ValueError unless a panorama and its mask have the size that is asked for, one or a whole batch."""
    for name, part in (("onto", onto.colours), ("onto_unseen", onto.unseen)):
        if part.shape[0] not in (1, batch) or part.shape[1:3] != (height, width):
            raise ValueError(
                f"{name} is a batch of {part.shape[0]} of {part.shape[2]}x{part.shape[1]}, expected {batch} of "
                f"{width}x{height}; set width and height to the size of the panorama."
            )


def _inner_share(u: Tensor, v: Tensor, size: tuple[int, int], fov_x: float, feather: float) -> Tensor:
    """Return how far inside the picture the pixels at u and v [N] are: 0 at its border, 1 from `feather` degrees on."""
    if not 0.0 <= feather < 90.0:
        raise ValueError(f"feather is {feather} degrees, expected 0 or more and less than 90; use a smaller one.")
    rows, columns = size
    width = math.tan(math.radians(feather)) * columns / (2 * math.tan(math.radians(fov_x) / 2))
    border = torch.stack([u, columns - u, v, rows - v]).amin(0)
    return (border / width).clamp(0, 1) if width else torch.ones_like(border)


def seam_to_middle(panorama: Tensor, degrees: float) -> Laid:
    """Roll a panorama [B, H, W, C] by half its width, and mark its former edges, `degrees` wide, [B, H, W].

    Twice is the panorama itself. The mark is 1 in its middle half and fades out over the quarter on each side.
    """
    batch, height, width = panorama.shape[:3]
    check_panorama(height, width)
    half = degrees / 720 * width
    off = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2).abs()
    mark = (2 * (1 - off / half)).clamp(0, 1) if half else torch.zeros(width)
    return Laid(panorama.roll(width // 2, dims=2), repeat(mark.float(), "w -> b h w", b=batch, h=height))


def _check_picture(image: Tensor, fov_x: float) -> None:
    if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape) < 1:
        raise ValueError(f"A colour picture is [batch, height, width, 3], got {list(image.shape)}; connect a picture.")
    _check_field(fov_x)


def rotation(yaw: float, pitch: float, roll: float) -> Tensor:
    """Return the matrix from camera to world, axes (front, right, down): roll, then pitch, then yaw, in degrees."""
    psi, theta, phi = (torch.tensor(math.radians(a), dtype=torch.float64) for a in (yaw, pitch, roll))
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    turn = torch.stack([psi.cos(), -psi.sin(), zero, psi.sin(), psi.cos(), zero, zero, zero, one])
    tilt = torch.stack([theta.cos(), zero, theta.sin(), zero, one, zero, -theta.sin(), zero, theta.cos()])
    bank = torch.stack([one, zero, zero, zero, phi.cos(), -phi.sin(), zero, phi.sin(), phi.cos()])
    yawed, pitched, rolled = (rearrange(m, "(i j) -> i j", i=3) for m in (turn, tilt, bank))
    return yawed @ pitched @ rolled


def _project(h: int, w: int, width: int, height: int, fov_x: float, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (u [N], v [N], seen [H, W]): the picture coordinates of the N pixels it covers, in row order.

    theta = 2 pi j / W - pi, phi = pi i / H - pi / 2 (no half pixel), f = w / (2 tan(fov / 2)),
    u = f y / x + w / 2 + 0.5, v = f z / x + h / 2 + 0.5, seen where x >= 0, 0 <= u < w and 0 <= v < h.
    """
    theta = rearrange(torch.arange(width, dtype=torch.float64) * (2 * math.pi / width) - math.pi, "w -> 1 w")
    phi = rearrange(torch.arange(height, dtype=torch.float64) * (math.pi / height) - math.pi / 2, "h -> h 1")
    world = (phi.cos() * theta.cos(), phi.cos() * theta.sin(), phi.sin().expand(height, width))
    x, y, z = einsum(torch.stack(world), rotation, "world h w, world camera -> camera h w")
    focal = w / (2 * math.tan(math.radians(fov_x) / 2))
    u = focal * y / x + w / 2 + 0.5
    v = focal * z / x + h / 2 + 0.5
    seen = (x >= 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    return u[seen], v[seen], seen


def bilinear(pixels: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sample pixels [B, h, w, C] at u (columns) and v (rows) [N] -> [B, N, C], indices modulo the size."""
    h, w = pixels.shape[1:3]
    # u and v stay on the CPU, since not every device knows float64.
    across = rearrange((u - u.floor()).float(), "n -> n 1").to(pixels.device)
    down = rearrange((v - v.floor()).float(), "n -> n 1").to(pixels.device)
    left, top = u.floor().long().to(pixels.device), v.floor().long().to(pixels.device)
    right, bottom = (left + 1) % w, (top + 1) % h
    upper = pixels[:, top, left] * (1 - across) + pixels[:, top, right] * across
    lower = pixels[:, bottom, left] * (1 - across) + pixels[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def perspective_view(
    panorama: Tensor, width: int, height: int, fov_x: float = 90.0, yaw: float = 0.0, pitch: float = 0.0
) -> Tensor:
    """Cut what a pinhole camera sees out of a panorama: [B, H, W, C] -> [B, height, width, C].

    Angles in degrees, signs as in `place_on_panorama`. Pixel centres as in `camera_rays` (the reference's projection
    is half a pixel off): u = (right / 2 pi + 1/2) W - 1/2, v = (down / pi + 1/2) H - 1/2. Bilinear; columns wrap, rows
    end at the poles. Where the panorama is finer than the view, each pixel is the mean of up to 4x4 samples.
    """
    check_panorama(*panorama.shape[1:3])
    _check_camera(width, height, fov_x)
    across = 2 * math.tan(math.radians(fov_x) / 2)
    finer = min(4, max(1, math.ceil(panorama.shape[2] / (2 * math.pi) * across / width)))
    rows, columns = height * finer, width * finer
    u, v = _look_up(rows, columns, panorama.shape[2], across, rotation(yaw, pitch, 0.0))
    samples = bilinear(panorama.float(), u.to(panorama.device), v.to(panorama.device))
    pattern = "b (h down w across) c -> b h w c"
    return reduce(samples, pattern, "mean", h=height, w=width, down=finer, across=finer).to(panorama.dtype)


def _check_camera(width: int, height: int, fov_x: float) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"A view needs a size of at least 1x1, got {width}x{height}; set a larger one.")
    _check_field(fov_x)


def _check_field(fov_x: float) -> None:
    if not 0.0 < fov_x < 180.0:
        raise ValueError(f"The field of view must lie between 0 and 180 degrees, got {fov_x}; 90 is a good start.")


def _look_up(rows: int, columns: int, width: int, across: float, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the panorama coordinates (u [N], v [N]) of a view's N = rows * columns pixel centres, in row order.

    `across` is the width of the picture plane at distance 1, `width` that of the panorama, 2 * its height.
    """
    right = rearrange(((torch.arange(columns, dtype=torch.float64) + 0.5) / columns - 0.5) * across, "w -> 1 w")
    down = rearrange(((torch.arange(rows, dtype=torch.float64) + 0.5) - rows / 2) * (across / columns), "h -> h 1")
    camera = (torch.ones(rows, columns, dtype=torch.float64), right.expand(rows, columns), down.expand(rows, columns))
    x, y, z = einsum(torch.stack(camera), rotation, "camera h w, world camera -> world h w")
    u = (torch.atan2(y, x) / (2 * math.pi) + 0.5) * width - 0.5
    v = (torch.atan2(z, torch.hypot(x, y)) / math.pi + 0.5) * (width / 2) - 0.5
    flat = rearrange(torch.stack([u % width, v.clamp(0, width // 2 - 1)]), "uv h w -> uv (h w)")
    return flat[0], flat[1]


def widen(x: Tensor, columns: int, dim: int = -1) -> Tensor:
    """Append a copy of the first columns on the right: width W -> W + columns.  dim is the width's axis."""
    _check_columns(columns, x.shape[dim])
    return torch.cat([x, x.narrow(dim, 0, columns)], dim=dim)


def crop(x: Tensor, columns: int, dim: int = -1) -> Tensor:
    """Drop the last columns, the inverse of `widen`: width W + columns -> W."""
    width = x.shape[dim] - columns
    _check_columns(columns, width)
    return x.narrow(dim, 0, width)


def blend_seam(x: Tensor, columns: int, dim: int = -1) -> Tensor:
    """Return x [.., W + E] with its E = columns appended columns blended into the first E.

    For j < E: x[.., j] = x[.., W + j] * (1 - j / E) + x[.., j] * (j / E). The appended columns stay as they are.
    """
    return blend_seam_(x.clone(), columns, dim)


def blend_seam_(x: Tensor, columns: int, dim: int = -1) -> Tensor:
    """Do `blend_seam` in place and return x.  Half-precision tensors are blended in float32."""
    width = x.shape[dim] - columns
    _check_columns(columns, width)
    if columns:
        precise = torch.promote_types(x.dtype, torch.float32)
        shape = [columns if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
        keep = (torch.arange(columns, dtype=torch.float32) / columns).to(x.device, precise).view(shape)
        first, beyond = x.narrow(dim, 0, columns), x.narrow(dim, width, columns)
        first.copy_(beyond.to(precise) * (1 - keep) + first.to(precise) * keep)
    return x


def _check_columns(columns: int, width: int) -> None:
    if not 0 <= columns <= width:
        raise ValueError(
            f"The seam can be 0 to {width} columns wide here, got {columns}; change the number of columns."
        )


def decode_panorama(decode: Callable[[Tensor], Tensor], latent: Tensor, wrap_columns: int = 2) -> Tensor:
    """Decode a latent [.., h, w] so that the left and right edges of the picture meet.

    decode turns a latent into an image [.., H, W, C]. The latent is widened by its first wrap_columns (latent columns)
    and decoded. The extra pixel columns (8 per latent column with FLUX's VAE) are blended into the first columns, and
    then cropped.
    """
    image = decode(widen(latent, wrap_columns))
    scale, rest = divmod(image.shape[-2], latent.shape[-1] + wrap_columns)
    if rest or not scale:
        raise ValueError(
            f"The VAE decoded {latent.shape[-1] + wrap_columns} latent columns to {image.shape[-2]} pixel columns, "
            "which is not a whole number of pixels per latent column; use the VAE of the model that made the latent."
        )
    return crop(blend_seam(image, scale * wrap_columns, dim=-2), scale * wrap_columns, dim=-2)
