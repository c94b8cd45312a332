"""What is encoded before a split is ranked: items of a prepared catalogue, and the items of histories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.items_vlm2rec import PreparedItem


class ChosenRows(Sequence[Any]):
    """Some entries of a sequence, still read lazily."""

    def __init__(self, source: Sequence[Any], rows: Sequence[int]) -> None:
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._source[self._rows[index]]


def check_ranked(catalogue: PreparedCatalogue, examples: Examples) -> None:
    """Check that the catalogue is the examples' own and that there is something to rank.

    Raises:
        ValueError: a catalogue of other items than the examples', or in another order, or no examples.
    """
    catalogue.check_items(examples.sequences.item_ids)
    if len(examples) == 0:
        raise ValueError("`examples` is empty: no user of this split has a history and a target.")


def first_of_equals(
    texts: Sequence[tuple[int, ...] | None], images: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which of some items differ, and which of these each item equals.

    Args:
        texts: tokens of each item's text, `None` without one.
        images: `(n, 20)` uint8 keys of their images; by default images do not count.

    Returns:
        `distinct` `(m,)`: the first item of each content; `copies` `(n,)`: item `i` equals `distinct[copies[i]]`.
    """
    keys = [b""] * len(texts) if images is None else [bytes(row) for row in images.numpy()]
    numbers: dict[Any, int] = {}
    copies = [numbers.setdefault(content, len(numbers)) for content in zip(texts, keys, strict=True)]
    return np.unique(np.array(copies, dtype=np.int64), return_index=True)[1], np.array(copies, dtype=np.int64)


class PreparedHistories(Sequence[Any]):
    """Histories as an encoder reads them: of the newest `max_history` items those that have a text or an image.

    They are cut first, as in training, so an item that says nothing takes up a place. A history of such items alone is
    empty here. Each item is prepared once, however many histories hold it.

    Args:
        catalogue: the prepared items.
        histories: catalogue indices, oldest first.
        max_history: items kept; the processor's `max_history` bounds it, too.
        prepare: catalogue indices of items that say something -> prepared items, in place of the catalogue.
    """

    def __init__(
        self,
        catalogue: PreparedCatalogue,
        histories: Iterable[Sequence[int] | np.ndarray],
        max_history: int | None = None,
        prepare: Callable[[list[int]], Sequence[PreparedItem]] | None = None,
    ) -> None:
        most = min(max_history or catalogue.processor.max_history, catalogue.processor.max_history)
        self._rows = [[int(i) for i in history[-most:]] for history in histories]
        used = sorted({i for row in self._rows for i in row})
        if prepare is None:
            found = {i: catalogue[i] for i in used}
        else:
            usable = [i for i in used if not catalogue.is_empty(i)]
            found = dict(zip(usable, prepare(usable), strict=True))
        self._prepared = {i: item for i, item in found.items() if item.text is not None or item.grid is not None}
        self.known = [i for i, row in enumerate(self._rows) if not self._prepared.keys().isdisjoint(row)]
        """Which of the histories say something."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return [self._prepared[i] for i in self._rows[index] if i in self._prepared]

    def readable(self) -> ChosenRows:
        """The histories that say something, those of `known`."""
        return ChosenRows(self, self.known)
