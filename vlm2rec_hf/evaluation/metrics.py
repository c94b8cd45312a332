"""Ranking metrics, per user, from 1-based ranks or top-k lists. NumPy only.

With one held-out target per example, everything about accuracy is in the target's rank: Hit, NDCG and MRR at k are
functions of it. Each function returns one value per example; average them afterwards (and keep them: intervals and
paired tests need the values, not the mean).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def _check_ranks(ranks: ArrayLike, k: int) -> np.ndarray:
    array = np.asarray(ranks)
    if array.ndim != 1:
        raise ValueError(f"`ranks` must be one-dimensional, one rank per example, got shape {array.shape}.")
    if len(array) and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`ranks` must be integers (1 = best), got dtype {array.dtype}; convert with .astype(int).")
    if len(array) and array.min() < 1:
        raise ValueError(f"`ranks` are 1-based, so at least 1, got {array.min()}; add 1 to 0-based ranks.")
    _check_k(k)
    return array.astype(np.int64, copy=False)


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"`k` must be a positive integer, got {k!r}.")


def hit_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """1.0 where the target is among the first `k`, else 0.0.

    Args:
        ranks: `(n,)` integer ranks of the targets, 1 = best.
        k: cut-off.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: ranks that are not 1-based integers, or `k < 1`.
    """
    return (_check_ranks(ranks, k) <= k).astype(np.float64)


def recall_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """The same numbers as `hit_at_k`, under the name other papers use.

    Recall is the found share of the relevant items; with exactly one relevant item per example the two coincide.
    """
    return hit_at_k(ranks, k)


def ndcg_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """`1 / log2(1 + rank)` where `rank <= k`, else 0.0.

    The ideal DCG of a single relevant item is 1, so DCG is already normalised (Järvelin and Kekäläinen, 2002).

    Args:
        ranks: `(n,)` integer ranks of the targets, 1 = best.
        k: cut-off.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: ranks that are not 1-based integers, or `k < 1`.
    """
    array = _check_ranks(ranks, k)
    return np.where(array <= k, 1.0 / np.log2(1.0 + array), 0.0)


def mrr_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """`1 / rank` where `rank <= k`, else 0.0.

    Args:
        ranks: `(n,)` integer ranks of the targets, 1 = best.
        k: cut-off.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: ranks that are not 1-based integers, or `k < 1`.
    """
    array = _check_ranks(ranks, k)
    return np.where(array <= k, 1.0 / array, 0.0)


RANK_METRICS: dict[str, Callable[[ArrayLike, int], np.ndarray]] = {
    "hit": hit_at_k,
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
    "mrr": mrr_at_k,
}


def ranking_metrics(ranks: ArrayLike, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
    """Means over examples of `hit@k`, `ndcg@k` and `mrr@k` for each of `ks`; `ranks` as in `rank_metric`."""
    return {name: float(rank_metric(name, ranks).mean()) for name in ranking_metric_names(ks)}


def ranking_metric_names(ks: Sequence[int] = (10, 20)) -> list[str]:
    """What `ranking_metrics` gives."""
    return [f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in ks]


def rank_metric(name: str, ranks: ArrayLike) -> np.ndarray:
    """The metric written as `"ndcg@10"`, per example.

    Args:
        name: one of `hit`, `recall`, `ndcg`, `mrr`, then `@` and the cut-off.
        ranks: `(n,)` integer ranks of the targets, 1 = best.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: a name that is not of that form.
    """
    metric, _, k = name.partition("@")
    if metric not in RANK_METRICS or not k.isdecimal():
        raise ValueError(f"`name` must be one of {sorted(RANK_METRICS)} with a cut-off, as 'ndcg@10', got {name!r}.")
    return RANK_METRICS[metric](ranks, int(k))


def _check_top(top_items: ArrayLike, n_items: int, k: int | None) -> np.ndarray:
    top = np.asarray(top_items)
    if top.ndim != 2 or not np.issubdtype(top.dtype, np.integer):
        raise ValueError(f"`top_items` must be a 2-D integer array (n, K), got shape {top.shape}, dtype {top.dtype}.")
    if k is not None:
        _check_k(k)
        if k > top.shape[1]:
            raise ValueError(f"`k` is {k}, but `top_items` holds only {top.shape[1]} per user; rank with a larger k.")
        top = top[:, :k]
    if top.size and (top.max() >= n_items or top.min() < -1):
        raise ValueError(
            f"`top_items` must be catalogue indices below {n_items} (or -1 for padding), "
            f"got values in [{top.min()}, {top.max()}]."
        )
    return top


def coverage_at_k(top_items: ArrayLike, n_items: int, k: int | None = None) -> float:
    """Share of the catalogue that is recommended to at least one user.

    Args:
        top_items: `(n, K)` catalogue indices, best first; -1 where a user had fewer than K candidates.
        n_items: size of the catalogue.
        k: use only the first `k` columns; default all.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: indices outside the catalogue, `n_items < 1`, or `k` larger than K.
    """
    if n_items < 1:
        raise ValueError(f"`n_items` must be at least 1, got {n_items}.")
    top = _check_top(top_items, n_items, k)
    covered = np.zeros(n_items, dtype=bool)
    covered[top[top >= 0]] = True
    return float(covered.mean())


def novelty_at_k(top_items: ArrayLike, train_counts: ArrayLike, k: int | None = None) -> np.ndarray:
    """Mean self-information `-log2 p(item)` of the recommended items, in bits (Zhou et al., 2010).

    `p(item) = (count + 1) / (sum of counts + n_items)`: the one added keeps items without any training interaction
    finite (our choice; it also makes a catalogue without interactions uniform).

    Args:
        top_items: `(n, K)` catalogue indices, best first; -1 where a user had fewer than K candidates.
        train_counts: `(n_items,)` training interactions per item.
        k: use only the first `k` columns; default all.

    Returns:
        `(n,)` float64; NaN for a user without any recommended item.

    Raises:
        ValueError: indices outside the catalogue, negative counts, or `k` larger than K.
    """
    counts = np.asarray(train_counts, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 0:
        raise ValueError(f"`train_counts` must be non-negative, one per item, got shape {counts.shape}.")
    top = _check_top(top_items, len(counts), k)
    information = -np.log2((counts + 1.0) / (counts.sum() + len(counts)))
    present = top >= 0
    total = np.where(present, information[top], 0.0).sum(axis=1)
    number = present.sum(axis=1)
    return np.divide(total, number, out=np.full(len(top), np.nan), where=number > 0)
