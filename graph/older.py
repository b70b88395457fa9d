"""Answer graphs made with the older pack ComfyUI-OmniX with one message: which workflow to open instead.

The nodes of that pack took a latent and a VAE and showed a map. But its graphs gave the model no reference latent, so
no replacement node could show a map either. If that pack is not installed, ComfyUI replaces its nodes with
OmniXOlderGraph, which refuses the graph before anything is sampled.
"""

from __future__ import annotations

from comfy_api.latest import ComfyAPI, io

from .files import server

PREFIX = "OmniX_PanoPerception_"
# Older node -> (the workflow that replaces it, its number of image outputs)
WORKFLOWS = {
    "Depth": ("OmniX 03 - Panorama to depth", 1),
    "Normal": ("OmniX 04 - Panorama to normal", 1),
    "PBR": ("OmniX 09 - Panorama to all maps", 3),
    "Semantic": ("OmniX 08 - Panorama to semantic", 1),
}


def advice(workflow: str) -> str:
    """Return the message for people who open a graph of the older pack."""
    return (
        "This graph was made for the older OmniX pack. It gives the model no reference latent, so it can't make a map. "
        f"Open Templates, Extensions, omnix-panorama, {workflow} instead, and load your panorama there."
    )


class OmniXOlderGraph(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXOlderGraph",
            display_name="Graph of the Older OmniX Pack",
            category="OmniX/older",
            description="Replaces a node of the older pack ComfyUI-OmniX in a graph, and says which workflow to open "
            "instead.",
            search_aliases=["omnix", *(PREFIX + name for name in WORKFLOWS)],
            is_deprecated=True,
            inputs=[
                io.Combo.Input(
                    "open_instead",
                    options=sorted({workflow for workflow, _ in WORKFLOWS.values()}),
                    tooltip="The workflow to open instead, in Templates, Extensions, omnix-panorama.",
                )
            ],
            outputs=[
                io.Image.Output(display_name=name, tooltip="This output is never filled: the message says what to do.")
                for name in ("first", "second", "third")
            ],
        )

    @classmethod
    def validate_inputs(cls, open_instead: str) -> str:
        return advice(open_instead)

    @classmethod
    def execute(cls, open_instead: str) -> io.NodeOutput:
        raise ValueError(advice(open_instead))


def replacements() -> list[io.NodeReplace]:
    """Return the replacement of each older node for the host; the links to its images are kept."""
    return [
        io.NodeReplace(
            new_node_id="OmniXOlderGraph",
            old_node_id=PREFIX + name,
            input_mapping=[{"new_id": "open_instead", "set_value": workflow}],
            output_mapping=[{"new_idx": slot, "old_idx": slot} for slot in range(images)],
        )
        for name, (workflow, images) in WORKFLOWS.items()
    ]


async def register_replacements() -> None:
    """Register the replacements with the host's server; a script that loads the pack has no server and no graphs."""
    if server() is not None:
        for replacement in replacements():
            await ComfyAPI().node_replacement.register(replacement)
