"""Scores of items for queries: inner products over views, divided by the length of a weighted sum where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NEAR = 1e-5
"""Scores in single precision that are this close (relative to their size) are computed anew in double precision."""


@dataclass(frozen=True)
class Query:
    """What is searched for: the score of an item is `sum_v <vectors[v], x_v> / |sum_v weights[v] x_v|`.

    With the user's vector as a unit vector times each view's weight, that is the cosine of two weighted sums, exact
    for any weights. Vectors may be longer than a model's: a prior is one more component.

    Attributes:
        vectors: view -> `(n, dim)` float32, one row per question.
        weights: view -> weight in the item's length; None: inner products, nothing is divided.
    """

    vectors: Mapping[str, np.ndarray]
    weights: Mapping[str, float] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.vectors.values())))


def exact_scores(query: Query, row: int, items: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores in double precision, `(m,)`; every pair is reduced the same way, so equal vectors get equal scores.

    An item whose weighted sum is zero (it lacks the text and the image that count) scores 0.

    Args:
        query: what is searched for.
        row: which of its questions.
        items: view -> `(m, dim)`.
    """
    total = sum(
        (items[view].astype(np.float64) * vectors[row].astype(np.float64)).sum(axis=1)
        for view, vectors in query.vectors.items()
    )
    total = np.asarray(total, dtype=np.float64)
    return total if query.weights is None else divided(total, lengths(items, query.weights))


def lengths(items: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Lengths of the weighted sums over views, `(m,)` float64."""
    summed = sum(weight * items[view].astype(np.float64) for view, weight in weights.items())
    return np.sqrt((np.asarray(summed) ** 2).sum(axis=1))


def divided(scores: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """`scores / norms`, 0 where the norm is 0."""
    return np.where(norms > 0, scores / np.where(norms > 0, norms, 1), 0)


def ordered(ids: list[str], scores: np.ndarray, k: int) -> tuple[list[str], list[float]]:
    """The `k` best of some items; equal scores keep the order they come in."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [ids[i] for i in order], [float(scores[i]) for i in order]
