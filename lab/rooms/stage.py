"""A room ready to be rendered, and the demo's own."""

from __future__ import annotations

from dataclasses import dataclass

from .furniture import LAMP, PENDANT, WINDOW_HIGH, WINDOW_LOW, scene
from .lighting import Lamp, Lights, Opening
from .raycast import Scene


@dataclass(frozen=True)
class Stage:
    """A furnished and lit room around the camera, which stands at the origin, turned to the left by yaw (radians).

    exposure is what radiance is multiplied by; if metered, after it was divided by the mean of the picture.
    """

    scene: Scene
    lights: Lights
    yaw: float = 0.0
    exposure: float = 0.9
    metered: bool = False


def showroom() -> Stage:
    """Return the demo's room: afternoon sun through the window, and two lamps."""
    lamps = (
        Lamp(LAMP, (0.85, 0.58, 0.32), radius=0.12, clear=0.32),
        Lamp((PENDANT[0], PENDANT[1] - 0.12, PENDANT[2]), (0.55, 0.42, 0.27), radius=0.03, clear=0.0),
    )
    window = Opening(WINDOW_LOW, WINDOW_HIGH, axis=2, outward=1)
    lights = Lights((window,), lamps, sun=(-0.42, 0.78, 0.9), sunlight=(4.4, 3.8, 3.0), skylight=(2.6, 3.0, 3.6))
    return Stage(scene(), lights)
