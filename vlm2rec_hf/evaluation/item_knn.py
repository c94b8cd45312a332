"""Item-kNN: what was bought by the same users as the items of the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sequences import Examples
from .interaction_matrix import HistoryScorer, training_matrix

if TYPE_CHECKING:
    import scipy.sparse

BLOCK_PAIRS = 2**22
"""Item pairs whose counts are held at once, at most: about 64 MiB with their indices."""
DEFAULT_NEIGHBOURS = 50
DEFAULT_SHRINKAGE = 20.0
"""Chosen on validation splits; the log has what was tried."""


class ItemKNNScorer(HistoryScorer):
    """The items' nearest neighbours by cosine between their sets of users, summed over the history.

    `s(i, j) = |U_i and U_j| / (sqrt(|U_i| |U_j|) + shrinkage)`, for the `k` items `j` nearest to `i`, and
    `score(u, j) = sum of s(i, j) over the items i of u's history`. As in Sarwar et al. 2001 ("Item-based collaborative
    filtering recommendation algorithms") and, for the sum over sets, Deshpande and Karypis 2004 ("Item-based top-N
    recommendation algorithms"). An item is no neighbour of itself. Neighbours are counted over the training part in
    blocks: memory is `n_items * k` similarities and `BLOCK_PAIRS` counts, whatever the number of interactions.

    Args:
        examples: what is ranked; see `HistoryScorer`.
        k: neighbours of each item; of equally near ones the more popular, then the first.
        shrinkage: lowers similarities that few users vouch for; 0 is the plain cosine.

    Raises:
        ValueError: `k` below 1 or a negative `shrinkage`.
    """

    def __init__(
        self, examples: Examples, *, k: int = DEFAULT_NEIGHBOURS, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> None:
        super().__init__(examples)
        self.similarities = nearest_items(training_matrix(examples.sequences), k=k, shrinkage=shrinkage)
        self.settings: dict[str, Any] = {"k": k, "shrinkage": shrinkage}

    def scores(self, rows: slice) -> np.ndarray:
        """Sums of similarities, the training count as the last tie-breaker: `(b, n_items)` float64."""
        return self.with_last_tie((self.histories(rows) @ self.similarities).toarray())


def nearest_items(users: scipy.sparse.csr_array, *, k: int, shrinkage: float = 0.0) -> scipy.sparse.csr_array:
    """Similarities of every item to its `k` nearest ones; see `ItemKNNScorer`.

    Args:
        users: sparse binary `(n_users, n_items)`.
        k: neighbours of each item, at most; items without a common user are none.
        shrinkage: added to the denominator.

    Returns:
        Sparse `(n_items, n_items)` float64: row `i` holds the neighbours of `i`.

    Raises:
        ValueError: `k` below 1 or a negative `shrinkage`.
    """
    import scipy.sparse

    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if not shrinkage >= 0:
        raise ValueError(f"`shrinkage` must be at least 0, got {shrinkage}.")
    n_items = users.shape[1]
    of_items = users.T.tocsr()
    counts = np.diff(of_items.indptr)
    rows = max(1, BLOCK_PAIRS // max(n_items, 1))
    columns, values, lengths = [], [], np.zeros(n_items, dtype=np.int64)
    for begin in range(0, n_items, rows):
        both = of_items[begin : begin + rows] @ users
        row = np.repeat(np.arange(begin, begin + both.shape[0]), np.diff(both.indptr))
        similarity = both.data / (np.sqrt(counts[row] * counts[both.indices]) + shrinkage)
        similarity[row == both.indices] = 0.0
        for place in range(both.shape[0]):
            part = slice(both.indptr[place], both.indptr[place + 1])
            kept = _nearest(similarity[part], both.indices[part], counts, k)
            columns.append(both.indices[part][kept])
            values.append(similarity[part][kept])
            lengths[begin + place] = len(kept)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    parts = (np.concatenate(values or [np.zeros(0)]), np.concatenate(columns or [np.zeros(0, np.int32)]), offsets)
    nearest = scipy.sparse.csr_array(parts, shape=(n_items, n_items))
    nearest.sort_indices()
    return nearest


def _nearest(similarity: np.ndarray, items: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` largest positive similarities; of equal ones the more popular item's, then the first's."""
    positive = np.flatnonzero(similarity > 0)
    if len(positive) <= k:
        return positive
    last = np.partition(similarity[positive], -k)[-k]
    above = positive[similarity[positive] > last]
    equal = positive[similarity[positive] == last]
    order = np.lexsort((items[equal], -counts[items[equal]]))
    return np.concatenate([above, equal[order[: k - len(above)]]])
