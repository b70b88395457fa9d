"""What becomes of graphs made with the older pack ComfyUI-OmniX: one sentence that says which workflow to open instead.

Its nodes took a latent and a VAE and showed a map, but its graphs gave the model no reference latent, so that no node
put in their place could show one. ComfyUI replaces them, only where that pack is not installed, with OmniXOlderGraph,
which refuses the graph before anything is sampled.
"""

from __future__ import annotations

import sys

from comfy_api.latest import ComfyAPI, io

PREFIX = "OmniX_PanoPerception_"
# Older node -> (the workflow in its place, how many images it gave out)
WORKFLOWS = {
    "Depth": ("OmniX 03 - Panorama to depth", 1),
    "Normal": ("OmniX 04 - Panorama to normal", 1),
    "PBR": ("OmniX 09 - Panorama to all maps", 3),
    "Semantic": ("OmniX 08 - Panorama to semantic", 1),
}


def advice(workflow: str) -> str:
    """Return the sentence for somebody who opened a graph of the older pack."""
    return (
        "This graph of the older OmniX pack gives the model no reference latent, so no map can come out of it; open "
        f"Templates, Extensions, omnix-panorama, {workflow} instead, and load your panorama there."
    )


class OmniXOlderGraph(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXOlderGraph",
            display_name="Graph of the Older OmniX Pack",
            category="OmniX/older",
            description="Stands where a graph had a node of the older pack ComfyUI-OmniX, and says which workflow to "
            "open instead.",
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
                io.Image.Output(display_name=name, tooltip="Nothing comes out: the message says what to do.")
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
    """Return what the host is to put in the place of each older node; its links to the images are kept."""
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
    """Tell the host's server, if there is one: a script that loads the pack has none, and no graphs to replace."""
    if hasattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance"):
        for replacement in replacements():
            await ComfyAPI().node_replacement.register(replacement)
