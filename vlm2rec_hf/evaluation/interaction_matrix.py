"""Who interacted with what, as sparse binary matrices: what item-kNN and EASE are made of and applied to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import numpy as np

from ..data.sequences import Examples, Sequences
from .seen import SeenItems

if TYPE_CHECKING:
    import scipy.sparse

DIGITS = 9
"""Real-valued scores are rounded to so many digits after the point: what differs by rounding alone is a tie, and the
training count, scaled below one step, decides."""


def popularity_below_one(counts: np.ndarray) -> np.ndarray:
    """Training counts brought to [0, 1), so that they break ties between whole numbers: `(n_items,)` float64."""
    return counts.astype(np.float64) / (float(counts.max(initial=0)) + 1.0)


def binary_matrix(rows: np.ndarray, items: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Ones at the given places, however often a place is named: sparse `shape` float64, columns in order."""
    import scipy.sparse

    matrix = scipy.sparse.coo_array((np.ones(len(rows)), (rows, items)), shape=shape).tocsr()
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def training_matrix(sequences: Sequences) -> scipy.sparse.csr_array:
    """Which user has which item in what is trained on: sparse binary `(n_users, n_items)` float64."""
    items, offsets = sequences.training_part()
    users = np.repeat(np.arange(sequences.n_users), np.diff(offsets))
    return binary_matrix(users, items, (sequences.n_users, sequences.n_items))


class HistoryScorer:
    """A `BlockScorer` that reads an example's history as a set; subclasses score such sets.

    The whole history before the target counts, not only its last `max_history` items, and an item once however often
    it occurs (our choice: SLIM, EASE and item-kNN are stated for binary data). Between equal scores the training count
    decides, as in the other floors.

    Args:
        examples: what is ranked; its sequences are what is trained on.
    """

    def __init__(self, examples: Examples) -> None:
        self._seen = SeenItems.from_examples(examples)
        self._n_items = examples.sequences.n_items
        self._counts = examples.sequences.train_counts()

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self._n_items

    def __len__(self) -> int:
        return len(self._seen)

    def on(self, examples: Examples) -> Self:
        """The same model, not fitted again, for other examples of the same training data, such as another split's.

        Raises:
            ValueError: the examples' items occur in training at other counts.
        """
        if not np.array_equal(examples.sequences.train_counts(), self._counts):
            raise ValueError(
                "`examples` must be of the data that this scorer was fitted on, got other training counts; make a new "
                "scorer of them."
            )
        other = copy.copy(self)
        other._seen = SeenItems.from_examples(examples)
        return other

    def with_last_tie(self, scores: np.ndarray) -> np.ndarray:
        """Scores rounded to steps, with popularity below one step added: `(b, n_items)`, in place."""
        np.round(scores, DIGITS, out=scores)
        scores += popularity_below_one(self._counts) * 10.0**-DIGITS
        return scores

    def histories(self, rows: slice) -> scipy.sparse.csr_array:
        """The histories of the examples in `rows`: sparse binary `(b, n_items)` float64."""
        count = rows.stop - rows.start
        row, items = self._seen.pairs(np.arange(rows.start, rows.stop))
        return binary_matrix(row, items, (count, self._n_items))
