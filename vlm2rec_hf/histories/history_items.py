"""Items as a history keeps them: token ids as far as a history shows them, vision features instead of pixels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..modeling.family_vlm2rec import ImageFeatures
from ..modeling.items_vlm2rec import PreparedItem
from ..modeling.processing_vlm2rec import VLM2RecProcessor

MAX_IMAGES = 64


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run the model in evaluation mode and without gradients, and leave every module's mode as it was.

    Modules of a model in evaluation mode can be in training mode: PEFT's are, until the wrapper's mode is set.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def kept_items(model: Any, processor: VLM2RecProcessor, items: Sequence[Any]) -> list[PreparedItem]:
    """Prepare items for a history; each distinct image passes the vision tower once.

    Args:
        model: a `VLM2RecEmbedder`.
        processor: made for its backbone.
        items: as `as_item` takes them, or `PreparedItem`s, whose features are taken as they are.

    Raises:
        TypeError: something that is no item.
        ValueError: an item without content, or with an image of which neither pixels nor features are there.
    """
    made = iter(processor.prepare_items([item for item in items if not isinstance(item, PreparedItem)]))
    whole = [item if isinstance(item, PreparedItem) else next(made) for item in items]
    limit = processor.max_history_item_tokens
    kept = [
        PreparedItem(None if item.text is None else item.text[:limit], item.grid, features=item.features)
        for item in whole
    ]
    slots: dict[Any, list[int]] = {}
    for i, item in enumerate(whole):
        if item.grid is None or item.features is not None:
            continue
        if item.pixel_values is None:
            raise ValueError("`items` holds a PreparedItem with a `grid` but neither `pixel_values` nor `features`.")
        slots.setdefault(("own", i) if item.key is None else ("shared", item.key), []).append(i)
    distinct = list(slots.values())
    for start in range(0, len(distinct), MAX_IMAGES):
        part = distinct[start : start + MAX_IMAGES]
        for same, features in zip(part, _seen(model, [whole[same[0]] for same in part]), strict=True):
            for i in same:
                kept[i].features = features
    return kept


def _seen(model: Any, items: Sequence[PreparedItem]) -> list[ImageFeatures]:
    """What the vision tower makes of images; each owns its memory."""
    grid = torch.tensor([item.grid for item in items], device=model.device)
    pixels = torch.cat([item.pixel_values for item in items if item.pixel_values is not None]).to(model.device)
    with evaluating(model):
        images = model.encode_images(pixels, grid)
    sizes = model.family.tokens_per_image(model.config.vlm_config, grid).tolist()
    return [one.clone() for one in images.split(sizes)]


def joined_features(items: Sequence[PreparedItem | None], device: torch.device) -> ImageFeatures | None:
    """Features of the items' images in this order, on `device`; `None` where there are none."""
    features = [item.features.to(device) for item in items if item is not None and item.features is not None]
    return ImageFeatures.joined(features) if features else None
