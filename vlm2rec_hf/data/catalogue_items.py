"""A dataset's items as a lazy sequence, for processors and encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vlm2rec_hf.columns import IMAGE
from vlm2rec_hf.data.images import image_digest

if TYPE_CHECKING:
    from vlm2rec_hf.data.dataset import RecDataset
    from vlm2rec_hf.data.items import Item


class CatalogueItems(Sequence["Item"]):
    """Items in catalogue order; a picture is decoded when its item is asked for, and not kept.

    Args:
        dataset: where the items live.
    """

    def __init__(self, dataset: RecDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset.n_items

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._dataset.item(range(len(self))[index])

    def image_source(self, index: int) -> bytes | None:
        """Hash of an item's picture file, without decoding it; `None` without one. See `image_digest`."""
        cell = self._dataset.items[range(len(self))[index]].get(IMAGE)
        return image_digest(cell["bytes"]) if cell is not None and cell["bytes"] else None

    def texts(self) -> Iterator[str | None]:
        """Every item's text without decoding a picture."""
        return iter(self._dataset.item_texts())
