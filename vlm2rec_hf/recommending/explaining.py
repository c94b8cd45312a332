"""Why an item is recommended: exact shares of its score, and which items of the history pull it up.

With external fusion a user is `a t_u + b i_u` (text and image vectors, weighted) and an item `a t + b i`. Their cosine
is a sum of four inner products over the product of the two lengths, so each has an exact share. A share may be
negative. Score options without cross terms leave two of them out, and a popularity prior is one more share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..columns import SCORED
from ..evaluation.score_options import ScoreOptions
from ..indexing.rows import IndexFacts
from ..indexing.scoring import Query, exact_scores, lengths
from .view_weights import make_query

IN_WORDS = {
    "text_text": "the text of the history with the item's text",
    "text_image": "the text of the history with the item's image",
    "image_text": "the images of the history with the item's text",
    "image_image": "the images of the history with the item's image",
    "both": "the history with the item",
    "popularity": "how often the item was seen in training",
}


@dataclass(frozen=True)
class Pull:
    """What one item of the history does for a score.

    Attributes:
        place: in the history as given, 0 is the oldest.
        item_id: raw id; None for a new item.
        without: the score after the history without it; None where nothing is left.
        pull: the score minus that; positive where the item pulls up.
    """

    place: int
    item_id: str | None
    without: float | None
    pull: float


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    Attributes:
        item_id: raw id.
        score: of the item after the history.
        shares: exact parts of the score, which add up to it: `text_text` (user text with item text), `text_image`,
            `image_text`, `image_image`; or one part (`both`, `text_text`, `image_image`) where the model has one
            vector per item, or one view counts. Score options without cross terms: `text_text` and `image_image`;
            with a popularity prior, `popularity` beside them.
        pulls: of the history's items that are read, the strongest first.
    """

    item_id: str
    score: float
    shares: dict[str, float]
    pulls: list[Pull] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """One sentence: the largest share, and what of the history pulls most."""
        best = max(self.shares, key=lambda name: self.shares[name])
        text = f"Mostly {IN_WORDS.get(best, best)} ({self.shares[best]:.3g} of {self.score:.3g})"
        if self.pulls and self.pulls[0].pull > 0:
            first = self.pulls[0]
            name = "a new item" if first.item_id is None else f"item {first.item_id}"
            text += f"; of the history {name} pulls most (+{first.pull:.3g})"
        return text + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        pulls = [{"place": p.place, "item_id": p.item_id, "without": p.without, "pull": p.pull} for p in self.pulls]
        return {
            "item_id": self.item_id, "score": self.score, "shares": dict(self.shares), "pulls": pulls,
            "reason": self.reason,
        }  # fmt: skip


def shares_of(
    user: Mapping[str, np.ndarray], item: Mapping[str, np.ndarray], weights: Mapping[str, float], facts: IndexFacts
) -> dict[str, float]:
    """Exact parts of one score, in double precision; they add up to it.

    Args:
        user: view -> `(dim,)`.
        item: view -> `(dim,)`.
        weights: as `checked_weights` gives them.
        facts: of the index.
    """
    if SCORED in weights:
        return _shares_of_score(user, item, facts)
    if facts.metric == "inner":
        return {"both": float(sum((user[v].astype(np.float64) * item[v]).sum() for v in weights))}
    if weights == {"both": 1.0} and facts.summed and {"text", "image"} <= item.keys() & user.keys():
        weights = {"text": 1.0, "image": 1.0}
    length = float(_length(user, weights) * _length(item, weights))
    if not length:
        return dict.fromkeys((_name(a, b) for a in weights for b in weights), 0.0)
    return {
        _name(mine, theirs): weights[mine] * weights[theirs]
        * float((user[mine].astype(np.float64) * item[theirs].astype(np.float64)).sum()) / length
        for mine in weights for theirs in weights
    }  # fmt: skip


def _shares_of_score(
    user: Mapping[str, np.ndarray], item: Mapping[str, np.ndarray], facts: IndexFacts
) -> dict[str, float]:
    """Exact parts of a score by score options: of the content, and `popularity` where there is a prior."""
    options = ScoreOptions.from_dict(facts.scoring or {})
    mine, theirs = user[SCORED].astype(np.float64), item[SCORED].astype(np.float64)
    prior = {}
    if options.popularity_prior:
        prior = {"popularity": float(mine[-1] * theirs[-1])}
        mine, theirs = mine[:-1], theirs[:-1]
    weights = {view: weight**0.5 for view, weight in options.view_weights.items() if weight}
    if not options.cross_terms:  # the vectors of text and of image side by side, which keep what is asked for
        parts = zip(options.view_weights, np.split(mine, 2), np.split(theirs, 2), strict=True)
        shares = {_name(view, view): float((ours * other).sum()) for view, ours, other in parts if view in weights}
    elif facts.summed and set(weights) <= item.keys() & user.keys():
        shares = shares_of(user, item, weights, facts)
    else:
        shares = {"both": float((mine * theirs).sum())}
    return shares | prior


def windows(histories: Sequence[Sequence[Any]], longest: int) -> list[tuple[int, int | None, list[Any]]]:
    """Every history as it is read, and once without each of its items: `(history, place left out, entries)`."""
    found: list[tuple[int, int | None, list[Any]]] = []
    for number, history in enumerate(histories):
        first = max(0, len(history) - longest)
        window = list(history[first:])
        found.append((number, None, window))
        for i in range(len(window)):
            found.append((number, first + i, [*window[:i], *window[i + 1 :]]))
    return found


class Explainer:
    """Explains items for some histories, which are encoded once, with every item left out in turn.

    Args:
        side: encodes.
        histories: known entries, oldest first, none empty.
        weights: as `checked_weights` gives them.
    """

    def __init__(self, side: Any, histories: Sequence[Sequence[Any]], weights: Mapping[str, float]) -> None:
        self.histories, self.weights, self.facts = histories, weights, side.index.facts
        self._windows = windows(histories, side.longest)
        self._users = side.user_views([entries for _, _, entries in self._windows])
        total = sum(np.abs(self._users[view]).sum(axis=1) for view in weights)
        self._says = np.asarray(total) > 0
        self._queries: dict[int, Query] = {}

    def explain(self, number: int, item_id: str, vectors: Mapping[str, np.ndarray]) -> Explanation:
        """Why an item has its score after one of the histories.

        Args:
            number: of the history.
            item_id: raw id.
            vectors: view -> `(dim,)` of the item.
        """
        rows = [i for i, (history, _, _) in enumerate(self._windows) if history == number]
        whole = rows[0]
        shares = shares_of({v: m[whole] for v, m in self._users.items()}, vectors, self.weights, self.facts)
        score = sum(shares.values())
        items = {view: matrix[None] for view, matrix in vectors.items()}
        pulls = []
        for row in rows[1:]:
            place = self._windows[row][1]
            assert place is not None
            entry = self.histories[number][place]
            without = self._score(row, items) if self._says[row] else None
            pull = score if without is None else score - without
            pulls.append(Pull(place, entry if isinstance(entry, str) else None, without, pull))
        pulls.sort(key=lambda one: -one.pull)
        return Explanation(item_id, score, shares, pulls)

    def _score(self, row: int, items: Mapping[str, np.ndarray]) -> float:
        if row not in self._queries:
            part = {view: matrix[row : row + 1] for view, matrix in self._users.items()}
            self._queries[row] = make_query(part, self.weights, self.facts)
        return float(exact_scores(self._queries[row], 0, items)[0])


def _name(mine: str, theirs: str) -> str:
    return "both" if mine == theirs == "both" else f"{mine}_{theirs}"


def _length(vectors: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> float:
    return float(lengths({view: vectors[view][None] for view in weights}, weights)[0])
