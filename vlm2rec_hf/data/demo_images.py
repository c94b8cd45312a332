"""Images of the demo shop's products, drawn with Pillow: a silhouette in a colour on a cluttered background."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 48, 49),
    "orange": (235, 140, 30),
    "yellow": (240, 210, 50),
    "green": (60, 160, 70),
    "teal": (40, 170, 175),
    "blue": (50, 90, 210),
    "purple": (140, 70, 180),
    "pink": (235, 120, 170),
}
SHAPES = (
    "tent", "mug", "lamp", "boot", "kite", "drum", "vase", "clock", "chair", "glove", "sled", "crate",
)  # fmt: skip
SIZE = 64


def _polygon(points: list[tuple[float, float]], centre: np.ndarray, scale: float) -> list[tuple[float, float]]:
    return [(float(centre[0] + scale * x), float(centre[1] + scale * y)) for x, y in points]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "tent": [(0, -1), (1, 1), (0.25, 1), (0, 0.3), (-0.25, 1), (-1, 1)],
    "lamp": [(-0.4, -1), (0.4, -1), (0.9, 0), (0.15, 0), (0.15, 0.8), (0.6, 1), (-0.6, 1), (-0.15, 0.8), (-0.15, 0),
             (-0.9, 0)],
    "boot": [(-0.5, -1), (0.2, -1), (0.2, 0.2), (1, 0.5), (1, 1), (-0.5, 1)],
    "kite": [(0, -1), (0.7, -0.2), (0, 1), (-0.7, -0.2)],
    "vase": [(-0.3, -1), (0.3, -1), (0.25, -0.5), (0.8, 0.3), (0.4, 1), (-0.4, 1), (-0.8, 0.3), (-0.25, -0.5)],
    "chair": [(-0.8, -1), (-0.4, -1), (-0.4, 0), (0.8, 0), (0.8, 1), (0.5, 1), (0.5, 0.4), (-0.4, 0.4), (-0.4, 1),
              (-0.8, 1)],
    "glove": [(-0.6, 1), (-0.6, -0.2), (-0.4, -1), (-0.15, -0.3), (0.05, -1), (0.25, -0.3), (0.5, -0.9), (0.55, 0.1),
              (1, 0), (0.5, 1)],
    "sled": [(-1, 0.2), (0.7, 0.2), (1, -0.4), (1, 0.3), (0.7, 0.6), (-1, 0.6)],
}  # fmt: skip


def draw_product(shape: str, colour: str, rng: np.random.Generator) -> bytes:
    """Draw one product as PNG bytes, 64 x 64 pixels.

    The silhouette's place, size and shade vary and the background has stripes and blobs of other colours, so the
    colour of the *product* is not the image's mean colour: a vision tower has to look.

    Args:
        shape: one of `SHAPES`.
        colour: a key of `COLOURS`.
        rng: source of the variation.
    """
    ground = rng.integers(70, 235, size=3)
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(v) for v in ground))
    draw = ImageDraw.Draw(image)
    palette = list(COLOURS.values())
    for _ in range(4):
        x, y = rng.integers(0, SIZE, size=2)
        radius = int(rng.integers(3, 9))
        blob = palette[int(rng.integers(len(palette)))]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=blob)
    centre = SIZE / 2 + rng.uniform(-5, 5, size=2)
    scale = float(rng.uniform(18, 25))
    fill = tuple(int(v) for v in np.clip(np.array(COLOURS[colour]) + rng.normal(0, 14, size=3), 0, 255))
    edge = (25, 25, 30)
    box = (centre[0] - scale, centre[1] - scale, centre[0] + scale, centre[1] + scale)
    if shape in _OUTLINES:
        draw.polygon(_polygon(_OUTLINES[shape], centre, scale), fill=fill, outline=edge, width=2)
    elif shape == "mug":
        left, top, right, bottom = box
        draw.arc((right - scale * 0.7, top + scale * 0.6, right + scale * 0.2, bottom - scale * 0.4), -90, 90, edge, 4)
        draw.rectangle((left + scale * 0.2, top + scale * 0.2, right - scale * 0.4, bottom), fill, edge, 2)
    elif shape == "drum":
        left, top, right, bottom = box
        draw.rectangle((left, top + scale * 0.4, right, bottom - scale * 0.4), fill, edge, 2)
        draw.ellipse((left, top, right, top + scale * 0.8), fill, edge, 2)
    elif shape == "clock":
        draw.ellipse(box, fill, edge, 3)
        for angle in rng.uniform(0, 2 * math.pi, size=2):
            tip = centre + scale * 0.7 * np.array([math.cos(angle), math.sin(angle)])
            draw.line((*centre, *tip), fill=edge, width=3)
    else:  # crate
        draw.rectangle(box, fill, edge, 2)
        draw.line((box[0], box[1], box[2], box[3]), edge, 3)
        draw.line((box[0], box[3], box[2], box[1]), edge, 3)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
