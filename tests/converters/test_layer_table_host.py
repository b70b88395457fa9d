"""The converter's layer table is the host's own map, row by row, and names every LoRA target of the host's model."""

from typing import Any

import comfy.utils
import pytest
import torch
from comfyui_omnix.converters import LAYOUT
from comfyui_omnix.converters.lora import layout
from comfyui_omnix.lab.host import tiny
from host_flux import load

GEOMETRY = tiny.Geometry(hidden=256, double=2, single=3)
CONFIG = {"depth": GEOMETRY.double, "depth_single_blocks": GEOMETRY.single, "hidden_size": GEOMETRY.hidden}
SIZES = layout.Geometry(GEOMETRY.hidden, 4 * GEOMETRY.hidden)
# Rows of the host's map that no FLUX.1 LoRA has: FLUX.2's fused layers and a ControlNet's input layer.
NOT_FLUX_1 = ("attn.to_qkv_mlp_proj", "attn.to_out", "controlnet_x_embedder")

Row = tuple[str, int, int | None, bool]


def host_rows() -> dict[str, Row]:
    """Read the host's map as {Diffusers layer: (fused layer, first row, rows or None for all, halves swapped)}."""
    rows = {}
    for source, target in comfy.utils.flux_to_diffusers(CONFIG).items():
        module = source.removesuffix(".weight")
        other = module.split(".", 2)[2] if module.startswith("single_") else module
        if source.endswith(".weight") and not _is_norm(module) and other not in NOT_FLUX_1:
            rows[module] = _row(target)
    return dict(sorted(rows.items()))  # the host's own order is that of a set


def _is_norm(module: str) -> bool:
    return module.rsplit(".", 1)[1:] in (["norm_q"], ["norm_k"], ["norm_added_q"], ["norm_added_k"])


def _row(target: Any) -> Row:
    if isinstance(target, str):
        return target.removesuffix(".weight"), 0, None, False
    fused, offset = target[0].removesuffix(".weight"), target[1]
    swapped = len(target) > 2 and target[2](torch.arange(4)).tolist() == [2, 3, 0, 1]
    if offset is None:
        return fused, 0, None, swapped
    assert offset[0] == 0
    return fused, offset[1], offset[2], swapped


def our_row(module: str) -> Row | None:
    """Look a Diffusers layer up in the converter's table, in the host's terms."""
    place = layout.place(module)
    if place is None:
        return None
    alone = len(place.fused.parts) == 1
    first = layout.first_row(place.fused, place.part).of(SIZES)
    rows = None if alone or place.part.rows is None else place.part.rows.of(SIZES)
    return place.layer, first, rows, place.part.swapped


HOST_ROWS = host_rows()


def test_the_host_map_was_understood() -> None:
    """Eight attention layers, two MLPs of two spellings and two modulations a double block; six a single block."""
    assert len(HOST_ROWS) == GEOMETRY.double * (8 + 8 + 2) + GEOMETRY.single * 6 + 10
    assert sum(row[3] for row in HOST_ROWS.values()) == 1


@pytest.mark.parametrize("module", HOST_ROWS)
def test_row(module: str) -> None:
    assert our_row(module) == HOST_ROWS[module]


def test_no_row_of_ours_is_unknown_to_the_host() -> None:
    counts = {layout.DOUBLE: GEOMETRY.double, layout.SINGLE: GEOMETRY.single, "": 1}
    ours = {
        layout.numbered(fused.block, i) + name
        for fused in LAYOUT
        for i in range(counts[fused.block])
        for part in fused.parts
        for name in (part.name, *part.aliases)
    }
    assert ours == set(HOST_ROWS)


def test_every_linear_of_diffusers_is_in_the_table() -> None:
    assert all(layout.place(module) is not None for module in tiny.linears(GEOMETRY))


def test_sizes_are_those_of_the_host_model() -> None:
    """Heights and widths of the table are the shapes of the host's Linear layers, and none of them is left out."""
    model = load(tiny.flux(GEOMETRY)).model.diffusion_model
    shapes = {
        name: module.weight.shape for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    for name, (rows, columns) in shapes.items():
        found = layout.fused_place(name)
        assert found is not None, name
        height, width = layout.height(found[0]), found[0].columns
        assert height is None or rows == height.of(SIZES), name
        assert width is None or columns == width.of(SIZES), name
    assert len(shapes) == 10 * GEOMETRY.double + 3 * GEOMETRY.single + 10


def test_weights_laid_out_by_the_table_are_the_hosts() -> None:
    """Diffusers weights placed by our table are, bit for bit, the weights that the host's conversion makes."""
    state = tiny.flux(GEOMETRY)
    host = load(state).model.diffusion_model.state_dict()
    ours = {name: torch.full_like(host[name], torch.nan) for name in host if name.endswith(".weight")}
    for module in tiny.linears(GEOMETRY):
        row = our_row(module)
        assert row is not None
        weight = state[f"{module}.weight"]
        if row[3]:
            weight = torch.cat(weight.chunk(2)[::-1])
        ours[f"{row[0]}.weight"][row[1] : row[1] + weight.shape[0]] = weight
    linears = {name: tensor for name, tensor in ours.items() if "norm." not in name}
    assert len(linears) == 10 * GEOMETRY.double + 3 * GEOMETRY.single + 10
    assert all(torch.equal(tensor, host[name]) for name, tensor in linears.items())
