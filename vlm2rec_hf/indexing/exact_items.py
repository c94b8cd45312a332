"""Items in memory (or mapped from a file), searched exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .rows import IndexFacts, take_rows, vectors_of
from .scoring import NEAR, Query, divided, exact_scores, lengths

if TYPE_CHECKING:
    import pyarrow as pa

SCORES_AT_ONCE = 2**25
ROWS_AT_ONCE = 2**14
Found = tuple[list[str], np.ndarray]


class ExactItems:
    """A table of items that is compared with every question whole.

    Args:
        table: the rows of an index; only the columns that are used are read.
        facts: of the index.
    """

    def __init__(self, table: pa.Table, facts: IndexFacts) -> None:
        self.table, self.facts = table.combine_chunks(), facts
        self.ids: list[str] = self.table["item_id"].to_pylist()
        self.place = {item: i for i, item in enumerate(self.ids)}
        self.vectors = {view: vectors_of(self.table, view) for view in facts.views}
        self._lengths: dict[tuple[tuple[str, float], ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, item_ids: Sequence[str]) -> set[str]:
        """Which of some items are here."""
        return {item for item in item_ids if item in self.place}

    def rows(self, item_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in their order; unknown ones are left out."""
        table = self.table if columns is None else self.table.select(["item_id", *columns])
        return take_rows(table, [self.place[item] for item in item_ids if item in self.place])

    def all_ids(self) -> list[str]:
        """Every id, in order."""
        return self.ids

    def search(
        self,
        query: Query | None,
        k: int,
        *,
        condition: Any = None,
        within: Sequence[Sequence[str]] | None = None,
        without: Sequence[Sequence[str]] | None = None,
        hidden: frozenset[str] | set[str] = frozenset(),
        n_questions: int = 1,
    ) -> list[Found]:
        """The best items of every question, in no order, some more than `k` where scores are close.

        Args:
            query: what is searched for; None: the most popular items.
            k: how many.
            condition: on the metadata.
            within: per question, ids to choose among.
            without: per question, ids to leave out.
            hidden: ids that are left out always.
            n_questions: how many, where `query` is None.

        Returns:
            Per question ids and scores `(m,)` in double precision.
        """
        count = n_questions if query is None else len(query)
        if not self.ids:
            return [([], np.zeros(0))] * count
        barred = np.zeros(len(self.ids), bool) if condition is None else ~condition.mask(self.table)
        barred[self._places(hidden)] = True
        found: list[Found] = []
        at_once = max(1, SCORES_AT_ONCE // len(self.ids))
        for start in range(0, count, at_once):
            rows = range(start, min(count, start + at_once))
            block = self._scores(query, rows)
            for row, scores in zip(rows, block, strict=True):
                out = barred if within is None else self._outside(barred, within[row])
                scores = np.array(scores)
                scores[out] = -np.inf
                if without is not None:
                    scores[self._places(without[row])] = -np.inf
                found.append(self._best(query, row, scores, k))
        return found

    def _scores(self, query: Query | None, rows: range) -> np.ndarray:
        """`(rows, n)` in single precision."""
        if query is None:
            popularity = self.table["_popularity"].to_numpy().astype(np.float64)
            return np.broadcast_to(popularity, (len(rows), len(self.ids)))
        part = slice(rows.start, rows.stop)
        scores = sum(vectors[part] @ self.vectors[view].T for view, vectors in query.vectors.items())
        return np.asarray(scores if query.weights is None else scores * self.inverse_lengths(query.weights))

    def inverse_lengths(self, weights: Mapping[str, float]) -> np.ndarray:
        """One over the lengths of the items' weighted sums, 0 for a zero sum; kept for the last few weights."""
        key = tuple(sorted(weights.items()))
        if key not in self._lengths:
            while len(self._lengths) >= 8:
                self._lengths.pop(next(iter(self._lengths)))
            parts = (slice(start, start + ROWS_AT_ONCE) for start in range(0, len(self.ids), ROWS_AT_ONCE))
            pieces = [lengths({v: self.vectors[v][part] for v in weights}, weights) for part in parts]
            norms = np.concatenate(pieces)
            self._lengths[key] = divided(np.ones(len(norms)), norms).astype(np.float32)
        return self._lengths[key]

    def _best(self, query: Query | None, row: int, scores: np.ndarray, k: int) -> Found:
        if k < len(scores):
            border = np.partition(scores, len(scores) - k)[len(scores) - k]
            near = NEAR * max(1.0, float(scores.max())) if scores.max() > -np.inf else 0.0
            chosen = np.flatnonzero((scores >= border - near) & (scores > -np.inf))
        else:
            chosen = np.flatnonzero(scores > -np.inf)
        if query is not None:
            scores = exact_scores(query, row, {view: self.vectors[view][chosen] for view in self._needed(query)})
        else:
            scores = scores[chosen]
        return [self.ids[i] for i in chosen], scores

    def _needed(self, query: Query) -> set[str]:
        return {*query.vectors, *(query.weights or ())}

    def _places(self, items: Any) -> list[int]:
        return [self.place[item] for item in items if item in self.place]

    def _outside(self, barred: np.ndarray, items: Sequence[str]) -> np.ndarray:
        inside = np.zeros(len(self.ids), bool)
        inside[self._places(items)] = True
        return barred | ~inside
