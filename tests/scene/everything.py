"""A scene with everything that a file can hold: objects with names, background, sky, collider, light and camera."""

import numpy as np
import torch
from comfyui_omnix.lab.rooms.room import render
from comfyui_omnix.mapfiles.nyu40 import CLASSES
from comfyui_omnix.omnix.pictures.semantics import named
from comfyui_omnix.omnix.scene import Options, Scene, build_scene

HEIGHT = 128
COLOURS = dict(CLASSES)


def everything() -> Scene:
    """Return the lit scene of the demo's room with all its maps; the farthest 5 % have no depth."""
    room = render(2 * HEIGHT, HEIGHT)
    distance = np.where(room.distance > np.quantile(room.distance, 0.95), 0.0, room.distance)
    painted = np.array([COLOURS.get(label, (128, 128, 128)) for label in room.labels])[room.semantic] / 255
    grey = {name: np.repeat(getattr(room, name)[..., None], 3, axis=-1) for name in ("roughness", "metallic")}
    maps = {"image": room.rgb, "albedo": room.albedo, "normal": room.normal, **grey}
    shows = named(torch.from_numpy(painted)[None], COLOURS)[0]
    return build_scene(distance, maps, Options(objects=True, collider=True, origin="floor"), named=shows)
