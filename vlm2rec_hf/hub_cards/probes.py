"""What a model answers to a fixed set of inputs, to tell whether a published copy is the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Answers = dict[str, "Tensor"]


def probe_items() -> list[Any]:
    """A title, an image (smooth, so that its vectors do not hang on single pixels), and both."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:64, None], (1, 96)), np.full((64, 96), 90, np.uint8)], -1)
    image = Image.fromarray(pixels)
    return [
        "red tent for two",
        image,
        {"text": "blue mug, 300 ml", "image": image.transpose(Image.Transpose.ROTATE_90)},
    ]


def largest_difference(before: Answers, after: Answers) -> float:
    """Largest absolute difference of two sets of answers; infinite where shapes differ, NaN where one is NaN."""
    import torch

    if {name: tuple(value.shape) for name, value in before.items()} != {
        name: tuple(value.shape) for name, value in after.items()
    }:
        return float("inf")
    each = [float((before[name] - after[name]).abs().max()) for name in before if before[name].numel()]
    return float(torch.tensor(each, dtype=torch.float64).max())  # Python's `max` would pass over a later NaN
