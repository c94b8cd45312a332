"""The `1 + N` protocol: the target against N random negatives. Cheaper, and *not* comparable with full ranking.

Sampled metrics can order methods differently from full ranking (Krichene and Rendle, 2020), so they have a type of
their own, and `Protocol` carries `candidates="sampled"`: reports of the two kinds refuse to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..data.sequences import Examples
from .scorers import BlockScorer, VectorScorer
from .seen import SeenItems, resolve_targets


@dataclass(frozen=True)
class SampledRanking:
    """Where each example's target stands among itself and its sampled negatives.

    Attributes:
        ranks: `(n,)` int64 in `[1, n_negatives + 1]`; ties count against the target.
        negatives: `(n, n_negatives)` int64 catalogue indices.
        seed: of the draw.
    """

    ranks: np.ndarray
    negatives: np.ndarray
    seed: int

    candidates = "sampled"

    @property
    def n_negatives(self) -> int:
        """Negatives per example."""
        return self.negatives.shape[1]

    def __len__(self) -> int:
        return len(self.ranks)

    def __repr__(self) -> str:
        return f"SampledRanking({len(self):,} examples against {self.n_negatives:,} negatives each, seed={self.seed})"


def draw_negatives(
    forbidden: np.ndarray, n_items: int, n_negatives: int, generator: np.random.Generator
) -> np.ndarray:
    """`n_negatives` distinct items outside `forbidden`, uniformly.

    Args:
        forbidden: sorted distinct catalogue indices.
        n_items: size of the catalogue.
        n_negatives: how many to draw.
        generator: where randomness comes from.

    Returns:
        `(n_negatives,)` int64, in drawing order.

    Raises:
        ValueError: fewer items are allowed than asked for.
    """
    n_allowed = n_items - len(forbidden)
    if n_allowed < n_negatives:
        raise ValueError(
            f"`n_negatives` is {n_negatives}, but a user has only {n_allowed} unseen items of {n_items}; "
            "use fewer negatives or full ranking."
        )
    # Draw positions among the allowed items, then step over the forbidden ones: no rejection, no large array.
    chosen = generator.choice(n_allowed, size=n_negatives, replace=False)
    return chosen + np.searchsorted(forbidden - np.arange(len(forbidden)), chosen, side="right")


def rank_sampled(
    scorer: BlockScorer,
    examples: Examples | ArrayLike,
    *,
    seen: SeenItems | Sequence[ArrayLike] | None = None,
    n_negatives: int = 100,
    seed: int = 0,
    user_index: ArrayLike | None = None,
    block_users: int = 256,
) -> SampledRanking:
    """Rank every example's target among `n_negatives` items that its user has not seen.

    The negatives of an example depend on `seed`, the user's index and the target only: neither the scorer nor block
    sizes nor which other examples are ranked change them, so methods meet the same negatives.

    Args:
        scorer: a `VectorScorer` (scores only the chosen pairs) or any `BlockScorer`.
        examples: `Examples`, or `(n,)` integer targets (then pass `seen`).
        seen: items per example never to draw; default: everything before the target in the user's sequence.
        n_negatives: negatives per example.
        seed: of the draw.
        user_index: `(n,)` user behind each example; default from `Examples`, else 0, 1, 2, ...
        block_users: examples scored at once.

    Raises:
        ValueError: lengths that do not fit, too few unseen items, sizes below 1, NaN or infinite scores.
    """
    for name, value, low in (("n_negatives", n_negatives, 1), ("block_users", block_users, 1), ("seed", seed, 0)):
        if value < low:
            raise ValueError(f"`{name}` must be at least {low}, got {value}.")
    n_items = scorer.n_items
    targets, seen_items = resolve_targets(examples, seen, True, n_items)
    if seen_items is None or len(scorer) != len(targets):
        raise ValueError(f"`scorer` must have one row per example ({len(targets)}), got {len(scorer)} rows.")
    if user_index is None:
        user_index = examples.user if isinstance(examples, Examples) else np.arange(len(targets))
    users = np.asarray(user_index)
    if users.shape != targets.shape:
        raise ValueError(f"`user_index` must have one value per example ({len(targets)}), got shape {users.shape}.")

    negatives = np.empty((len(targets), n_negatives), dtype=np.int64)
    for row in range(len(targets)):
        generator = np.random.default_rng([seed, int(users[row]), int(targets[row])])
        forbidden = np.unique(np.append(seen_items.row(row), targets[row])).astype(np.int64)
        negatives[row] = draw_negatives(forbidden, n_items, n_negatives, generator)

    ranks = np.empty(len(targets), dtype=np.int64)
    pairs = np.concatenate([targets[:, None], negatives], axis=1)
    for begin in range(0, len(targets), block_users):
        rows = slice(begin, min(begin + block_users, len(targets)))
        scores = _pair_scores(scorer, rows, pairs[rows])
        ranks[rows] = (scores >= scores[:, :1]).sum(axis=1)
    return SampledRanking(ranks, negatives, seed)


def _pair_scores(scorer: BlockScorer, rows: slice, items: np.ndarray) -> np.ndarray:
    if isinstance(scorer, VectorScorer):
        return scorer.pair_scores(rows, items).cpu().numpy()
    scores = torch.as_tensor(scorer.scores(rows)).detach().cpu()
    if tuple(scores.shape) != (len(items), scorer.n_items):
        raise ValueError(
            f"`scorer.scores` must return shape {(len(items), scorer.n_items)}, got {tuple(scores.shape)}."
        )
    chosen = scores.gather(1, torch.as_tensor(items)).numpy()
    if not np.isfinite(chosen).all():
        raise ValueError("`scorer.scores` returned NaN or infinite scores; scores must be finite.")
    return chosen
