"""Images of items as small `data:` URIs: from the dataset, or from the index that keeps an item's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.images import decode_image
from ..indexing.rows import OWN
from ..recommending.cards import data_uri

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

KEPT = 2000
"""Small images in memory, about 10 KB each."""


class ItemImages:
    """Finds and keeps small images; one thread at a time.

    Args:
        dataset: holds images; None: only the index does.
        side: of the recommender, for the index that its items come from.
    """

    def __init__(self, dataset: RecDataset | None, side: Any) -> None:
        self.dataset, self.side = dataset, side
        ids = [] if dataset is None else dataset.item_ids.tolist()
        self._place = {str(item): i for i, item in enumerate(ids)}
        self._kept: OrderedDict[Any, str | None] = OrderedDict()

    def of(self, item_ids: Sequence[str]) -> dict[str, str]:
        """Id -> `data:` URI, of the items that have an image that decodes."""
        own = {}
        for row in self.side.followed.rows(list(item_ids), ["_source", "_image"]).to_pylist():
            if row["_source"] == OWN:
                own[row["item_id"]] = row["_image"]
        found = {item: self._one(item, own) for item in item_ids}
        return {item: uri for item, uri in found.items() if uri is not None}

    def _one(self, item: str, own: dict[str, bytes | None]) -> str | None:
        key = (item, hash(own[item])) if item in own else item
        if key not in self._kept:
            self._kept[key] = self._made(item, own)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, item: str, own: dict[str, bytes | None]) -> str | None:
        if item in own:
            content = own[item]
            return None if content is None else data_uri(decode_image(content))
        if self.dataset is None or item not in self._place:
            return None
        image = self.dataset.item(self._place[item]).get("image")
        return None if image is None else data_uri(image)
