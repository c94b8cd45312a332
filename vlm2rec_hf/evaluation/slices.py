"""Parts of the examples that deserve their own number: cold items, targets without image, popularity, history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..data.sequences import Examples

HISTORY_EDGES = (1, 5, 10, 20, 50)
RARE = 5
"""A target with fewer training interactions is a rare item (our choice)."""
HEAD_SHARE = 0.2
"""Share of the catalogue that counts as head items; the others are the long tail."""


def popularity_buckets(train_counts: ArrayLike, n_buckets: int = 5) -> np.ndarray:
    """Bucket of each item by popularity, 0 = most popular, each bucket holding about the same training interactions.

    Buckets of equal interaction *mass* (our choice, not of equal numbers of items) get about equally many targets, so
    that all of them can be measured; the last one holds the long tail. An item's bucket is the share of interactions
    that went to strictly more popular items, in `n_buckets` steps: items with equal counts are never separated.

    Args:
        train_counts: `(n_items,)` training interactions per item.
        n_buckets: 5 for quintiles.

    Returns:
        `(n_items,)` int64; items without any training interaction are in the last bucket.

    Raises:
        ValueError: negative counts, or `n_buckets < 1`.
    """
    counts = np.asarray(train_counts)
    if counts.ndim != 1 or (len(counts) and counts.min() < 0):
        raise ValueError(f"`train_counts` must be non-negative, one per item, got shape {counts.shape}.")
    if n_buckets < 1:
        raise ValueError(f"`n_buckets` must be at least 1, got {n_buckets}.")
    total = int(counts.sum())
    if total == 0:
        return np.full(len(counts), n_buckets - 1, dtype=np.int64)
    values, inverse, number = np.unique(counts, return_inverse=True, return_counts=True)
    mass = (values * number)[::-1].astype(np.int64)
    more_popular = (np.cumsum(mass) - mass)[::-1]
    bucket = np.minimum(n_buckets * more_popular // total, n_buckets - 1)
    bucket[values == 0] = n_buckets - 1
    return bucket[inverse].astype(np.int64)


def head_items(train_counts: ArrayLike, share: float = HEAD_SHARE) -> np.ndarray:
    """Which items are head items: the `share` of the catalogue with the most training interactions.

    Long-tail results are usually reported by number of items, the most popular fifth against the rest; which share
    DMESR
    takes is not public, so this is our choice. Items with as many interactions as the last head item are head items.

    Args:
        train_counts: `(n_items,)` training interactions per item.
        share: of the items, in (0, 1).

    Returns:
        `(n_items,)` bool; items without any training interaction are never head items.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"`share` must lie between 0 and 1, got {share}.")
    counts = np.asarray(train_counts)
    if len(counts) == 0:
        return np.zeros(0, dtype=bool)
    last = max(1, round(share * len(counts)))
    return (counts >= np.sort(counts)[::-1][last - 1]) & (counts > 0)


def make_slices(
    examples: Examples,
    *,
    has_image: ArrayLike | None = None,
    train_counts: ArrayLike | None = None,
    history_edges: Sequence[int] = HISTORY_EDGES,
    n_buckets: int = 5,
) -> dict[str, np.ndarray]:
    """Boolean masks over the examples, by name.

    - `cold_item`: the target has no training interaction.
    - `rare_item`: the target has fewer than five training interactions (`RARE`), perhaps none.
    - `no_image`: the target has no image (only with `has_image`).
    - `popularity_q1` (head) ... `popularity_q5` (tail): `popularity_buckets` of the target.
    - `head_items`, `tail_items`: the target is among the most popular fifth of the items (`head_items`), or not.
    - `history_1-4`, ..., `history_50+`: number of interactions before the target, not cut to `max_history`.

    Args:
        examples: what is ranked.
        has_image: `(n_items,)` bool.
        train_counts: `(n_items,)`; default: counted from the examples' sequences.
        history_edges: increasing lower edges of the history buckets.
        n_buckets: popularity buckets.

    Returns:
        Name -> `(n,)` bool. A slice may be empty.

    Raises:
        ValueError: arrays that do not have one value per item, or edges that do not increase.
    """
    n_items, targets = examples.sequences.n_items, examples.targets
    counts = examples.sequences.train_counts() if train_counts is None else np.asarray(train_counts)
    if counts.shape != (n_items,):
        raise ValueError(f"`train_counts` must have one value per item ({n_items}), got shape {counts.shape}.")
    edges = [int(edge) for edge in history_edges]
    if not edges or edges[0] < 0 or any(low >= high for low, high in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"`history_edges` must be increasing and not negative, got {list(history_edges)}.")
    slices = {"cold_item": counts[targets] == 0, "rare_item": counts[targets] < RARE}
    if has_image is not None:
        pictured = np.asarray(has_image)
        if pictured.shape != (n_items,) or pictured.dtype != bool:
            raise ValueError(
                f"`has_image` must be bool with one value per item ({n_items}), "
                f"got shape {pictured.shape}, dtype {pictured.dtype}."
            )
        slices["no_image"] = ~pictured[targets]
    bucket = popularity_buckets(counts, n_buckets)[targets]
    for number in range(n_buckets):
        slices[f"popularity_q{number + 1}"] = bucket == number
    popular = head_items(counts)[targets]
    slices |= {"head_items": popular, "tail_items": ~popular}
    length = examples.position - examples.sequences.offsets[examples.user]
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        if high is None:
            slices[f"history_{low}+"] = length >= low
        else:
            name = f"history_{low}" if high == low + 1 else f"history_{low}-{high - 1}"
            slices[name] = (length >= low) & (length < high)
    return slices
