"""A catalogue ready for use: each item is tokenised once, each picture passes a frozen vision tower once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from .families_vlm2rec import ImageFeatures
from .processing_vlm2rec import PreparedItem, VLM2RecProcessor, as_item

if TYPE_CHECKING:
    from .modeling_vlm2rec import VLM2RecEmbedder


class PreparedCatalogue(Sequence[PreparedItem]):
    """Items by catalogue index, as the processor lays them out.

    Texts are tokenised on construction. Pictures are decoded and preprocessed when an item is asked for, unless
    `cache_features` was called: then they are vision features and nothing is decoded any more.

    Args:
        items: the catalogue in order; entries as `as_item` takes them, read lazily. An entry may hold neither text
            nor picture (it then has zero vectors and never trains).
        processor: made for the backbone at hand.
    """

    def __init__(self, items: Sequence[Any], processor: VLM2RecProcessor) -> None:
        self.items = items
        self.processor = processor
        self._texts: list[list[int] | None] = [None] * len(items)
        self._features: dict[int, tuple[tuple[int, ...], ImageFeatures]] | None = None
        texts = [(i, text) for i, text in enumerate(_texts_of(items)) if text is not None]
        for (i, _), ids in zip(texts, processor.tokenize_texts([text for _, text in texts]), strict=True):
            self._texts[i] = ids

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[int(index)]
        if self._features is not None:
            grid, features = self._features.get(index, (None, None))
            return PreparedItem(text=self._texts[index], grid=grid, features=features, key=index)
        image = _typed(self.items[index])["image"]
        if image is None:
            return PreparedItem(text=self._texts[index], key=index)
        prepared = self.processor.prepare_items([{"image": image}], keys=[index])[0]
        prepared.text = self._texts[index]
        return prepared

    def __iter__(self) -> Iterator[PreparedItem]:
        return (self[i] for i in range(len(self)))

    @property
    def has_cached_features(self) -> bool:
        """Whether pictures are held as vision features."""
        return self._features is not None

    def is_empty(self, index: int) -> bool:
        """Whether an item has neither a text nor a picture that decodes; decodes only where there is no text."""
        return self._texts[index] is None and self[index].grid is None

    @torch.no_grad()
    def cache_features(
        self, model: VLM2RecEmbedder, *, batch_size: int = 64, show_progress: bool = False
    ) -> PreparedCatalogue:
        """Run every picture through the (frozen) vision tower once and keep the features in memory.

        Valid for as long as the tower's weights stay the same.

        Args:
            model: its tower is run in evaluation mode.
            batch_size: pictures per forward pass.
            show_progress: draw a progress bar.
        """
        was_training = model.training
        model.eval()
        features: dict[int, tuple[tuple[int, ...], ImageFeatures]] = {}
        waiting: list[tuple[int, PreparedItem]] = []
        bar = tqdm(total=len(self), desc="Pictures", disable=not show_progress, leave=False)
        self._features = None
        for index in range(len(self)):
            item = self[index]
            bar.update()
            if item.grid is not None:
                waiting.append((index, item))
            if waiting and (len(waiting) == batch_size or index == len(self) - 1):
                features.update(_features_of(model, waiting))
                waiting = []
        if waiting:
            features.update(_features_of(model, waiting))
        bar.close()
        model.train(was_training)
        self._features = features
        return self


def _texts_of(items: Sequence[Any]) -> Iterator[str | None]:
    """Texts of the items, without decoding pictures where the sequence can tell them apart."""
    source = items.texts() if hasattr(items, "texts") else (_typed(item)["text"] for item in items)
    return (text if text and text.strip() else None for text in source)


def _typed(item: Any) -> dict[str, Any]:
    """`as_item`, but an entry may also hold nothing."""
    empty = isinstance(item, dict) and item.get("image") is None and not (item.get("text") or "")
    return {"text": None, "image": None} if empty else as_item(item)


def _features_of(
    model: VLM2RecEmbedder, waiting: list[tuple[int, PreparedItem]]
) -> dict[int, tuple[tuple[int, ...], ImageFeatures]]:
    grid = torch.tensor([item.grid for _, item in waiting], device=model.device)
    pixels = torch.cat([item.pixel_values for _, item in waiting if item.pixel_values is not None]).to(model.device)
    images = model.encode_images(pixels, grid)
    sizes = model.family.tokens_per_image(model.config.vlm_config, grid).tolist()
    tokens = images.tokens.cpu().split(sizes)
    layers = [layer.cpu().split(sizes) for layer in images.layers]
    out = {}
    for row, (index, item) in enumerate(waiting):
        assert item.grid is not None
        # `clone`: a split is a view that would keep the whole batch's storage alive and grow every pickle.
        own = ImageFeatures(
            tokens[row].clone(), torch.tensor([item.grid]), tuple(layer[row].clone() for layer in layers)
        )
        out[index] = (item.grid, own)
    return out
