"""What is encoded before a split is ranked: items of a prepared catalogue, and the items of histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
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


def history_items(examples: Examples) -> list[int]:
    """Every item that stands in a history, once: each is prepared once, however many histories hold it."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *examples.histories()])).tolist()
