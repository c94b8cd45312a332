"""Lists for a shop, over an index: filters, candidates, groups, diversity, reasons; for any kind of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..columns import SCORED
from ..indexing.scoring import Query
from ..modeling.catalogue_seqrec import Recommendation
from ..modeling.items_vlm2rec import as_item
from .explaining import Explainer, Explanation
from .list_rules import best_of_groups, diversified
from .view_weights import bare_weights, checked_weights, make_query

POOL = 10
"""With diversity the list is chosen from this many times `k` best items (our choice)."""


@dataclass
class ShopRecommendation(Recommendation):
    """A `Recommendation` from an index.

    Attributes:
        metadata: what the index knows of each item: `item_id`, its columns, `text`.
        reasons: one `Explanation` per item where `explain` was asked for, else None.
    """

    metadata: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[Explanation] | None = None

    __repr__ = Recommendation.__repr__


@dataclass(frozen=True)
class ListOptions:
    """How lists are made; see `Recommender.recommend`."""

    k: int = 10
    exclude_seen: bool = True
    candidates: Sequence[Any] | None = None
    on_unknown: str = "error"
    filter: Mapping[str, Any] | None = None
    group_by: str | None = None
    diversity: float = 0.0
    explain: bool = False
    view_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"`k` must be at least 1, got {self.k!r}.")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"`diversity` must lie between 0 and 1, got {self.diversity!r}.")
        if self.on_unknown not in ("error", "skip"):
            raise ValueError(f"`on_unknown` must be 'error' or 'skip', got {self.on_unknown!r}.")


def shop_lists(side: Any, histories: Sequence[Sequence[Any]], options: ListOptions) -> list[ShopRecommendation]:
    """The best items after each history.

    Args:
        side: `EncoderSide` or `HeadSide`.
        histories: raw ids, and of encoders new items `{"text", "image"}`, oldest first.
        options: how.

    Raises:
        ValueError: unknown ids, a history that says nothing, or options that the index cannot fulfil.
    """
    side.follow()
    index = side.index
    _check_group(index, options)
    weights = checked_weights(options.view_weights, index.facts, side.view)
    known, unknown = known_entries(side, histories, options.on_unknown)
    within = _candidates(index, options, len(known))
    seen = [[entry for entry in history if isinstance(entry, str)] for history in known]
    without = seen if options.exclude_seen else None
    lists: list[ShopRecommendation | None] = [None] * len(known)
    popular = [i for i, history in enumerate(known) if not history]
    ranked = [i for i, history in enumerate(known) if history]
    for chosen, query in ((popular, None), (ranked, _query(side, [known[i] for i in ranked], weights))):
        if not chosen:
            continue
        limits = {
            "candidates": None if within is None else [within[i] for i in chosen],
            "exclude": None if without is None else [without[i] for i in chosen],
        }
        for i, (ids, scores) in zip(
            chosen, _arranged(index, query, len(chosen), weights, options, limits), strict=True
        ):
            metadata = index.metadata(ids)
            titles = [row.get("title") or row["text"] for row in metadata]
            source = "popularity" if query is None else "model"
            lists[i] = ShopRecommendation(ids, scores, titles, source, unknown[i], metadata)
    if options.explain:
        _explain(side, known, lists, weights, ranked)
    return [one for one in lists if one is not None]


def known_entries(side: Any, histories: Sequence[Sequence[Any]], on_unknown: str) -> tuple[list[list[Any]], list[int]]:
    """Histories without unknown ids, new items checked; and how many ids each lost.

    Raises:
        ValueError: an unknown id (`on_unknown="error"`), or something that is no history.
    """
    if isinstance(histories, str):
        raise ValueError(f"`histories` must be a list of lists of item ids, got the text {histories!r}.")
    for history in histories:
        if isinstance(history, (str, Mapping)):
            raise ValueError(f"`histories` must hold lists of items, got {history!r:.100}; wrap it in a list.")
    rows = [[_entry(entry) for entry in history] for history in histories]
    ids = sorted({entry for row in rows for entry in row if isinstance(entry, str)})
    there = side.knows(ids)
    lost = [item for item in ids if item not in there]
    if lost and on_unknown == "error":
        raise ValueError(
            f"`histories` names {len(lost)} items that the catalogue of {len(side.index)} does not hold, such as "
            f"{lost[0]!r}; leave them out with on_unknown='skip', or put them into the index."
        )
    known = [[entry for entry in row if not isinstance(entry, str) or entry in there] for row in rows]
    return known, [len(row) - len(kept) for row, kept in zip(rows, known, strict=True)]


def _entry(entry: Any) -> Any:
    """An id as text, a new item checked."""
    return as_item(entry) if isinstance(entry, Mapping) else str(entry)


def _check_group(index: Any, options: ListOptions) -> None:
    if options.group_by is not None and options.group_by not in index.facts.columns:
        raise ValueError(f"`group_by` is {options.group_by!r}, and the index has {sorted(index.facts.columns)}.")


def _candidates(index: Any, options: ListOptions, count: int) -> list[list[str]] | None:
    """The candidates of every history."""
    given = options.candidates
    if given is None:
        return None
    if isinstance(given, str):
        raise ValueError(f"`candidates` must be a list of item ids, got the text {given!r}; wrap it in a list.")
    nested = len(given) > 0 and not isinstance(given[0], str) and isinstance(given[0], Sequence)
    if nested and len(given) != count:
        raise ValueError(f"`candidates` must hold one list per history ({count}), got {len(given)}.")
    lists = [[str(item) for item in one] for one in (given if nested else [given] * count)]
    wanted = sorted({item for one in lists for item in one})
    there = index.has(wanted)
    lost = [item for item in wanted if item not in there]
    if lost and options.on_unknown == "error":
        raise ValueError(
            f"`candidates` names {len(lost)} items that the catalogue of {len(index)} does not hold, such as "
            f"{lost[0]!r}; leave them out with on_unknown='skip'."
        )
    return lists


def _query(side: Any, histories: list[list[Any]], weights: Mapping[str, float]) -> Query | None:
    return make_query(side.user_views(histories), weights, side.index.facts) if histories else None


def _arranged(
    index: Any, query: Query | None, count: int, weights: Mapping[str, float], options: ListOptions,
    limits: Mapping[str, Any],
) -> list[tuple[list[str], list[float]]]:  # fmt: skip
    """Ids and scores per question, grouped and diversified; more is searched for until the lists are full."""
    size = options.k * (POOL if options.diversity else 1)
    wanted = size
    while True:
        hits = index.search(query, size, filter=options.filter, n_questions=count, **limits)
        lists, short = [], False
        for one in hits:
            ids, scores = one.item_ids, one.scores
            if options.group_by is not None:
                rows = index.rows(ids, [options.group_by])
                places = best_of_groups(rows[options.group_by].to_pylist())
                ids, scores = [ids[i] for i in places], [scores[i] for i in places]
            short |= len(ids) < wanted and len(one.item_ids) >= size
            lists.append((ids[:wanted], scores[:wanted]))
        if not short:
            break
        size *= 4
    if not options.diversity:
        return lists
    return [_diverse(index, ids, scores, weights, options) for ids, scores in lists]


def _diverse(
    index: Any, ids: list[str], scores: list[float], weights: Mapping[str, float], options: ListOptions
) -> tuple[list[str], list[float]]:
    found = index.vectors(ids)
    alike = bare_weights(weights, index.facts)
    vectors = np.asarray(sum(weight * found[view] for view, weight in alike.items()))
    places = diversified(scores, vectors, options.k, options.diversity)
    return [ids[i] for i in places], [scores[i] for i in places]


def _explain(
    side: Any,
    histories: list[list[Any]],
    lists: list[ShopRecommendation | None],
    weights: Mapping[str, float],
    ranked: list[int],
) -> None:
    """Put reasons into the lists."""
    for one in lists:
        if one is not None and one.source == "popularity":
            one.reasons = [
                Explanation(item, score, {"popularity": score})
                for item, score in zip(one.item_ids, one.scores, strict=True)
            ]
    if not ranked:
        return
    explainer = Explainer(side, [histories[i] for i in ranked], weights)
    for number, i in enumerate(ranked):
        one = lists[i]
        assert one is not None
        found = side.index.vectors(one.item_ids)
        one.reasons = [
            explainer.explain(number, item, {view: matrix[row] for view, matrix in found.items()})
            for row, item in enumerate(one.item_ids)
        ]


def similar_lists(side: Any, items: Sequence[Any], options: ListOptions) -> list[ShopRecommendation]:
    """The items most like each item, by the cosine of their vectors; score options do not enter, least the prior.

    Args:
        side: `EncoderSide` or `HeadSide`.
        items: raw ids, or of encoders new items `{"text", "image"}`.
        options: how; what is listed never holds the item itself.
    """
    side.follow()
    index = side.index
    if isinstance(items, (str, Mapping)):
        raise ValueError(f"`items` must be a list of ids or new items, got {items!r:.100}; wrap it in a list.")
    _check_group(index, options)
    if not len(items):
        return []
    weights = checked_weights(options.view_weights, index.facts, "both" if side.view == SCORED else side.view)
    entries = [_entry(entry) for entry in items]
    ids = [entry for entry in entries if isinstance(entry, str)]
    known = index.vectors(ids)
    new = [entry for entry in entries if not isinstance(entry, str)]
    fresh = side.item_views(new) if new else {view: np.zeros((0, n)) for view, n in index.facts.views.items()}
    rows = {view: [iter(known[view]), iter(fresh[view])] for view in weights}
    vectors = {
        view: np.stack([next(parts[not isinstance(entry, str)]) for entry in entries]) for view, parts in rows.items()
    }
    cosine = replace(index.facts, metric="cosine")
    query = make_query(vectors, weights, cosine, "items")
    limits = {
        "candidates": _candidates(index, options, len(entries)),
        "exclude": [[entry] if isinstance(entry, str) else [] for entry in entries],
    }
    lists = []
    for found, scores in _arranged(index, query, len(entries), weights, options, limits):
        metadata = index.metadata(found)
        titles = [row.get("title") or row["text"] for row in metadata]
        lists.append(ShopRecommendation(found, scores, titles, "model", 0, metadata))
    return lists


def explain_item(
    side: Any, history: Sequence[Any], item: str, view_weights: Mapping[str, float] | None, on_unknown: str
) -> Explanation:
    """Why an item has its score after a history; see `Recommender.explain`."""
    side.follow()
    weights = checked_weights(view_weights, side.index.facts, side.view)
    (known,), _ = known_entries(side, [history], on_unknown)
    if not known:
        raise ValueError("`history` holds no known item: what is recommended then is what is popular.")
    found = side.index.vectors([str(item)])
    _query(side, [known], weights)  # says what is wrong with a history that says nothing
    return Explainer(side, [known], weights).explain(0, str(item), {view: m[0] for view, m in found.items()})
