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
    """Refuse what cannot be ranked.

    Raises:
        ValueError: a catalogue of another size than the examples', or no examples.
    """
    if len(catalogue) != examples.sequences.n_items:
        raise ValueError(
            f"`catalogue` holds {len(catalogue)} items, but `examples` were cut from a catalogue of "
            f"{examples.sequences.n_items}; prepare the items of the same dataset."
        )
    if len(examples) == 0:
        raise ValueError("`examples` is empty: no user of this split has a history and a target.")


def history_items(examples: Examples) -> list[int]:
    """Every item that stands in a history, once: each is prepared once, however many histories hold it."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *examples.histories()])).tolist()
