"""The nodes: what people see, and one call each. No tensor maths here.

Every input and output is described once, in its schema; `locales/` translates it, `web/docs/` explains it at length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io, ui

from . import converters
from .older import OmniXOlderGraph, register_replacements
from .omnix import maps, panorama, patch
from .omnix.adapter import fingerprint, folders_with_tasks, task_files
from .omnix.colour import COLOURS, colour_view
from .omnix.conditioning import load_conditioning, save_conditioning
from .omnix.schedule import flow_shift
from .omnix.sheet import contact_sheet
from .omnix.tasks import SEAM_COLUMNS, TASKS, WRAP_COLUMNS, tagged_prompt
from .omnix.view import cut_out, read_view

Adapters = io.Custom("OMNIX_ADAPTERS")
MogeGeometry = io.Custom("MOGE_GEOMETRY")
CONDITIONING_FOLDER = "conditioning"
NOTHING_FOUND = "none found"
MAPS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")


def located(kind: str) -> Callable[[str], str | None]:
    """Return the host's lookup of relative names below its folders of a kind; it never leaves them."""
    return lambda name: folder_paths.get_full_path(kind, name)


def choices(names: Iterable[str]) -> list[str]:
    """Return the options of a combo; an empty one would make the host reject the graph without saying why."""
    return list(names) or [NOTHING_FOUND]


def seam_input(tooltip: str) -> io.Int.Input:
    """Return the input for the seam's width."""
    return io.Int.Input("seam_columns", default=SEAM_COLUMNS, min=0, max=64, step=2, tooltip=tooltip, advanced=True)


class OmniXLoadAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        folders = choices(folders_with_tasks(folder_paths.get_filename_list("loras")))
        return io.Schema(
            node_id="OmniXLoadAdapters",
            display_name="Load OmniX Adapters",
            category="OmniX/loaders",
            description="Load the adapters of one OmniX task, one for each stream. Original Diffusers files and "
            "converted ones are taken alike.",
            search_aliases=["omnix", "panorama", "360", "equirectangular", "lora", "adapter"],
            inputs=[
                io.Combo.Input("task", options=list(TASKS), tooltip="What the adapters do. Each task has its own set."),
                io.Combo.Input(
                    "folder",
                    options=folders,
                    tooltip="Folder below models/loras that holds the task's files, such as OmniX with "
                    "OmniX/rgb_to_depth/rgb.safetensors in it. Press R after adding files.",
                ),
            ],
            outputs=[Adapters.Output(display_name="adapters", tooltip="For Apply OmniX Adapters.")],
        )

    @classmethod
    def execute(cls, task: str, folder: str) -> io.NodeOutput:
        return io.NodeOutput(patch.load_adapters(cls.files(task, folder), TASKS[task]))

    @classmethod
    def fingerprint_inputs(cls, task: str, folder: str) -> str:
        return fingerprint(cls.files(task, folder))

    @staticmethod
    def files(task: str, folder: str) -> tuple[Path, ...]:
        if folder == NOTHING_FOUND:
            raise ValueError(
                "No folder below models/loras holds the adapters of an OmniX task; download them from "
                "huggingface.co/KevinHuang/OmniX into models/loras/OmniX, then press R."
            )
        return task_files(located("loras"), folder, TASKS[task])


class OmniXApplyAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXApplyAdapters",
            display_name="Apply OmniX Adapters",
            category="OmniX/model",
            description="Run FLUX.1 on several streams at once: a clean stream for each reference latent and the noisy "
            "target, each with its own adapter, joined in attention. The model's weights are not changed.",
            search_aliases=["omnix", "panorama", "streams", "lora", "seamless"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-dev, in any precision."),
                Adapters.Input("adapters", tooltip="The adapters of one task."),
                io.Float.Input(
                    "strength_condition",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How strongly the adapters of the condition streams act. 1 is what they were trained for.",
                ),
                io.Float.Input(
                    "strength_target",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How strongly the adapter of the target stream acts. 1 is what it was trained for.",
                ),
                seam_input(
                    "Latent columns that are sampled twice, once past the right edge, and blended after each step, so "
                    "that the edges meet. 0 switches it off."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For KSampler, with the seam and streams attached.")
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, adapters: Any, strength_condition: float, strength_target: float, seam_columns: int
    ) -> io.NodeOutput:
        return io.NodeOutput(patch.attach(model, adapters, strength_condition, strength_target, seam_columns))


class OmniXFlowShift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXFlowShift",
            display_name="OmniX Flow Shift",
            category="OmniX/model",
            description="Set the flow shift for the panorama's size, and make the simple scheduler exact at every "
            "number of steps.",
            search_aliases=["omnix", "model sampling flux", "shift", "sigma"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-dev, before or after Apply OmniX Adapters."),
                io.Latent.Input("latent", tooltip="The latent that will be sampled; its size sets the shift."),
                seam_input("The seam_columns of Apply OmniX Adapters: the widened latent's size counts."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For KSampler; use the scheduler simple.")],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any], seam_columns: int) -> io.NodeOutput:
        height, width = latent["samples"].shape[-2:]
        panorama.check_panorama(height * patch.PIXELS_PER_LATENT, width * patch.PIXELS_PER_LATENT)
        return io.NodeOutput(patch.with_flow_shift(model, flow_shift(height, width, seam_columns)))


class OmniXLoadDiffusersFlux(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadDiffusersFlux",
            display_name="Load Diffusers FLUX",
            category="OmniX/loaders",
            description="Load FLUX.1-dev from a Hugging Face Diffusers snapshot below models/diffusers, for those who "
            "have its 24 GB already.",
            search_aliases=["omnix", "diffusers", "flux", "hugging face", "sharded"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=choices(diffusers_snapshots()),
                    tooltip="Snapshot below models/diffusers with transformer/*.safetensors in it.",
                )
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="FLUX.1-dev.")],
        )

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        if folder not in diffusers_snapshots():
            raise ValueError(
                f"{folder}: expected a snapshot with transformer/*.safetensors below models/diffusers, got none; "
                "copy the snapshot of FLUX.1-dev there and press R."
            )
        return io.NodeOutput(patch.load_diffusers_flux(transformer_shards(diffusers_snapshots()[folder])))


def diffusers_snapshots() -> dict[str, Path]:
    """Map the names of the snapshots below models/diffusers to their transformer folders."""
    roots = [Path(root) for root in folder_paths.get_folder_paths("diffusers")]
    found = [(root, path) for root in roots for path in sorted(root.glob("**/transformer/*.safetensors"))]
    return {path.parent.parent.relative_to(root).as_posix(): path.parent for root, path in reversed(found)}


def transformer_shards(folder: Path) -> list[str]:
    """List the shards of a transformer folder; those of the index, if there is one.  Raises ValueError."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        return [str(path) for path in sorted(folder.glob("*.safetensors"))]
    try:
        names = sorted(set(json.loads(indices[0].read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{indices[0]}: expected an index of shards, got {error}; download it again.") from error
    # No other kind of file: the host reads .bin and .pt with pickle.
    shards = {path.name for path in folder.glob("*.safetensors")}
    missing = [name for name in names if Path(str(name)).name not in shards]
    if missing:
        raise ValueError(f"{folder}: expected {len(names)} shards, got none named {missing[0]}; download it again.")
    return [str(folder / Path(str(name)).name) for name in names]


class OmniXPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPrompt",
            display_name="OmniX Prompt",
            category="OmniX/conditioning",
            description="Put the tag [EQUIRECTANGULAR] before a prompt, as OmniX was trained. Perception uses "
            "the bare tag.",
            search_aliases=["omnix", "panorama prompt", "equirectangular"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the panorama shows. Leave it empty for depth, normals and the other maps.",
                )
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, prompt: str) -> io.NodeOutput:
        return io.NodeOutput(tagged_prompt(prompt))


class OmniXSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSaveConditioning",
            display_name="Save OmniX Conditioning",
            category="OmniX/conditioning",
            description="Save an encoded prompt below the output folder, so that it is encoded once and T5 is never "
            "loaded again.",
            search_aliases=["omnix", "save conditioning", "cache prompt", "text embedding"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt, before any reference latent."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{CONDITIONING_FOLDER}/OmniX",
                    tooltip="Name below the output folder. Load OmniX Conditioning lists output/conditioning and "
                    "models/conditioning.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, conditioning: Any, filename_prefix: str) -> io.NodeOutput:
        root = folder_paths.get_output_directory()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder, f"{name}_{counter:05}_.safetensors")
        save_conditioning(conditioning, path)
        return io.NodeOutput(ui={"text": [str(Path(subfolder, path.name))]})


class OmniXLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadConditioning",
            display_name="Load OmniX Conditioning",
            category="OmniX/conditioning",
            description="Load an encoded prompt that was saved, without loading T5.",
            search_aliases=["omnix", "load conditioning", "cached prompt", "text embedding"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=choices(folder_paths.get_filename_list(CONDITIONING_FOLDER)),
                    tooltip="A file in models/conditioning or output/conditioning. Press R after saving one.",
                )
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The encoded prompt, as saved.")],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(load_conditioning(cls.file(name)))

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        return fingerprint([cls.file(name)])

    @staticmethod
    def file(name: str) -> Path:
        path = located(CONDITIONING_FOLDER)(name)
        if path is None:
            raise ValueError(
                f"{name}: no such file in models/conditioning; save one with Save OmniX Conditioning first."
            )
        return Path(path)


class OmniXDecodePanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXDecodePanorama",
            display_name="Decode Panorama",
            category="OmniX/image",
            description="VAE Decode whose left and right edges meet.",
            search_aliases=["omnix", "vae decode", "seamless", "wrap", "360"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled panorama."),
                io.Vae.Input("vae", tooltip="The VAE of FLUX.1 (ae.safetensors)."),
                io.Int.Input(
                    "wrap_columns",
                    default=WRAP_COLUMNS,
                    min=0,
                    max=64,
                    tooltip="Latent columns that are decoded twice, once past the right edge, and blended.",
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The decoded panorama.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, wrap_columns: int) -> io.NodeOutput:
        return io.NodeOutput(panorama.decode_panorama(vae.decode, samples["samples"], wrap_columns))


class OmniXPlaceOnPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        angle = {"default": 0.0, "step": 0.5}
        return io.Schema(
            node_id="OmniXPlaceOnPanorama",
            display_name="Place Image on Panorama",
            category="OmniX/image",
            description="Lay a perspective picture on a grey panorama: the condition of image_to_pano.",
            search_aliases=["omnix", "perspective to equirectangular", "P2E", "outpaint", "360"],
            inputs=[
                io.Image.Input("image", tooltip="A perspective picture."),
                io.Int.Input("width", default=1024, min=16, max=16384, step=16, tooltip="Panorama width in pixels."),
                io.Int.Input("height", default=512, min=8, max=8192, step=8, tooltip="Half the width, in pixels."),
                io.Float.Input(
                    "fov_x", default=90.0, min=1.0, max=179.0, step=0.5, tooltip="Horizontal field of view in degrees."
                ),
                io.Float.Input("yaw", min=-180.0, max=180.0, tooltip="Degrees to the right.", **angle),
                io.Float.Input("pitch", min=-90.0, max=90.0, tooltip="Degrees up.", **angle),
                io.Float.Input("roll", min=-180.0, max=180.0, tooltip="Degrees clockwise.", **angle),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The picture on grey; encode it as reference latent."),
                io.Mask.Output(display_name="unseen", tooltip="1 where the picture does not reach."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, width: int, height: int, fov_x: float, yaw: float, pitch: float, roll: float
    ) -> io.NodeOutput:
        return io.NodeOutput(*panorama.place_on_panorama(image, width, height, fov_x, yaw, pitch, roll))


class OmniXCameraRays(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXCameraRays",
            display_name="Camera Rays",
            category="OmniX/image",
            description="The direction each pixel of a panorama looks in, as a picture: the second condition of "
            "rgb_camray_to_normal.",
            search_aliases=["omnix", "ray map", "camray", "directions", "360"],
            inputs=[
                io.Int.Input("width", default=1024, min=16, max=16384, step=16, tooltip="Panorama width in pixels."),
                io.Int.Input("height", default=512, min=8, max=8192, step=8, tooltip="Half the width, in pixels."),
            ],
            outputs=[io.Image.Output(display_name="rays", tooltip="ray * 0.5 + 0.5; front +X, up +Y, left +Z.")],
        )

    @classmethod
    def execute(cls, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(panorama.camera_rays(height, width)[None] * 0.5 + 0.5)


class OmniXDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXDepth",
            display_name="OmniX Depth",
            category="OmniX/maps",
            description="Relative distance along the ray from a decoded depth panorama, as it is or stretched between "
            "two percentiles if you ask for it.",
            search_aliases=["omnix", "distance", "depth map", "360"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded target of rgb_to_depth."),
                io.Boolean.Input(
                    "stretch",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Map the near percentile to 0 and the far one to 1. This changes the data.",
                ),
                io.Float.Input(
                    "near",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    optional=True,
                    advanced=True,
                    tooltip="Percentile that becomes 0, with stretch.",
                ),
                io.Float.Input(
                    "far",
                    default=100.0,
                    min=0.0,
                    max=100.0,
                    optional=True,
                    advanced=True,
                    tooltip="Percentile that becomes 1, with stretch.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="depth", tooltip="Distance in three equal channels; save it as EXR linear."
                ),
                io.Mask.Output(display_name="mask", tooltip="The same values as a mask."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, stretch: bool = False, near: float = 0.0, far: float = 100.0) -> io.NodeOutput:
        depth = maps.depth(image)
        return io.NodeOutput(*(maps.stretch(depth.mask, near, far) if stretch else depth))


class OmniXNormal(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXNormal",
            display_name="OmniX Normal",
            category="OmniX/maps",
            description="World-space normals from a decoded normal panorama, made unit length. Axes: front +X, "
            "up +Y, left +Z.",
            search_aliases=["omnix", "normal map", "world normal", "360"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded target of rgb_to_normal or rgb_camray_to_normal."),
                io.Combo.Input(
                    "convention",
                    options=["OpenGL", "DirectX"],
                    default="OpenGL",
                    optional=True,
                    tooltip="DirectX turns the green channel (up) round.",
                ),
            ],
            outputs=[io.Image.Output(display_name="normal", tooltip="normal * 0.5 + 0.5.")],
        )

    @classmethod
    def execute(cls, image: Any, convention: str = "OpenGL") -> io.NodeOutput:
        return io.NodeOutput(maps.normal(image, directx=convention == "DirectX"))


class OmniXMaterial(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXMaterial",
            display_name="OmniX Roughness and Metallic",
            category="OmniX/maps",
            description="The two channels of a decoded PBR panorama, unchanged.",
            search_aliases=["omnix", "pbr", "roughness", "metallic", "material"],
            inputs=[io.Image.Input("image", tooltip="The decoded target of rgb_to_pbr.")],
            outputs=[
                io.Image.Output(display_name="roughness", tooltip="0 smooth, 1 rough."),
                io.Image.Output(display_name="metallic", tooltip="0 dielectric, 1 metal."),
            ],
        )

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        return io.NodeOutput(*maps.material(image))


class OmniXPackORM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPackORM",
            display_name="Pack Occlusion Roughness Metallic",
            category="OmniX/maps",
            description="Pack glTF's ORM texture: occlusion in red, roughness in green, metallic in blue.",
            search_aliases=["omnix", "ORM", "ARM", "glTF", "texture"],
            inputs=[
                io.Image.Input("roughness", tooltip="0 smooth, 1 rough."),
                io.Image.Input("metallic", tooltip="0 dielectric, 1 metal."),
                io.Image.Input("occlusion", optional=True, tooltip="Ambient occlusion; without it red is 1."),
            ],
            outputs=[io.Image.Output(display_name="orm", tooltip="Linear data, not sRGB.")],
        )

    @classmethod
    def execute(cls, roughness: Any, metallic: Any, occlusion: Any = None) -> io.NodeOutput:
        return io.NodeOutput(maps.orm(roughness, metallic, occlusion))


class OmniXMogeGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXMogeGeometry",
            display_name="Depth to MoGe Geometry",
            category="OmniX/maps",
            description="Hand OmniX depth to ComfyUI's MoGe nodes, which render it and make a mesh of it.",
            search_aliases=["omnix", "mesh", "point map", "glb", "geometry"],
            inputs=[
                io.Mask.Input("depth", tooltip="The mask output of OmniX Depth."),
                io.Image.Input("image", tooltip="The panorama, in the depth's size; it becomes the texture."),
            ],
            outputs=[MogeGeometry.Output(display_name="moge_geometry", tooltip="For the MoGe render and mesh nodes.")],
        )

    @classmethod
    def execute(cls, depth: Any, image: Any) -> io.NodeOutput:
        return io.NodeOutput(maps.moge_geometry(depth, image))


class OmniXColourDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXColourDepth",
            display_name="Colour Depth",
            category="OmniX/maps",
            description="A coloured view of a depth map for people; keep the map itself for tools.",
            search_aliases=["omnix", "colormap", "color map", "spectral", "turbo", "depth preview"],
            inputs=[
                io.Mask.Input("depth", tooltip="The mask output of OmniX Depth."),
                io.Combo.Input("colours", options=list(COLOURS), tooltip="Spectral is what the paper shows."),
                io.Boolean.Input("invert", default=False, tooltip="Start from the other end of the colours."),
            ],
            outputs=[io.Image.Output(display_name="view", tooltip="A picture, no data.")],
        )

    @classmethod
    def execute(cls, depth: Any, colours: str, invert: bool) -> io.NodeOutput:
        return io.NodeOutput(colour_view(depth, colours, invert))


class OmniXContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXContactSheet",
            display_name="OmniX Contact Sheet",
            category="OmniX/image",
            description="All maps of a panorama on one labelled sheet.",
            search_aliases=["omnix", "grid", "overview", "labels"],
            inputs=[
                io.Image.Input("panorama", tooltip="The panorama itself."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.Int.Input("columns", default=2, min=1, max=8, tooltip="Pictures in a row."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The labelled sheet.")],
        )

    @classmethod
    def execute(cls, panorama: Any, columns: int, **images: Any) -> io.NodeOutput:
        given = [("panorama", panorama), *((name, images[name]) for name in MAPS if images.get(name) is not None)]
        return io.NodeOutput(contact_sheet(given, columns))


class OmniXPanoramaViewer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPanoramaViewer",
            display_name="Panorama Viewer (360)",
            category="OmniX/image",
            description="Look around inside a panorama and its maps, which share one camera. Drag to turn, wheel to "
            "zoom; Capture sets the view that the next run gives out as an image.",
            search_aliases=["omnix", "360 viewer", "equirectangular preview", "panorama preview", "skybox"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The panorama, twice as wide as high."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.String.Input("view", default="", tooltip="The captured view, kept by the viewer."),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=8192,
                    step=8,
                    advanced=True,
                    tooltip="Width in pixels of the captured view.",
                ),
            ],
            outputs=[io.Image.Output(display_name="view", tooltip="The captured view, cut out of the chosen map.")],
        )

    @classmethod
    def execute(cls, image: Any, view: str, width: int, **images: Any) -> io.NodeOutput:
        shown = {"image": image, **{name: images[name] for name in MAPS if images.get(name) is not None}}
        for pictures in shown.values():
            panorama.check_panorama(*pictures.shape[1:3])
        captured = cut_out(shown, read_view(view), width)
        saved = [
            {"label": name, "images": ui.PreviewImage(pictures, cls=cls).as_dict()["images"]}
            for name, pictures in shown.items()
        ]
        return io.NodeOutput(captured, ui={"omnix_maps": saved})


class OmniXConvertAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXConvertAdapter",
            display_name="Convert FLUX LoRA",
            category="OmniX/loaders",
            description="Convert a Diffusers FLUX.1 LoRA into a file for ComfyUI's LoRA loaders, merged or bypassed. "
            "Load OmniX Adapters takes both, so the OmniX tasks do not need it.",
            search_aliases=["omnix", "convert lora", "diffusers", "fuse", "qkv"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "source",
                    options=choices(folder_paths.get_filename_list("loras")),
                    tooltip="A LoRA below models/loras in Diffusers layout.",
                ),
                io.String.Input(
                    "name",
                    default="OmniX/converted",
                    tooltip="Name of the new file below models/loras, without ending. Press R to see it "
                    "in the loaders.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="Name of the converted file below models/loras.")],
        )

    @classmethod
    def execute(cls, source: str, name: str) -> io.NodeOutput:
        path = located("loras")(source)
        if path is None:
            raise ValueError(f"{source}: no such file below models/loras; choose another and press R.")
        root = Path(folder_paths.get_folder_paths("loras")[0])
        target = inside(root, name if name.endswith(".safetensors") else f"{name}.safetensors")
        report = converters.convert(path, target, slot=converters.slot_of_name(source))
        written = target.relative_to(root.resolve()).as_posix()
        done = f"{written}: {len(report.layers)} layers, {report.bytes_out / 1e6:.1f} MB"
        return io.NodeOutput(written, ui={"text": [done]})

    @classmethod
    def fingerprint_inputs(cls, source: str, name: str) -> str:
        path = located("loras")(source)
        return fingerprint([Path(path)]) if path else name


def inside(root: Path, name: str) -> Path:
    """Return the path of a relative name below `root`, following links.  Raises ValueError if it leads elsewhere."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise ValueError(
            f"{name}: expected a name below {root.name}, got a path that leads elsewhere; change the name."
        )
    return path


NODES: list[type[io.ComfyNode]] = [
    OmniXLoadAdapters,
    OmniXApplyAdapters,
    OmniXFlowShift,
    OmniXLoadDiffusersFlux,
    OmniXPrompt,
    OmniXSaveConditioning,
    OmniXLoadConditioning,
    OmniXDecodePanorama,
    OmniXPlaceOnPanorama,
    OmniXCameraRays,
    OmniXDepth,
    OmniXNormal,
    OmniXMaterial,
    OmniXPackORM,
    OmniXMogeGeometry,
    OmniXColourDepth,
    OmniXContactSheet,
    OmniXPanoramaViewer,
    OmniXConvertAdapter,
    OmniXOlderGraph,
]


class OmniXExtension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def on_load(self) -> None:
        """Tell the host where saved conditionings lie, and what becomes of graphs of the older pack."""
        for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
            folder_paths.add_model_folder_path(CONDITIONING_FOLDER, str(Path(root, CONDITIONING_FOLDER)))
        folder_paths.folder_names_and_paths[CONDITIONING_FOLDER][1].add(".safetensors")
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return NODES


async def comfy_entrypoint() -> OmniXExtension:
    """Return the extension; the host calls this when it loads the pack."""
    return OmniXExtension()
