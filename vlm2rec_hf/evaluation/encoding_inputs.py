"""What is encoded before a split is ranked: items of a prepared catalogue, and the items of histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples


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


def history_items(examples: Examples) -> list[int]:
    """Every item that stands in a history, once: each is prepared once, however many histories hold it."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *examples.histories()])).tolist()
