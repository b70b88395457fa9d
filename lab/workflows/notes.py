"""What the graphs tell people: which files, where to put them, what to change."""

from __future__ import annotations

from ...converters import STREAMS
from .graph import Note

HUB = "https://huggingface.co"
ADAPTERS = f"{HUB}/KevinHuang/OmniX"
AE = f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors"
TEXT = f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"
ENCODERS = f"""[clip_l.safetensors]({TEXT}/clip_l.safetensors) and \
[t5xxl_fp16.safetensors]({TEXT}/t5xxl_fp16.safetensors)"""
FILES = f"""## Files

**FLUX.1-dev** (licence: see [black-forest-labs/FLUX.1-dev]({HUB}/black-forest-labs/FLUX.1-dev))
- `models/diffusion_models/` [flux1-dev.safetensors]({HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors)
- `models/vae/` [ae.safetensors]({AE})
- `models/text_encoders/` {ENCODERS}

**OmniX adapters** from [KevinHuang/OmniX]({ADAPTERS}), as they are, in their folders below `models/loras/OmniX/`:
```
{{tree}}
```
One line for this graph's files, in ComfyUI's folder, in cmd, PowerShell or bash (Windows portable: in its inner \
folder `ComfyUI`, with `..\\python_embeded\\python.exe` for `python`):

`{{command}}`

Then press **R** and choose the folder *OmniX* in **Load OmniX Adapters**.
"""
# One line that every shell passes on as it is: within double quotes it has none of their signs.
COMMAND = """python -c "from huggingface_hub import snapshot_download as get; \
get('KevinHuang/OmniX', allow_patterns=[{patterns}], local_dir='models/loras/OmniX')\""""
HINTS = {
    "rgb_to_depth": "Depth is the relative distance along each ray. The EXR file holds it in 32-bit floats; the PNG is "
    "a coloured view for people.",
    "rgb_to_normal": "Normals are in world space: front +X, up +Y, left +Z. Choose DirectX in **OmniX Normal** for "
    "tools that want green turned round.",
    "rgb_camray_to_normal": "Camera rays are a second condition stream: they tell the model where each pixel looks. "
    "The order of the two reference latents matters: first the panorama, then the rays. Normals are in world space: "
    "front +X, up +Y, left +Z.",
    "rgb_to_albedo": "Albedo is the surface's colour without light and shadow.",
    "rgb_to_pbr": "Roughness: 0 smooth, 1 rough. Metallic: 0 dielectric, 1 metal. Both are data, not sRGB.",
    "rgb_to_semantic": "Each colour stands for a kind of thing, as OmniX was trained.",
}
SETTINGS = """Steps 28, CFG 1, euler, simple, guidance 3.5 are what OmniX was published with. Short of memory? Lower \
*height* in **Load Panorama** to 512, or choose `fp8_e4m3fn` as *weight_dtype*: the adapters are not merged, so they \
lose nothing. Double-click a blue box to see what is inside.
"""
ONCE = """## Without T5

Press **R**. Then open a box such as *Panorama to depth* and replace **OmniX Encode Prompt** with **Load OmniX \
Conditioning**: connect its output to the first *Condition stream*. T5 is never loaded again.
"""


def files(tasks: tuple[str, ...]) -> str:
    """Say which files the tasks need and how to get them."""
    rows = [f"{t}/{s}/pytorch_lora_weights.safetensors" for t in tasks for s in STREAMS[t]]
    return FILES.format(tree="\n".join(rows), command=command(tasks))


def command(tasks: tuple[str, ...]) -> str:
    """Return the line that downloads the adapters of the tasks, run in ComfyUI's folder with its Python."""
    return COMMAND.format(patterns=", ".join(f"'{task}/*'" for task in tasks))


def perception_notes(task: str, what: str) -> tuple[Note, ...]:
    """Describe a graph of one perception task."""
    start = f"""## {what.capitalize()} of a panorama

1. Run: the sample is loaded. Or choose a panorama of your own, twice as wide as high.
2. Look around in **Panorama Viewer (360)**: drag to turn, wheel to zoom. *Capture* keeps a view for the next run.
3. The map is saved to `output/OmniX`.

{HINTS[task]}

{SETTINGS}"""
    return Note("Start here", start), Note("Model links", files((task,)))


def maps_notes() -> tuple[Note, ...]:
    """Describe the graph of all maps."""
    start = f"""## All maps of a panorama

1. Run: the sample is loaded. Or choose a panorama of your own, twice as wide as high.
2. Look around in **Panorama Viewer (360)** and switch between the maps: they share one camera.
3. All maps are saved to `output/OmniX` under one number, and a sheet of them.

Don't need a map? Remove its wires: what nothing takes is not made.

{SETTINGS}"""
    tasks = tuple(task for task in STREAMS if task.startswith("rgb_to_"))
    return Note("Start here", start), Note("Model links", files(tasks))


FIRST = {
    "image_to_pano": "Load a picture and say in *prompt* what the whole panorama shows. The picture's field of view is "
    "*fov_x*: 90 degrees suit a wide lens, 50 a normal one; *yaw* and *pitch* move it.",
    "text_to_pano": "Say in *prompt* what the panorama shows. FLUX alone paints a square picture of it first.",
}


def generation_notes(slug: str) -> tuple[Note, ...]:
    """Describe a graph that makes a panorama."""
    start = f"""## A panorama of 360 degrees

1. {FIRST[slug]}
2. Run. OmniX fills in the rest; left and right edges meet.
3. Look around in **Panorama Viewer (360)**. The panorama is saved to `output/OmniX`.

OmniX generates at 1024x512. Steps 28, CFG 1, euler, simple, guidance 3.5 are what it was published with. Double-click \
a blue box to see what is inside.
"""
    return Note("Start here", start), Note("Model links", files(("image_to_pano",)))


SCENE_FIRST = {
    "panorama_to_scene": "Run: the sample is loaded. Or choose a panorama of your own, twice as wide as high.",
    "photo_to_scene": "Load a photo and say in *prompt* what the whole panorama shows; *fov_x* is the photo's field of "
    "view. OmniX completes it first.",
    "whole_scene": "Run: the sample is loaded. Or choose a panorama of your own, twice as wide as high. *prompt* "
    "describes the room without its furniture.",
}
WHOLE = """
**How it works**: *Mask Foreground* paints grey what stands in front. OmniX draws what is behind it, and its maps \
become the node `background` of the GLB; each thing in front is a node of its own, `object.001` and so on. OmniX was \
trained to fill round a photo, and never saw masks like these: look at **The filled panorama**. If it draws new \
furniture, change the seed or *prompt*. If its depth does not fit, the report says so, and geometry alone makes the \
background.
"""
SCENE_TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr")


def scene_notes(slug: str) -> tuple[Note, ...]:
    """Describe a graph that makes a 3D scene."""
    start = f"""## A 3D scene of a panorama

1. {SCENE_FIRST[slug]}
2. Set *camera_height*, the metres from the lens to the floor: OmniX depth has no unit, so this sets the size.
3. Run. **Save 3D Model** writes `output/OmniX/scene_00001_.glb`, which Blender, three.js and Unreal open; the viewer \
stands at the origin. **What was made** tells what was cut and which defaults stand.
4. The panorama is saved beside it as EXR, for the light of the world around the scene.

*unlit* shows the panorama itself, without lights. Run once with *OmniX extra - Save the prompt once*, and T5 is never \
loaded again.
{WHOLE if slug == "whole_scene" else ""}
{SETTINGS}"""
    before = () if slug == "panorama_to_scene" else ("image_to_pano",)
    after = ("rgb_to_semantic",) if slug == "whole_scene" else ()
    return Note("Start here", start), Note("Model links", files((*before, *SCENE_TASKS, *after)))


YOUR_MODEL, YOUR_LORA = "your_model.safetensors", "your_360_lora.safetensors"


def any_model_notes() -> tuple[Note, ...]:
    """Describe the graph that paints a panorama with any model, and turns it into all maps."""
    start = f"""## A panorama of any model, and its maps

1. Choose your checkpoint instead of `{YOUR_MODEL}`. If your model comes in parts (Qwen-Image, Z-Image, Krea 2, \
FLUX.2), replace **Load Checkpoint** with **Load Diffusion Model**, **Load CLIP** and **Load VAE**.
2. Choose a LoRA for 360-degree panoramas of that model instead of `{YOUR_LORA}`, and begin *prompt* with its trigger \
words. `docs/models.md` in this pack's folder lists LoRAs and where they are.
3. Set *steps* and *cfg* as your model wants them, and a width twice the height. Run: the edges meet.
4. OmniX makes all maps of the panorama, with FLUX.1-dev. They are saved to `output/OmniX` beside it.

No LoRA? Bypass it; most models know the word *equirectangular*. Short of memory? Lower *height*: OmniX perceives at \
up to 1440x720.
"""
    tasks = tuple(task for task in STREAMS if task.startswith("rgb_to_"))
    return Note("Start here", start), Note("Model links", files(tasks))


def prompt_notes() -> tuple[Note, ...]:
    """Describe the graph that saves the encoded prompt."""
    start = f"""## Encode the prompt once

All perception graphs use the same prompt, the bare tag. Run this once: it writes \
`output/conditioning/OmniX_00001_.safetensors`, guidance 3.5 included.

{ONCE}
Text encoders go to `models/text_encoders/`: {ENCODERS}.
"""
    return (Note("Start here", start),)
