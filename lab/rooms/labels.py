"""The classes of the rooms' semantic maps, and the colour of each in a picture."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "outside": (70, 130, 180),
    "floor": (128, 64, 128),
    "ceiling": (180, 165, 180),
    "wall": (190, 153, 153),
    "trim": (220, 220, 0),
    "window": (0, 170, 230),
    "door": (119, 11, 32),
    "curtain": (255, 120, 200),
    "mirror": (0, 230, 230),
    "picture": (250, 170, 30),
    "sofa": (0, 0, 142),
    "cushion": (255, 60, 60),
    "chair": (0, 0, 230),
    "table": (107, 75, 35),
    "shelf": (160, 110, 60),
    "book": (230, 150, 140),
    "lamp": (255, 250, 150),
    "vase": (81, 0, 81),
    "fruit": (255, 128, 0),
    "ornament": (152, 251, 152),
    "plant": (107, 142, 35),
    "rug": (150, 100, 100),
}
"""Label -> 8-bit sRGB; every label of the furniture has a colour of its own."""
