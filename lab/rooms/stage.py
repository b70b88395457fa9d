"""A room ready to be rendered, and the demo's room."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .enclosure import Dome
from .furniture import (
    FLOOR,
    LAMP,
    PENDANT,
    WINDOW_HIGH,
    WINDOW_LOW,
    bookcase,
    carpet,
    chair,
    coffee_table,
    dining_table,
    door,
    floor_lamp,
    hung_painting,
    mirror,
    pendant,
    plant,
    shell,
    sofa,
    window,
)
from .lighting import Lamp, Lights, Opening
from .patterns import scenery
from .raycast import Scene, group, leaves
from .shapes import Surface


@dataclass(frozen=True)
class Stage:
    """A furnished and lit room around the camera, which is at the origin, turned to the left by yaw (radians).

    Radiance is multiplied by exposure; if metered, it is first divided by the mean of the picture.
    """

    scene: Scene
    lights: Lights
    yaw: float = 0.0
    exposure: float = 0.9
    metered: bool = False


STRUCTURE = ("floor", "ceiling", "wall", "trim", "window", "door", "curtain", "outside")
"""The labels of a room without its furniture."""


def emptied(stage: Stage) -> Stage:
    """Return the same room with the same lights, without its furniture."""
    kept = [shape for shape in leaves(stage.scene.root) if shape.surface.semantic in STRUCTURE]
    return replace(stage, scene=Scene(group(kept), stage.scene.backdrop))


def showroom() -> Stage:
    """Return the demo's room: afternoon sun through the window, and two lamps."""
    lamps = (
        Lamp(LAMP, (0.85, 0.58, 0.32), radius=0.12, clear=0.32),
        Lamp((PENDANT[0], PENDANT[1] - 0.12, PENDANT[2]), (0.55, 0.42, 0.27), radius=0.03, clear=0.0),
    )
    opening = Opening(WINDOW_LOW, WINDOW_HIGH, axis=2, outward=1)
    lights = Lights((opening,), lamps, sun=(-0.42, 0.78, 0.9), sunlight=(4.4, 3.8, 3.0), skylight=(2.6, 3.0, 3.6))
    return Stage(_scene(), lights)


def _scene() -> Scene:
    """Build the whole room."""
    things = [
        window(),
        sofa(),
        coffee_table(),
        floor_lamp(),
        bookcase(),
        dining_table(),
        pendant(),
        plant(),
        door(),
    ]
    chairs = [chair(PENDANT[0] + 0.1, PENDANT[2] - 0.62, 80.0), chair(PENDANT[0] + 0.95, PENDANT[2] + 0.1, 170.0)]
    backdrop = Dome(
        Surface("outside", scenery, 1.0, glow=(1.0, 1.0, 1.0)), (0.0, FLOOR - 0.6, 0.0), half=(14.0, 14.0, 14.0)
    )
    return Scene(group([*shell(), *things, *chairs, carpet(), hung_painting(), mirror()]), backdrop)
