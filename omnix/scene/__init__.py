"""From a panorama and its depth to a textured mesh: cuts, a hierarchy of right triangles, frames, and one GLB.

Pictures are [H, W] with row 0 on top; the mesh is in glTF's frame. Between `surface` (pixels) and `mesh` (triangles)
lies a lattice of corners: pixel (i, j) is the cell between the corners (i, j) and (i + 1, j + 1), u = column / W and
v = row / H, so that the rays of the pixels' centres meet the centres of the texels. Row 0 and row H are the poles,
column 0 and column W the seam.
"""

from .build import Scene, build_scene
from .shape import Options

__all__ = ["Options", "Scene", "build_scene"]
