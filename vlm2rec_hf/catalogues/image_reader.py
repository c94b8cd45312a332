"""Images of a sequence of items, decoded and preprocessed, in this process or in worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..modeling.encoding_vlm2rec import image_key
from ..modeling.items_vlm2rec import ITEM_KEYS, as_item
from ..modeling.processing_vlm2rec import VLM2RecProcessor

if TYPE_CHECKING:
    from .vision_cache_store import FeatureStore


@dataclass
class ReadImage:
    """Result of reading the image of an item.

    Attributes:
        index: of the item.
        key: of the image (`image_key`), or `None` without one.
        source: hash of its file, if the items provide it and it was not known before.
        grid: vision grid, where it was preprocessed.
        pixel_values: `None` where the store has the image's features.
    """

    index: int
    key: bytes | None = None
    source: bytes | None = None
    grid: tuple[int, ...] | None = None
    pixel_values: Tensor | None = None


class ImageReader(Dataset):
    """Reads images by place in `indices`; what a store has is not preprocessed, a known file not even decoded.

    Args:
        items: as `as_item` takes them, or empty. `items.image_source(index)`, where there is such a method, gives a
            hash of the image's file (`None` without one).
        indices: which items.
        processor: preprocesses.
        store: features on disk.
        verify: an image counts as known only if its features are still what was written.
    """

    def __init__(
        self,
        items: Sequence[Any],
        indices: Sequence[int] | np.ndarray,
        processor: VLM2RecProcessor,
        store: FeatureStore | None = None,
        *,
        verify: bool = True,
    ) -> None:
        self.items, self.indices, self.processor, self.store, self.verify = items, indices, processor, store, verify

    @property
    def reads_features(self) -> bool:
        """Whether images are given as features, which have no file."""
        return self.processor.family.reads_features(self.processor.image_processor)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> ReadImage:
        index, source = int(self.indices[place]), None
        if not reads_images(self.processor):
            return ReadImage(index)
        if self.store is not None and hasattr(self.items, "image_source") and not self.reads_features:
            source = self.items.image_source(index)
            if source is None:
                return ReadImage(index)
            known = self.store.key_of_source(source)
            if known is not None and self.store.has(known, verify=self.verify):
                return ReadImage(index, known)
        shown = self.processor.image_of(typed_or_empty(self.items[index]))
        if not shown:
            return ReadImage(index)
        read = ReadImage(index, image_key(*shown.values()), source)
        if self.store is None or not self.store.has(read.key, verify=self.verify):  # type: ignore[arg-type]
            prepared = self.processor.prepare_items([shown])[0]
            read.grid, read.pixel_values = prepared.grid, prepared.pixel_values
        return read

    def batches(self, batch_size: int, workers: int) -> Iterator[list[ReadImage]]:
        """Everything in order, in lists of `batch_size`, read by `workers` processes (0: by this one)."""
        loader: DataLoader = DataLoader(
            self,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_packed if workers else list,
            generator=torch.Generator(),  # the loader draws a seed: not from the global random state
        )
        for batch in loader:
            if workers:
                batch = _unpacked(*batch)
            for read in batch:
                if workers and read.key is None and reads_images(self.processor):
                    self.items[read.index]  # what is wrong with a broken image is noted in the items of this process
            yield batch


def _packed(batch: list[ReadImage]) -> tuple[list[ReadImage], Tensor | None]:
    """One tensor for all pixels: each tensor that a worker sends costs a file descriptor."""
    pixels = [read.pixel_values for read in batch if read.pixel_values is not None]
    return [replace(read, pixel_values=None) for read in batch], torch.cat(pixels) if pixels else None


def _unpacked(batch: list[ReadImage], pixels: Tensor | None) -> list[ReadImage]:
    """The images with their own pixels; one with a grid has as many rows of them as its grid has places."""
    if pixels is None:
        return batch
    sizes = [math.prod(read.grid) if read.grid is not None else 0 for read in batch]
    parts = pixels.split(sizes)
    return [
        replace(read, pixel_values=part) if read.grid is not None else read
        for read, part in zip(batch, parts, strict=True)
    ]


def reads_images(processor: VLM2RecProcessor) -> bool:
    """Whether a processor reads images at all: PixRec's text-only one does not, whatever the items hold."""
    return bool(getattr(processor, "images", True))


def typed_or_empty(item: Any) -> dict[str, Any]:
    """`as_item`, but an entry may also hold nothing. A key that `as_item` does not know is no nothing."""
    known = isinstance(item, dict) and item.keys() <= ITEM_KEYS
    empty = known and all(item.get(name) is None for name in ITEM_KEYS - {"text"}) and not (item.get("text") or "")
    return {"text": None, "image": None} if empty else as_item(item)
