"""What a model answers to a fixed set of inputs, to tell whether a published copy is the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Answers = dict[str, "Tensor"]


def probe_embedder(where: str, hub: dict[str, Any]) -> Answers:
    """Vectors of fixed items and histories, float32 on the CPU, in all three views.

    Args:
        where: folder or Hub id.
        hub: `revision`, `token`, `cache_dir`.
    """
    from vlm2rec_hf.modeling.modeling_vlm2rec import VLM2RecEmbedder
    from vlm2rec_hf.modeling.processing_vlm2rec import VLM2RecProcessor

    model = VLM2RecEmbedder.from_pretrained(where, **hub).eval()
    processor = VLM2RecProcessor.from_pretrained(where, **hub)
    items = probe_items()
    answers: Answers = {}
    for role, found in (
        ("items", model.encode_items(items, processor)),
        ("histories", model.encode_histories([items, items[:1], items[1:]], processor)),
    ):
        answers |= {f"{role} {view}": found.view(view) for view in ("text", "image", "both")}
    return answers


def probe_head(where: str, hub: dict[str, Any]) -> Answers:
    """Item vectors of a head, and its user vectors after histories of its first items.

    Args:
        where: folder or Hub id.
        hub: `revision`, `token`, `cache_dir`.
    """
    from vlm2rec_hf.modeling.modeling_seqrec import SequentialRecommender

    head = SequentialRecommender.from_pretrained(where, **hub).eval()
    some = list(range(min(head.config.n_items, 5)))
    return {
        "items": head.item_vectors().detach(),
        "users": head.encode_histories([some, some[:1], some[::-1]]),
        "popularity": head.catalogue.popularity.double() if head.catalogue is not None else head.item_vectors()[:0],
    }


PROBES: dict[str, Callable[[str, dict[str, Any]], Answers]] = {"vlm2rec": probe_embedder, "seqrec": probe_head}


def probe_items() -> list[Any]:
    """A title, a picture (smooth, so that its vectors do not hang on single pixels), and both."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:64, None], (1, 96)), np.full((64, 96), 90, np.uint8)], -1)
    picture = Image.fromarray(pixels)
    return [
        "red tent for two",
        picture,
        {"text": "blue mug, 300 ml", "image": picture.transpose(Image.Transpose.ROTATE_90)},
    ]


def probe(model_type: str, where: str, **hub: Any) -> Answers:
    """The answers of the model at `where`.

    Raises:
        ValueError: no probe is known for `model_type`.
    """
    if model_type not in PROBES:
        raise ValueError(f"`model_type` {model_type!r} cannot be published; this package publishes {sorted(PROBES)}.")
    return PROBES[model_type](where, hub)


def largest_difference(before: Answers, after: Answers) -> float:
    """Largest absolute difference of two sets of answers; infinite where their shapes differ."""
    if {name: tuple(value.shape) for name, value in before.items()} != {
        name: tuple(value.shape) for name, value in after.items()
    }:
        return float("inf")
    return max(float((before[name] - after[name]).abs().max()) for name in before if before[name].numel())
