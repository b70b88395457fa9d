"""What the graphs tell people: which files, where to put them, what to change.

Nodes are **bold** and named as on the canvas; fields, inputs and outputs are *italic*; a test compares both with the
graph. web/notes.css enlarges every note that links to this project, so each does.
"""

from __future__ import annotations

from ...mapfiles.nyu40 import CLASSES
from ...omnix.runtime.tasks import STREAMS, Task
from .graph import Note
from .parts import SCENE_TASKS

HUB = "https://huggingface.co"
ADAPTERS = f"{HUB}/KevinHuang/OmniX"
AE = f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors"
TEXT = f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"
ENCODERS = f"""[clip_l.safetensors]({TEXT}/clip_l.safetensors) and \
[t5xxl_fp16.safetensors]({TEXT}/t5xxl_fp16.safetensors)"""
DOCS = "https://github.com/omnix-panorama/omnix-panorama/blob/main/docs"
FILES = f"""## Files

- `models/diffusion_models`: [flux1-dev.safetensors]({HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors) \
([licence]({HUB}/black-forest-labs/FLUX.1-dev))
- `models/vae`: [ae.safetensors]({AE})
- `models/text_encoders`: {ENCODERS}
- `models/loras/OmniX`: the adapters from [KevinHuang/OmniX]({ADAPTERS}). Run this line in the folder `ComfyUI`:
```
{{command}}
```
The same line for Windows portable, in its inner folder `ComfyUI`:
```
{{portable}}
```
Then press **R**. [Step by step]({DOCS}/adapters.md)
"""
# One line that every shell passes on as it is: within double quotes it has none of their signs.
COMMAND = """python -c "from huggingface_hub import snapshot_download as get; \
get('KevinHuang/OmniX', allow_patterns=[{patterns}], local_dir='models/loras/OmniX')\""""
PORTABLE = "..\\python_embeded\\python.exe"
COLOURS = {
    "floor": "light green",
    "wall": "light blue",
    "ceiling": "blue violet",
    "curtain": "khaki",
    "door": "red",
    "window": "lilac",
}
"""How people call the colours of the semantic map that are known."""


def legend() -> str:
    """Name the colours of the semantic map, as words and as people type them into a program."""
    known = dict(CLASSES)
    return ", ".join(f"{name} {colour} (`#{bytes(known[name]).hex()}`)" for name, colour in COLOURS.items())


PERCEPTION = tuple(task for task in STREAMS if task.startswith("rgb_to_"))
HINTS = {
    "rgb_to_depth": "Depth is the relative distance along each ray. The EXR file holds it in 32-bit floats; the PNG is "
    "a coloured view for people.",
    "rgb_to_normal": "Normals are in world space: front +X, up +Y, left +Z. For tools that want green inverted, "
    "choose DirectX in **OmniX Normal**, inside the box.",
    "rgb_camray_to_normal": "Camera rays are a second condition stream: they tell the model where each pixel looks. "
    "Normals are in world space: front +X, up +Y, left +Z.",
    "rgb_to_albedo": "Albedo is the surface's colour without light and shadow.",
    "rgb_to_pbr": "Roughness: 0 smooth, 1 rough. Metallic: 0 dielectric, 1 metal. Both are data, not sRGB.",
    "rgb_to_semantic": f"Each colour is a class: {legend()}. OmniX's authors publish no names for the other colours. "
    "The node OmniX Semantic makes a mask of each class that is named here.",
}
ONCE = "*OmniX extra - Save the prompt once*"


def box(title: str) -> str:
    """Say what a box is and how to open it, with what is on the screen."""
    return (
        f"**{title}** is a box (a subgraph) with all the nodes of the task. To look inside, click *Enter subgraph* at "
        "its bottom, or the icon at the right of its title."
    )


def memory(title: str) -> str:
    """Say what to change where memory is short."""
    return (
        f"Short of memory? Lower *height* of **{title}** to 512, or choose `fp8_e4m3fn` as *weight_dtype* of "
        "**FLUX.1-dev**."
    )


def files(tasks: tuple[str, ...]) -> str:
    """Say which files the tasks need and how to get them."""
    line = command(tasks)
    return FILES.format(command=line, portable=line.replace("python", PORTABLE, 1))


def command(tasks: tuple[str, ...]) -> str:
    """Return the line that downloads the adapters of the tasks, run in ComfyUI's folder with its Python."""
    perceiving, others = ("rgb_to_*",) if {*tasks} >= {*PERCEPTION} else (), {*PERCEPTION}
    patterns = [*(f"{task}/*" for task in tasks if not perceiving or task not in others), *perceiving]
    return COMMAND.format(patterns=", ".join(f"'{pattern}'" for pattern in patterns))


def _notes(start: str, tasks: tuple[str, ...]) -> tuple[Note, ...]:
    return Note("Start here", f"{start}\n[Help]({DOCS}/troubleshooting.md)\n"), Note("Model links", files(tasks))


OWN = "Press **Run**: the sample is loaded. Or choose a panorama of your own, twice as wide as high, in **Load \
Panorama**."


def perception_notes(task: str, heading: str, title: str) -> tuple[Note, ...]:
    """Describe a graph of one perception task, whose box has this title."""
    start = f"""## {heading} of a panorama

1. {OWN}
2. Look around in **Panorama Viewer (360)**: drag to turn, wheel to zoom. *Capture* keeps a view for the next run.
3. **Save Panorama and Maps** writes to `output/OmniX`.

{HINTS[task]}

{box(title)}

{memory(title)}
"""
    return _notes(start, (task,))


def maps_notes(title: str) -> tuple[Note, ...]:
    """Describe the graph of all maps."""
    start = f"""## All maps of a panorama

1. {OWN}
2. Look around in **Panorama Viewer (360)** and switch between the maps: they share one camera.
3. **Save Panorama and Maps** writes all maps to `output/OmniX` under one number.

Don't need a map? Remove its wires: a map without wires is not made. For a labelled sheet of all maps, connect the \
output *sheet* to a Save Image.

{box(title)}

{memory(title)}
"""
    return _notes(start, PERCEPTION)


FIRST = {
    "image_to_pano": "Load a picture in **Your picture** and say in *prompt* what the whole panorama shows. *fov_x* is "
    "the picture's field of view: 90 degrees suit a wide lens, 50 a normal one; *yaw* and *pitch* move it.",
    "text_to_pano": "Say in *prompt* what the panorama shows. FLUX alone paints a square picture of it first.",
}


def generation_notes(slug: str, title: str) -> tuple[Note, ...]:
    """Describe a graph that makes a panorama."""
    start = f"""## A panorama of 360 degrees

1. {FIRST[slug]}
2. Press **Run**. OmniX fills in the rest; left and right edges meet.
3. Look around in **Panorama Viewer (360)**. **Save Panorama and Maps** writes to `output/OmniX`.

OmniX was made for panoramas of 1024x512.

{box(title)}

Short of memory? Choose `fp8_e4m3fn` as *weight_dtype* of **FLUX.1-dev**.
"""
    return _notes(start, ("image_to_pano",))


SCENE_FIRST = {
    "panorama_to_scene": ("A 3D scene from a panorama", OWN),
    "photo_to_scene": (
        "A 3D scene from a photo",
        "Load a photo in **Your photo** and say in *prompt* what the whole panorama shows; *fov_x* is the photo's "
        "field of view. Press **Run**: OmniX completes the photo to a panorama first, see **The panorama**.",
    ),
    "whole_scene": (
        "A whole 3D scene from a panorama",
        f"{OWN} *prompt* of **Panorama to whole 3D scene** describes the room without its furniture.",
    ),
}
WHOLE = """
OmniX was trained to fill around a photo, not behind objects: check **What OmniX drew behind**. **What was made** \
says whether its depth fits.
"""


def scene_notes(slug: str, title: str) -> tuple[Note, ...]:
    """Describe a graph that makes a 3D scene; where OmniX also draws, T5 has to read that prompt at each run."""
    heading, first = SCENE_FIRST[slug]
    start = f"""## {heading}

1. {first}
2. *camera_height* is the height of the lens above the floor in metres. It sets the scale: OmniX depth has no unit.
3. To get inside the scene, click its view in **Save 3D Model** and turn the wheel forward; then drag to look around.
4. The file `output/OmniX/scene_00001_.glb` is for Blender, three.js and Unreal. **What was made** says what was cut. \
**Save the panorama as light (EXR)** is for the light around the scene.

{WHOLE if slug == "whole_scene" else ""}
{box(title)}

{memory(title)}{f" To load T5 only once, run the workflow {ONCE}." if slug == "panorama_to_scene" else ""}
"""
    before = () if slug == "panorama_to_scene" else ("image_to_pano",)
    after = ("rgb_to_semantic",) if slug == "whole_scene" else ()
    return _notes(start, (*before, *SCENE_TASKS, *after))


YOUR_MODEL, YOUR_LORA = "your_model.safetensors", "your_360_lora.safetensors"


def any_model_notes() -> tuple[Note, ...]:
    """Describe the graph that paints a panorama with any model, and turns it into all maps."""
    start = f"""## A panorama from any model, and its maps

1. Choose your checkpoint instead of `{YOUR_MODEL}` in **Your model**. If your model comes in parts (Qwen-Image, \
Z-Image, Krea 2, FLUX.2), replace it with the nodes Load Diffusion Model, Load CLIP and Load VAE.
2. In **Text to panorama with any model**, choose a LoRA for 360-degree panoramas as *lora_name* instead of \
`{YOUR_LORA}`, and begin *prompt* with its trigger words. [Here is a list]({DOCS}/models.md). No LoRA? Set \
*lora_strength* to 0.
3. Set *steps* and *cfg* there to suit your model, and make the width twice the height.
4. Press **Run**. **Save Panorama and Maps** writes the panorama and its maps to `output/OmniX`.

{memory("Panorama to all maps")}
"""
    return _notes(start, PERCEPTION)


def prompt_notes() -> tuple[Note, ...]:
    """Describe the graph that saves the encoded prompt."""
    start = f"""## Encode the prompt once

All perception tasks use the same prompt. Encode it once, and T5 (9.8 GB) is never loaded again.

1. Press **Run**. **Saved as** shows the file, such as `conditioning/OmniX_00001_.safetensors`.
2. Press **R**, so that ComfyUI lists the file.
3. In a workflow such as 3 or 9, delete the box, such as *Panorama to depth*. Double-click the canvas, search for \
*with saved prompt*, and put *Panorama to depth with saved prompt (OmniX)* in its place. Its field *saved_prompt* \
is the file. The box needs no wire from *clip*, and so T5 is not loaded.

Text encoders go to `models/text_encoders`: {ENCODERS}. [Help]({DOCS}/troubleshooting.md)
"""
    return (Note("Start here", start),)


def task_notes(task: Task, folder: str) -> tuple[Note, ...]:
    """Describe the graph of any task, whose adapters are in this folder."""
    start = f"""## {task.name}

1. Load a panorama that is twice as wide as high: it is the condition *{task.conditions[0]}*.
2. **Load OmniX Adapters** reads `models/loras/{folder}`; press **R** after you have put the adapters there.
3. Run. The map *{task.target}* is saved to `output/OmniX`.

The condition streams are {", ".join(task.conditions)}, in this order.
"""
    return (Note("Start here", start),)
