"""EASE: the best linear model that predicts every item of a user from the others, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sequences import Examples
from .interaction_matrix import HistoryScorer, training_matrix
from .metrics import rank_metric
from .ranking import rank_targets

if TYPE_CHECKING:
    import scipy.sparse

DEFAULT_LAMBDA = 100.0
"""Chosen on validation splits; the log has what was tried."""
DEFAULT_MEMORY = 2**30
"""Bytes that the matrix of weights may take."""
BYTES_PER_PAIR = 8
BLOCK_PAIRS = 2**22
SMALLEST = 1e-9
"""Of the penalty, as a share of the largest count: less than this drowns in rounding."""
LAMBDAS = (1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


class EASEScorer(HistoryScorer):
    """EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data").

    With `X` the binary matrix of users and items in training, the `B` of zero diagonal that minimises
    `|X - X B|^2 + lambda |B|^2` is `B = I - P diag(1 / diag P)` with `P = (X^T X + lambda I)^-1`. A user's scores are
    the sum of `B`'s rows over the history.

    `B` is dense. Where it would take more than `memory`, it is made over as many of the most popular items as fit, and
    the others score 0, as an item that nobody bought does: they come after what the model likes, ahead of what it
    dislikes (our choice; `settings` says how many items there are in it). Time grows with the cube of that number.

    Args:
        examples: what is ranked; see `HistoryScorer`.
        lambda_: weight of the penalty, above 0. See `choose_lambda`.
        memory: bytes that `B` may take.

    Raises:
        ValueError: `lambda_` that is not above 0 or too small to invert, or `memory` for less than one item.
    """

    def __init__(self, examples: Examples, *, lambda_: float = DEFAULT_LAMBDA, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(examples)
        limit = items_within(memory)
        users = training_matrix(examples.sequences)
        self._chosen: np.ndarray | None = None
        if self.n_items > limit:
            counts = users.sum(axis=0)
            self._chosen = np.sort(np.argsort(-counts, kind="stable")[:limit])
            users = users[:, self._chosen]
        self.weights = ease_weights(users, lambda_)
        self.settings: dict[str, Any] = {"lambda": float(lambda_), "items": len(self.weights), "of": self.n_items}

    def scores(self, rows: slice) -> np.ndarray:
        """Predictions, the training count as the last tie-breaker: `(b, n_items)` float64."""
        histories = self.histories(rows)
        if self._chosen is None:
            scores = histories @ self.weights
        else:
            scores = np.zeros((histories.shape[0], self.n_items))
            scores[:, self._chosen] = histories[:, self._chosen] @ self.weights
        return self.with_last_tie(scores)


def items_within(memory: int) -> int:
    """How many items EASE's matrix holds within `memory` bytes.

    Raises:
        ValueError: not even one.
    """
    if memory < BYTES_PER_PAIR:
        raise ValueError(f"`memory` must be at least {BYTES_PER_PAIR} bytes, got {memory}.")
    return math.isqrt(memory // BYTES_PER_PAIR)


def ease_weights(users: scipy.sparse.csr_array, lambda_: float) -> np.ndarray:
    """EASE's `B`; see `EASEScorer`. It is made in place, so there is one matrix of this size.

    Args:
        users: sparse `(n_users, n_items)`.
        lambda_: weight of the penalty.

    Returns:
        `(n_items, n_items)` float64 with a zero diagonal; `B[i, j]` is what item `i` in a history adds to item `j`.

    Raises:
        ValueError: `lambda_` that is not above 0 and finite, or too small for the matrix to be inverted.
    """
    from scipy.linalg import lapack

    if not 0 < lambda_ < math.inf:
        raise ValueError(f"`lambda_` must be above 0 and finite, got {lambda_}.")
    n_items = users.shape[1]
    matrix = np.empty((n_items, n_items))
    if not n_items:
        return matrix
    of_items = users.T.tocsr()
    largest = float(np.diff(of_items.indptr).max())
    if lambda_ < SMALLEST * largest:
        raise ValueError(
            f"`lambda_` must be at least {SMALLEST * largest:g} for items with up to {largest:g} users, got "
            f"{lambda_}: the inverse would be rounding."
        )
    rows = max(1, BLOCK_PAIRS // n_items)
    for begin in range(0, n_items, rows):
        matrix[begin : begin + rows] = (of_items[begin : begin + rows] @ users).toarray()
    matrix.flat[:: n_items + 1] += lambda_
    # The transpose is in LAPACK's order and the same matrix: nothing is copied.
    factor, failed = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    if not failed:
        inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise ValueError(f"`lambda_` {lambda_} is too small to invert the items' matrix; choose a larger one.")
    weights = inverse.T  # its upper triangle is filled
    for begin in range(0, n_items, rows):
        stop = min(begin + rows, n_items)
        weights[stop:, begin:stop] = weights[begin:stop, stop:].T
        square = weights[begin:stop, begin:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
    diagonal = weights.diagonal().copy()
    weights /= -diagonal
    weights.flat[:: n_items + 1] = 0.0
    return weights


def choose_lambda(
    examples: Examples,
    lambdas: Iterable[float] = LAMBDAS,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
    memory: int = DEFAULT_MEMORY,
) -> tuple[float, dict[float, float]]:
    """EASE's penalty by ranking the validation split.

    Args:
        examples: of the validation split, such as `dataset.examples("validation")`; nothing of it is trained on.
        lambdas: what to try.
        metric: a mean of ranks, such as `"hit@10"`, the larger the better.
        exclude_seen: leave items of the user's past out of the candidates.
        memory: as in `EASEScorer`.

    Returns:
        The best one (the first of equals) and the metric of each.

    Raises:
        ValueError: nothing to try, an unknown metric, or no examples.
    """
    tried = [float(value) for value in lambdas]
    if not tried:
        raise ValueError("`lambdas` must hold at least one value.")
    if not len(examples):
        raise ValueError("`examples` must hold at least one example, got none; take `dataset.examples('validation')`.")
    found = {}
    for value in tried:
        scorer = EASEScorer(examples, lambda_=value, memory=memory)
        ranks = rank_targets(scorer, examples, k=1, exclude_seen=exclude_seen).ranks
        found[value] = float(rank_metric(metric, ranks).mean())
    return max(found, key=lambda value: found[value]), found
