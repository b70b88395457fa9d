"""The table of layers: sizes, places and their inverse, and the printed form."""

import pytest
from comfyui_omnix.converters import LAYOUT, Geometry
from comfyui_omnix.converters.lora.layout import first_row, fused_place, height, numbered, place, table

FLUX = Geometry(3072, 12288, 19, 38)
SMALL = Geometry(64, 96)
ROWS = [(fused, part) for fused in LAYOUT for part in fused.parts]


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("double_blocks.{i}.img_attn.qkv", 9216, 3072),
        ("double_blocks.{i}.txt_attn.qkv", 9216, 3072),
        ("double_blocks.{i}.img_mlp.0", 12288, 3072),
        ("double_blocks.{i}.img_mlp.2", 3072, 12288),
        ("double_blocks.{i}.img_mod.lin", 18432, 3072),
        ("single_blocks.{i}.linear1", 21504, 3072),
        ("single_blocks.{i}.linear2", 3072, 15360),
        ("single_blocks.{i}.modulation.lin", 9216, 3072),
        ("final_layer.adaLN_modulation.1", 6144, 3072),
    ],
)
def test_sizes_of_flux(name: str, rows: int, columns: int) -> None:
    fused = next(fused for fused in LAYOUT if fused.name == name)
    high = height(fused)
    assert high is not None and fused.columns is not None
    assert (high.of(FLUX), fused.columns.of(FLUX)) == (rows, columns)


@pytest.mark.parametrize("geometry", [FLUX, SMALL])
def test_parts_fill_their_layer_without_gap(geometry: Geometry) -> None:
    for fused in LAYOUT:
        row = 0
        for part in fused.parts:
            assert first_row(fused, part).of(geometry) == row
            row += part.rows.of(geometry) if part.rows is not None else 0
        high = height(fused)
        assert high is None or high.of(geometry) == row


@pytest.mark.parametrize(("fused", "part"), ROWS)
def test_place_is_the_inverse_of_the_names(fused: object, part: object) -> None:
    number = 7 if "{i}" in fused.name else None  # type: ignore[attr-defined]
    for name in (part.name, *part.aliases):  # type: ignore[attr-defined]
        found = place(numbered(fused.block, number) + name)  # type: ignore[attr-defined]
        assert found is not None and (found.fused, found.part, found.number) == (fused, part, number)
        assert fused_place(found.layer) == (fused, number)
        assert place(found.module) == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "attn.to_q",
        "transformer_blocks.attn.to_q",
        "transformer_blocks.01.attn.to_q",
        "transformer_blocks.-1.attn.to_q",
        "transformer_blocks.{i}.attn.to_q",
        "transformer_blocks.²3.attn.to_q",
        "transformer_blocks.1234567.attn.to_q",
        "transformer_blocks.0.attn.to_q.x",
        "single_transformer_blocks.0.ff.net.2",
        "x.transformer_blocks.0.attn.to_q",
    ],
)
def test_other_names_have_no_place(name: str) -> None:
    assert place(name) is None


@pytest.mark.parametrize("name", ["double_blocks.{i}.img_attn.qkv", "double_blocks.img_attn.qkv", "linear1", ""])
def test_other_fused_names_have_no_place(name: str) -> None:
    assert fused_place(name) is None


def test_no_name_occurs_twice() -> None:
    names = [(fused.block, name) for fused, part in ROWS for name in (part.name, *part.aliases)]
    assert len(set(names)) == len(names)
    assert len({fused.name for fused in LAYOUT}) == len(LAYOUT)


def test_printed_table_has_every_row() -> None:
    lines = table().splitlines()
    assert len(lines) == len(LAYOUT) + 2
    for fused, line in zip(LAYOUT, lines[2:]):
        assert line.startswith(f"| `{fused.name}` |")
        assert all(f"`{fused.block}{part.name}`" in line for part in fused.parts)
    assert "| 21504 | 3072 |" in table()
