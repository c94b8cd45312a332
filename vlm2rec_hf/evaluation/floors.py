"""Floors: what needs no gradient. A model's number means little until these stand beside it.

Each is a `BlockScorer` built from what is trained on (counts; `Sequences.trained`) and the examples' own histories
(inputs). All score in float64 with the training count as the last tie-breaker, scaled below one step of the main score
(item-kNN's and EASE's are rounded to steps of 1e-9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sequences import Examples, Sequences
from .ease import EASEScorer
from .interaction_matrix import popularity_below_one
from .item_knn import ItemKNNScorer
from .ranking import Ranking, rank_targets
from .scorers import BlockScorer
from .seen import SeenItems

if TYPE_CHECKING:
    import scipy.sparse


class PopularityScorer:
    """Every user gets the items by number of training interactions.

    Args:
        examples: what is ranked; `examples.sequences` gives the training counts.
    """

    def __init__(self, examples: Examples) -> None:
        self._counts = examples.sequences.train_counts().astype(np.float64)
        self._n = len(examples)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self._counts)

    def __len__(self) -> int:
        return self._n

    def scores(self, rows: slice) -> np.ndarray:
        """Training counts, the same in each row: `(b, n_items)` float64."""
        return np.tile(self._counts, (rows.stop - rows.start, 1))


class RepeatLastScorer:
    """The user's last item first, then earlier ones by recency, then the rest by popularity.

    With `exclude_seen` the items it would repeat are no candidates, and it becomes popularity; to see how far plain
    repetition goes, rank this floor *and* the models with `exclude_seen=False`.

    Args:
        examples: what is ranked; the whole history counts, not only the last `max_history` items.
    """

    def __init__(self, examples: Examples) -> None:
        self._seen = SeenItems.from_examples(examples)
        self._popularity = popularity_below_one(examples.sequences.train_counts())

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self._popularity)

    def __len__(self) -> int:
        return len(self._seen)

    def scores(self, rows: slice) -> np.ndarray:
        """`1 + place in the history` for repeated items, popularity in [0, 1) for the rest: `(b, n_items)` float64."""
        scores = np.tile(self._popularity, (rows.stop - rows.start, 1))
        index = np.arange(rows.start, rows.stop)
        position, items = self._seen.pairs(index)
        lengths = self._seen.stops[index] - self._seen.starts[index]
        place = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # Of an item bought twice the later place must win, whatever order NumPy writes in.
        np.maximum.at(scores, (position, items), 1.0 + place)
        return scores


class TransitionScorer:
    """First-order Markov chain: how often an item followed the user's last one in training, then popularity.

    Args:
        examples: what is ranked; transitions are counted between neighbours of one user that are both trained on,
            and applied to the last item before each target.
    """

    def __init__(self, examples: Examples) -> None:
        sequences = examples.sequences
        self._transitions = count_transitions(sequences)
        self._popularity = popularity_below_one(sequences.train_counts())
        has_history = examples.position > sequences.offsets[examples.user]
        previous = sequences.items[np.maximum(examples.position - 1, 0)] if len(examples) else np.zeros(0)
        self._last = np.where(has_history, previous, -1).astype(np.int64)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self._popularity)

    def __len__(self) -> int:
        return len(self._last)

    def scores(self, rows: slice) -> np.ndarray:
        """Transition counts plus popularity in [0, 1): `(b, n_items)` float64; popularity alone without a history."""
        last = self._last[rows]
        scores = self._transitions[np.maximum(last, 0)].toarray().astype(np.float64)
        scores[last < 0] = 0.0
        return scores + self._popularity


def count_transitions(sequences: Sequences) -> scipy.sparse.csr_array:
    """How often item `j` directly follows item `i` in what is trained on: sparse `(n_items, n_items)` int64."""
    import scipy.sparse

    items, offsets = sequences.training_part()
    starts = offsets[1:-1]
    within = np.ones(max(len(items) - 1, 0), dtype=bool)
    within[starts[(starts > 0) & (starts < len(items))] - 1] = False  # pairs that cross from one user to the next
    source, target = items[:-1][within], items[1:][within]
    shape = (sequences.n_items, sequences.n_items)
    return scipy.sparse.coo_array((np.ones(len(source), dtype=np.int64), (source, target)), shape=shape).tocsr()


FLOORS: dict[str, Callable[[Examples], BlockScorer]] = {
    "popularity": PopularityScorer,
    "repeat_last": RepeatLastScorer,
    "transitions": TransitionScorer,
    "item_knn": ItemKNNScorer,
    "ease": EASEScorer,
}


def fit_floors(examples: Examples) -> dict[str, BlockScorer]:
    """Every floor, ready to rank `examples`; EASE takes seconds to minutes where the catalogue is large."""
    return {name: make(examples) for name, make in FLOORS.items()}


def floor_settings(floors: Mapping[str, BlockScorer]) -> dict[str, dict[str, Any]]:
    """What fitted floors were fitted with, of those that have settings: plain JSON values."""
    return {name: dict(settings) for name, floor in floors.items() if (settings := getattr(floor, "settings", None))}


def rank_floors(
    examples: Examples,
    *,
    k: int = 20,
    exclude_seen: bool = True,
    floors: Mapping[str, BlockScorer] | None = None,
) -> dict[str, Ranking]:
    """Every floor ranked under one protocol.

    Args:
        examples: what is ranked.
        k: length of the top lists.
        exclude_seen: leave items of the history out of the candidates (then `repeat_last` equals popularity).
        floors: as `fit_floors(examples)` made them, to rank them more than once.

    Returns:
        Name of the floor -> its `Ranking`.
    """
    fitted = fit_floors(examples) if floors is None else floors
    return {name: rank_targets(floor, examples, k=k, exclude_seen=exclude_seen) for name, floor in fitted.items()}
