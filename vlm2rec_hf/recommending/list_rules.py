"""What is done to a ranked list before a shop shows it: one item per group, and diversity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_of_groups(groups: Sequence[object]) -> list[int]:
    """Places of the first of each group, in order; an item without a group (None) is one by itself.

    Args:
        groups: of the items, best first.
    """
    seen: set[object] = set()
    places = []
    for place, group in enumerate(groups):
        if group is None or group not in seen:
            places.append(place)
            seen.add(group)
    return places


def diversified(scores: Sequence[float], vectors: np.ndarray, k: int, diversity: float) -> list[int]:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): places of the chosen, in the order of choice.

    Next is the item with the largest `(1 - diversity) * relevance - diversity * similarity`: the relevance is its
    score, scaled to 0..1 over the items at hand (our choice, so that inner products are weighed like cosines), the
    similarity its largest cosine with an item chosen before.

    Args:
        scores: of the items, best first.
        vectors: `(n, dim)` of the items.
        k: how many to choose.
        diversity: 0 (the order of the scores) to 1 (no regard to the scores after the first).
    """
    count = len(scores)
    relevance = np.asarray(scores, dtype=np.float64)
    spread = relevance.max() - relevance.min() if count else 0.0
    relevance = (relevance - relevance.min()) / spread if spread else np.zeros(count)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    closest = np.full(count, -np.inf)
    left = np.ones(count, bool)
    chosen: list[int] = []
    while len(chosen) < min(k, count):
        penalty = np.where(np.isfinite(closest), closest, 0.0)
        value = np.where(left, (1 - diversity) * relevance - diversity * penalty, -np.inf)
        # The first is the best whatever the diversity.
        place = int(np.argmax(value)) if chosen else int(np.argmax(np.where(left, relevance, -np.inf)))
        chosen.append(place)
        left[place] = False
        closest = np.maximum(closest, units @ units[place])
    return chosen
