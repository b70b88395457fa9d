"""The parts of places in Blender: random draws, colours, materials with their own passes, and primitives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import bpy
import numpy as np

Point = tuple[float, float, float]


class Palette(NamedTuple):
    """The ranges of saturation and of value for random colours."""

    saturation: tuple[float, float]
    value: tuple[float, float]


class Place:
    """A place that is being built."""

    def __init__(self, seed: int, palette: Palette, labels: Sequence[str]) -> None:
        self.random = np.random.default_rng(seed)
        self.palette, self.labels = palette, list(labels)
        self.taken: list[tuple[float, float, float]] = []
        """Circles on the ground: x, y, radius in metres."""

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return float(self.random.uniform(low, high))

    def chance(self, share: float) -> bool:
        """Draw whether something happens."""
        return bool(self.random.random() < share)

    def colour(self) -> tuple[float, float, float, float]:
        """Draw a colour of the palette, linear."""
        hue, saturation, value = (
            self.random.random(),
            self.between(*self.palette.saturation),
            self.between(*self.palette.value),
        )
        sextant = (hue * 6 + np.array([0.0, 4.0, 2.0])) % 6
        rgb = value * (1 - saturation * np.clip(2 - np.abs(sextant - 3), 0, 1))
        red, green, blue = (float(x) ** 2.2 for x in rgb)
        return red, green, blue, 1.0

    def free(self, radius: float, reach: float, tries: int = 15) -> tuple[float, float] | None:
        """Find a free circle on the ground, not too near to the camera; None if there is no such circle."""
        for _ in range(tries):
            turn, away = self.between(-math.pi, math.pi), self.between(0.7 + radius, max(0.8 + radius, reach))
            x, y = away * math.cos(turn), away * math.sin(turn)
            if all(math.hypot(x - a, y - b) > radius + r for a, b, r in self.taken):
                self.taken.append((x, y, radius))
                return x, y
        return None


TEXTURES = (
    "ShaderNodeTexNoise",
    "ShaderNodeTexVoronoi",
    "ShaderNodeTexWave",
    "ShaderNodeTexChecker",
    "ShaderNodeTexMagic",
)


def material(place: Place, label: str, rough: float | None = None, metal: bool = False, glow: float = 0.0) -> Any:
    """Make a material with its own pass: one colour, or two in a pattern."""
    made = bpy.data.materials.new(label)
    made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = nodes["Principled BSDF"]
    roughness = place.between(0.15, 0.95) if rough is None else rough
    mix = nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    mix.inputs["A"].default_value, mix.inputs["B"].default_value = place.colour(), place.colour()
    mix.inputs["Factor"].default_value = 0.0
    if place.chance(0.5) and not glow:
        texture = nodes.new(str(place.random.choice(TEXTURES)))
        texture.inputs["Scale"].default_value = place.between(0.8, 9.0)
        where = nodes.new("ShaderNodeTexCoord")
        links.new(where.outputs["Object"], texture.inputs["Vector"])
        links.new(
            next(out for out in texture.outputs if out.name in ("Fac", "Factor", "Distance", "Value")),
            mix.inputs["Factor"],
        )
    links.new(mix.outputs["Result"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value, shader.inputs["Metallic"].default_value = roughness, float(metal)
    if glow:
        links.new(mix.outputs["Result"], shader.inputs["Emission Color"])
        shader.inputs["Emission Strength"].default_value = glow
    _pass(nodes, links, "albedo", mix.outputs["Result"])
    _pass(nodes, links, "data", (roughness, float(metal), float(place.labels.index(label) + 1), 1.0))
    return made


def _pass(nodes: Any, links: Any, name: str, value: Any) -> None:
    output = nodes.new("ShaderNodeOutputAOV")
    output.aov_name = name
    if isinstance(value, tuple):
        output.inputs["Color"].default_value = value
    else:
        links.new(value, output.inputs["Color"])


def add(
    shape: str, look: Any, at: Point, scale: Point, turn: Point = (0.0, 0.0, 0.0), round_: float = 0.0, **how: Any
) -> Any:
    """Add a primitive of Blender whose unit form (1 m wide) is scaled to a size."""
    getattr(bpy.ops.mesh, f"primitive_{shape}_add")(location=at, rotation=turn, **how)
    made = bpy.context.object
    made.scale = scale
    made.data.materials.append(look)
    if shape in ("uv_sphere", "cylinder", "cone", "torus"):
        bpy.ops.object.shade_auto_smooth(angle=0.7)
    if round_:
        bevel = made.modifiers.new("bevel", "BEVEL")
        bevel.width, bevel.segments = round_, 3
    return made


def box(look: Any, at: Point, size: Point, yaw: float = 0.0, round_: float = 0.0, lean: float = 0.0) -> None:
    """Add a box."""
    add("cube", look, at, size, (0.0, lean, yaw), round_, size=1.0)


def rod(look: Any, at: Point, radius: float, height: float, lean: Point = (0.0, 0.0, 0.0)) -> None:
    """Add a cylinder that stands on a point."""
    add(
        "cylinder",
        look,
        (at[0], at[1], at[2] + height / 2),
        (radius, radius, height),
        lean,
        radius=1.0,
        depth=1.0,
        vertices=48,
    )


def ball(look: Any, at: Point, size: Point) -> None:
    """Add an ellipsoid of given half axes."""
    add("uv_sphere", look, at, size, radius=1.0, segments=48, ring_count=24)


def faces(look: Any, corners: Sequence[Point], polygons: Sequence[Sequence[int]]) -> None:
    """Add a mesh of flat polygons."""
    mesh = bpy.data.meshes.new(look.name)
    mesh.from_pydata(list(corners), [], [list(polygon) for polygon in polygons])
    mesh.materials.append(look)
    bpy.context.scene.collection.objects.link(bpy.data.objects.new(look.name, mesh))
