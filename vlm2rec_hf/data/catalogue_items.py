"""A dataset's items as a lazy sequence, for processors and encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..columns import IMAGE, IMAGE_FEATURES
from .images import image_digest

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from .items import Item


class HasItems(Protocol):
    """What is asked of a `RecDataset` here; it names this module, so this module does not name it."""

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""

    @property
    def item_ids(self) -> np.ndarray:
        """Raw ids of the catalogue, in order."""

    items: datasets.Dataset
    """One row per item, images not decoded."""

    def item(self, index: int) -> Item:
        """An item with its image decoded."""

    def item_texts(self, rows: range | None = None) -> list[str | None]:
        """The texts of all items, or of some."""


class CatalogueItems(Sequence["Item"]):
    """Items in catalogue order; an image is decoded when its item is asked for, and not kept.

    Args:
        dataset: where the items live.
        rows: places of the items wanted; all by default.
    """

    def __init__(self, dataset: HasItems, rows: range | None = None) -> None:
        self._dataset = dataset
        self._rows = range(dataset.n_items) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._dataset.item(self._rows[index])

    @property
    def item_ids(self) -> np.ndarray:
        """Raw ids in order: `(n,)`."""
        ids = self._dataset.item_ids
        return ids if self._rows == range(len(ids)) else ids[list(self._rows)]

    def image_source(self, index: int) -> bytes | None:
        """Hash of an item's image file, without decoding it; `None` without one. See `image_digest`.

        Of a dataset that knows images as features only, the hash of these.
        """
        row = self._dataset.items[self._rows[index]]
        return _hash_of_features(row) if IMAGE not in row else _hash_of_file(row)

    def image_sources(self, index: int) -> list[bytes]:
        """Hashes of all that stands for an item's image: its file, its features, both or none."""
        row = self._dataset.items[self._rows[index]]
        return [source for source in (_hash_of_file(row), _hash_of_features(row)) if source is not None]

    def texts(self) -> Iterator[str | None]:
        """Every item's text without decoding an image."""
        return iter(self._dataset.item_texts(None if len(self) == self._dataset.n_items else self._rows))


def _hash_of_file(row: Mapping[str, Any]) -> bytes | None:
    cell = row.get(IMAGE)
    return image_digest(cell["bytes"]) if cell is not None and cell["bytes"] else None


def _hash_of_features(row: Mapping[str, Any]) -> bytes | None:
    features = row.get(IMAGE_FEATURES)
    return None if features is None else image_digest(repr(features).encode())


def same_items(one: HasItems, other: HasItems) -> bool:
    """Whether two datasets hold equal items, in every column, in the same order."""
    if one.items is other.items:
        return True
    if len(one.items) != len(other.items) or one.items.column_names != other.items.column_names:
        return False
    batches = (dataset.items.with_format("arrow").iter(batch_size=1024) for dataset in (one, other))
    return all(mine.equals(theirs) for mine, theirs in zip(*batches, strict=True))
