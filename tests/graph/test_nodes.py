"""The nodes: their ids, inputs and outputs, which other graphs depend on, and the functions that they call."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfyui_omnix
import folder_paths
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.converters import AdapterError, open_adapter
from comfyui_omnix.graph.files import NOTHING_FOUND, note_posted
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.conditioning import load_conditioning, save_conditioning
from measure import relative_error
from rig import conditioning, forward, ksample, load_flux, make_case, patched
from safetensors.torch import save_file

# node id -> inputs (with their defaults, ... where there is none), outputs
TABLE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "OmniXLoadAdapters": ({"task": ..., "folder": ...}, ["OMNIX_ADAPTERS"]),
    "OmniXApplyAdapters": (
        {"model": ..., "adapters": ..., "strength_condition": 1.0, "strength_target": 1.0, "seam_columns": 6},
        ["MODEL"],
    ),
    "OmniXFlowShift": ({"model": ..., "latent": ..., "seam_columns": 6}, ["MODEL"]),
    "OmniXSeamlessPanorama": ({"model": ..., "seam_columns": 8}, ["MODEL"]),
    "OmniXEncodePrompt": ({"clip": ..., "prompt": "", "guidance": 3.5, "tag": True}, ["CONDITIONING"]),
    "OmniXPrompt": ({"prompt": ""}, ["STRING"]),
    "OmniXSaveConditioning": ({"conditioning": ..., "filename_prefix": "conditioning/OmniX"}, ["STRING"]),
    "OmniXLoadConditioning": ({"name": ...}, ["CONDITIONING"]),
    "OmniXDecodePanorama": ({"samples": ..., "vae": ..., "wrap_columns": 2}, ["IMAGE"]),
    "OmniXPlaceOnPanorama": (
        {
            **{"image": ..., "width": 1024, "height": 512, "fov_x": 90.0, "yaw": 0.0, "pitch": 0.0, "roll": 0.0},
            **{"background": "grey", "colour": "", "feather": 0.0, "onto": ..., "onto_unseen": ...},
        },
        ["IMAGE", "MASK"],
    ),
    "OmniXRollPanorama": ({"image": ..., "seam_width": 20.0}, ["IMAGE", "MASK"]),
    "OmniXFitPanorama": (
        {"image": ..., "height": 720, "fit": "as it is", "vertical_fov": 0.0},
        ["IMAGE", "MASK"],
    ),
    "OmniXLoadPanorama": (
        {"image": ..., "height": 720, "fit": "by GPano", "vertical_fov": 0.0},
        ["IMAGE", "MASK"],
    ),
    "OmniXCameraRays": ({"width": 1024, "height": 512}, ["IMAGE"]),
    "OmniXDepth": ({"image": ..., "stretch": False, "near": 0.0, "far": 100.0}, ["IMAGE", "MASK"]),
    "OmniXNormal": ({"image": ..., "convention": "OpenGL", "depth": ...}, ["IMAGE"]),
    "OmniXMaterial": ({"image": ...}, ["IMAGE", "IMAGE"]),
    "OmniXSemantic": ({"image": ..., "tolerance": 24.0}, [*["MASK"] * 7, "IMAGE"]),
    "OmniXConvertAdapter": ({"source": ..., "name": "OmniX/converted"}, ["STRING"]),
    "OmniXLoadDiffusersFlux": ({"folder": ...}, ["MODEL"]),
}


async def registered() -> list[Any]:
    """Load the extension as the host does."""
    extension = await comfyui_omnix.comfy_entrypoint()
    await extension.on_load()
    return await extension.get_node_list()


def described(node: Any) -> Any:
    """Return a node's checked schema."""
    return node.GET_SCHEMA()


def test_table_of_nodes(host_folders: Path) -> None:
    found = {described(node).node_id: described(node) for node in nodes.NODES}
    assert set(TABLE) <= set(found)
    for name, (inputs, outputs) in TABLE.items():
        got = {each.id: getattr(each, "default", None) for each in found[name].inputs}
        assert list(got) == list(inputs), name
        assert {key: got[key] for key, default in inputs.items() if default is not ...} == {
            key: default for key, default in inputs.items() if default is not ...
        }, name
        assert [each.io_type for each in found[name].outputs] == outputs, name


@pytest.mark.parametrize("node", nodes.NODES, ids=lambda node: node.__name__)
def test_every_node_is_described(node: Any, host_folders: Path) -> None:
    schema = described(node)
    assert schema.node_id == node.__name__
    assert schema.category.startswith("OmniX/")
    assert schema.display_name
    assert len(schema.description) > 20
    assert schema.search_aliases
    for each in [*schema.inputs, *schema.outputs]:
        assert each.tooltip, f"{schema.node_id}.{getattr(each, 'id', None) or each.display_name}"


def test_adapters_load_and_are_noticed_when_replaced(host_folders: Path) -> None:
    case = make_case(host_folders / "models" / "loras" / "OmniX")
    assert [
        option for each in described(nodes.OmniXLoadAdapters).inputs if each.id == "folder" for option in each.options
    ] == ["OmniX"]
    loaded = nodes.OmniXLoadAdapters.execute("rgb_to_depth", "OmniX").result[0]
    assert loaded.adapters.task.name == "rgb_to_depth"
    before = nodes.OmniXLoadAdapters.fingerprint_inputs("rgb_to_depth", "OmniX")
    path = loaded.adapters.files[0]
    save_file({name: tensor * 2 for name, tensor in case.states[0].items()}, path)
    os.utime(path, ns=(1, 1))
    assert nodes.OmniXLoadAdapters.fingerprint_inputs("rgb_to_depth", "OmniX") != before


def test_no_adapters_at_all(host_folders: Path) -> None:
    with pytest.raises(ValueError, match=r"No folder in models/loras .* press R"):
        nodes.OmniXLoadAdapters.execute("rgb_to_depth", NOTHING_FOUND)


def test_what_a_list_lacks_is_reported_by_the_node(host_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything runs, instead of the host's own words about values that are not in a list."""
    monkeypatch.setattr(nodes.OmniXLoadAdapters, "hidden", SimpleNamespace(unique_id="1"), raising=False)
    note_posted({"prompt": {"1": {"inputs": {"task": "rgb_to_depth"}}}})
    refused = nodes.OmniXLoadAdapters.validate_inputs("OmniX")
    assert str(refused).startswith("No folder in models/loras contains the adapters of an OmniX task; download")
    make_case(host_folders / "models" / "loras" / "OmniX")
    assert nodes.OmniXLoadAdapters.validate_inputs("OmniX") is True
    note_posted({"prompt": {"1": {"inputs": {"task": ["2", 0]}}}})
    assert nodes.OmniXLoadAdapters.validate_inputs("OmniX") is True
    note_posted({"prompt": {"1": {"inputs": {"task": "rgb_to_pbr"}}}})
    assert str(nodes.OmniXLoadAdapters.validate_inputs("OmniX")).startswith("OmniX: rgb, pbr: expected a file for each")
    note_posted({})
    assert str(nodes.OmniXLoadConditioning.validate_inputs("gone")).startswith("gone: no such file in models/cond")
    assert str(nodes.OmniXLoadDiffusersFlux.validate_inputs("gone")).startswith("gone: expected a snapshot with")
    assert str(nodes.OmniXConvertAdapter.validate_inputs("gone")).startswith("gone: no such file in models/loras")


def test_incomplete_task(host_folders: Path) -> None:
    make_case(host_folders / "models" / "loras" / "OmniX")
    with pytest.raises(AdapterError, match="normal: expected a file for each stream of rgb_to_normal"):
        (host_folders / "models/loras/OmniX/rgb_to_depth").rename(host_folders / "models/loras/OmniX/rgb_to_normal")
        nodes.OmniXLoadAdapters.execute("rgb_to_normal", "OmniX")


def test_conditioning_round_trip(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    text, pooled, latent = (torch.randn(shape, generator=generator) for shape in ((1, 12, 64), (1, 32), (1, 16, 8, 16)))
    saved: list[Any] = [
        [text.bfloat16(), {"pooled_output": pooled, "guidance": 3.5, "reference_latents": [latent, latent * 2]}],
        [text, {"pooled_output": None, "start_percent": 0.25, "note": "a", "flag": True}],
    ]
    path = tmp_path / "prompt.safetensors"
    save_conditioning(saved, path)
    for (embedding, options), (want, kept) in zip(load_conditioning(path), saved, strict=True):
        assert embedding.dtype == want.dtype
        assert torch.equal(embedding, want)
        assert options.keys() == kept.keys()
        for name, value in kept.items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            pairs = zip(options[name], value, strict=True) if isinstance(value, list) else [(options[name], value)]
            assert all((torch.equal if isinstance(b, torch.Tensor) else same)(a, b) for a, b in pairs), name


def test_conditionings_that_share_memory_or_names_are_kept(tmp_path: Path) -> None:
    """Combined with itself, a view of the embedding, a reference twice; and names that look like the file's own."""
    embedding, latent = torch.randn(1, 4, 8), torch.randn(1, 16, 2, 4)
    options = {
        "pooled_output": embedding[:, 0],
        "reference_latents": [latent, latent],
        "embedding": latent,
        "reference_latents.0": embedding,
    }
    save_conditioning([[embedding, options]] * 2, tmp_path / "a.safetensors")
    for got, kept in load_conditioning(tmp_path / "a.safetensors"):
        assert torch.equal(got, embedding) and set(kept) == set(options)
        assert torch.equal(kept["pooled_output"], embedding[:, 0]) and torch.equal(kept["embedding"], latent)
        assert torch.equal(kept["reference_latents.0"], embedding)
        assert (
            all(torch.equal(each, latent) for each in kept["reference_latents"]) and len(kept["reference_latents"]) == 2
        )


def test_conditioning_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="conditioning's control is a object, which can't be saved"):
        save_conditioning([[torch.zeros(1), {"control": object()}]], tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 64])
def test_conditioning_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(AdapterError, match=r"expected a file from Save OmniX Conditioning, got .*; save it again"):
        load_conditioning(path)


def test_lora_is_no_conditioning(tmp_path: Path) -> None:
    tiny.save(tiny.adapter(), tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="save it again"):
        load_conditioning(tmp_path / "a.safetensors")


def test_conditioning_nodes(host_folders: Path) -> None:
    case = make_case(host_folders / "adapters")
    model = load_flux(case.flux)
    given = conditioning(model, case, ())
    (named,) = nodes.OmniXSaveConditioning.execute(given, "conditioning/OmniX").ui["text"]
    name = Path(named).name
    assert name in folder_paths.get_filename_list("conditioning")
    counted = [nodes.OmniXSaveConditioning.execute(given, "conditioning/").ui["text"][0] for _ in range(2)]
    assert [Path(each).name for each in counted] == [f"conditioning_0000{n}_.safetensors" for n in (1, 2)]
    (loaded,) = nodes.OmniXLoadConditioning.execute(name).result
    assert torch.equal(ksample(model, case, 1, loaded), forward(model, case))


def test_saving_outside_the_output_folder(host_folders: Path) -> None:
    with pytest.raises(Exception, match="a path that leads elsewhere"):
        nodes.OmniXSaveConditioning.execute([[torch.zeros(1), {}]], "../../escaped")
    assert not list(host_folders.glob("**/escaped*"))


def test_convert_node(host_folders: Path) -> None:
    loras = host_folders / "models" / "loras"
    make_case(loras / "OmniX")
    source = "OmniX/rgb_to_depth/depth/pytorch_lora_weights.safetensors"
    (name,) = nodes.OmniXConvertAdapter.execute(source, "OmniX/converted").result
    assert name == "OmniX/converted.safetensors"
    adapter = open_adapter(loras / name)
    assert (adapter.converted, adapter.task, adapter.stream) == (True, "rgb_to_depth", "depth")
    for again in ("OmniX/converted", "OmniX/converted.safetensors", "OmniX/converted/"):
        with pytest.raises(ValueError, match="models/loras already has a file of that name; choose another name, or"):
            nodes.OmniXConvertAdapter.execute(source, again)
    for escape in ("../escaped", "/escaped", "a/../../escaped", "", "."):
        with pytest.raises(ValueError, match="a path that leads elsewhere"):
            nodes.OmniXConvertAdapter.execute(source, escape)


FLAGGED = {
    "unused": (
        {"other.lora_A.weight": torch.ones(2, 8), "other.lora_B.weight": torch.ones(8, 2)},
        {},
        "leave them out",
    ),
    "plain alpha": ({}, {"lora_alpha": "64"}, "of docs/converter.md lets you choose"),
    "converted": (None, {}, "already converted; put it under ComfyUI's loras folder"),
}


@pytest.mark.parametrize("name", FLAGGED)
def test_the_converting_node_advises_nothing_that_it_lacks(name: str, host_folders: Path) -> None:
    extra, header, words = FLAGGED[name]
    source = host_folders / "models" / "loras" / "a.safetensors"
    tiny.save({**tiny.adapter(), **(extra or {})}, source, header)
    if extra is None:
        source = source.rename(source.with_name("b.safetensors"))
        comfyui_omnix.converters.convert(source, source.with_name("a.safetensors"))
    with pytest.raises(ValueError, match=words) as caught:
        nodes.OmniXConvertAdapter.execute("a.safetensors", "new")
    assert "--" not in str(caught.value)


def test_the_converting_node_gives_the_commands_report(host_folders: Path) -> None:
    loras = host_folders / "models" / "loras"
    tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), loras / "a.safetensors")
    (text,) = nodes.OmniXConvertAdapter.execute("a.safetensors", "b").ui["text"]
    assert text.startswith("a.safetensors -> b.safetensors: 10 layers, 0 pairs moved, 18 computed, rank 8")
    assert ", rounded" in text and "\nnote: no known model has layers 256 wide" in text and "--" not in text


@pytest.mark.parametrize("sharded", [False, True])
def test_diffusers_snapshot(host_folders: Path, sharded: bool) -> None:
    case = make_case(host_folders / "adapters")
    folder = host_folders / "models" / "diffusers" / "FLUX.1-dev" / "transformer"
    folder.mkdir(parents=True)
    names = sorted(case.flux)
    halves = {"a": names[::2], "b": names[1::2]} if sharded else {"model": names}
    for shard, keys in halves.items():
        save_file({key: case.flux[key] for key in keys}, folder / f"{shard}.safetensors")
    if sharded:
        index = {"weight_map": {key: f"{shard}.safetensors" for shard, keys in halves.items() for key in keys}}
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (model,) = nodes.OmniXLoadDiffusersFlux.execute("FLUX.1-dev").result
    want = ksample(patched(load_flux(case.flux), case), case, 1)
    assert relative_error(ksample(patched(model, case), case, 1), want) <= 1e-5


def test_diffusers_snapshot_with_a_missing_shard(host_folders: Path) -> None:
    folder = host_folders / "models" / "diffusers" / "flux" / "transformer"
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, folder / "a.safetensors")
    (folder / "x.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"expected 2 shards, got none named b\.safetensors; download it again"):
        nodes.OmniXLoadDiffusersFlux.execute("flux")
    with pytest.raises(ValueError, match="expected a snapshot"):
        nodes.OmniXLoadDiffusersFlux.execute("../flux")


def test_prompt_has_the_tag() -> None:
    assert nodes.OmniXPrompt.execute("").result == ("[EQUIRECTANGULAR]",)
    for words in ("  a room\n", "[EQUIRECTANGULAR] a room"):
        assert nodes.OmniXPrompt.execute(words).result == ("[EQUIRECTANGULAR] a room",)


def test_flow_shift_wants_a_panorama(tmp_path: Path) -> None:
    model = load_flux(tiny.flux())
    with pytest.raises(ValueError, match="twice as wide as high, got 64x64"):
        nodes.OmniXFlowShift.execute(model, {"samples": torch.zeros(1, 16, 8, 8)}, 6)


def test_camera_rays_are_a_picture() -> None:
    (rays,) = nodes.OmniXCameraRays.execute(32, 16).result
    assert rays.shape == (1, 16, 32, 3)
    assert relative_error((rays * 2 - 1).norm(dim=-1), torch.ones(1, 16, 32)) < 1e-6
