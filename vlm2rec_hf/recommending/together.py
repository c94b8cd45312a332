"""Several questions with options of their own, answered together: their histories are encoded in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modeling.items_vlm2rec import as_item
from .shop_lists import ListOptions, ShopRecommendation, known_entries, shop_lists, similar_lists

if TYPE_CHECKING:
    from .recommender import Recommender

Answer = ShopRecommendation | Exception
Entries = Sequence[Any]


@dataclass(frozen=True)
class Question:
    """What one asks for.

    Attributes:
        entries: a history, oldest first: ids, and of encoders new items `{"text", "image"}`. Of `similar`: one item.
        options: how the list is made.
        similar: ask for what is like the item instead.
        user: whose history it is, where that is known: an embedder that keeps histories runs only what is new of it.
    """

    entries: Entries
    options: ListOptions
    similar: bool = False
    user: str | None = None


def answer_together(recommender: Recommender, questions: Sequence[Question]) -> list[Answer]:
    """Answer questions as `Recommender.recommend` and `similar` would, each by itself, in fewer passes.

    Args:
        recommender: any; lists come from its index, in memory where none was named.
        questions: in any mixture.

    Returns:
        Per question its list, or the error that it alone raises.
    """
    side: Any = recommender.side
    side.follow()
    answers: list[Answer | None] = [None] * len(questions)
    known: dict[int, list[Any]] = {}
    new: list[Mapping[str, Any]] = []
    for i, one in enumerate(questions):
        try:
            if one.similar:
                new += [as_item(dict(entry)) for entry in one.entries if isinstance(entry, Mapping)]
            else:
                (known[i],), _ = known_entries(side, [one.entries], one.options.on_unknown)
        except (ValueError, TypeError) as error:
            answers[i] = error
    ahead = _EncodedAhead(side, [(row, questions[i].user) for i, row in known.items() if row], new)
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(questions):
        if answers[i] is None:
            groups.setdefault(_key_of_options(one), []).append(i)
    for places in groups.values():
        one = questions[places[0]]

        def work(rows: Sequence[Entries], one: Question = one) -> list[ShopRecommendation]:
            if one.similar:
                return similar_lists(ahead, [row[0] for row in rows], one.options)
            return shop_lists(ahead, rows, one.options)

        for i, answer in zip(places, each(work, [questions[i].entries for i in places]), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def each(work: Callable[[list[Any]], list[Any]], rows: Sequence[Any]) -> list[Any]:
    """Do work on all rows at once; where that fails, on each alone, so that one's error is only its own.

    Args:
        work: rows -> one result per row.
        rows: what is worked on.

    Returns:
        Results, and the errors of those that raise one, of whatever kind.
    """
    try:
        return list(work(list(rows)))
    except Exception as error:  # handed to who asked
        if len(rows) == 1:
            return [error]
    return [result for row in rows for result in each(work, [row])]


class _EncodedAhead:
    """A side of a recommender that was asked for some vectors already, all in one pass."""

    def __init__(
        self, side: Any, histories: Sequence[tuple[Entries, str | None]], items: Sequence[Mapping[str, Any]]
    ) -> None:
        self._side = side
        whose = {_key(history): user for history, user in histories}
        encode = partial(side.user_views, users=list(whose.values()))
        self._users = _rows_ahead(encode, {_key(history): history for history, _ in histories})
        self._items = _rows_ahead(side.item_views, {_key([item]): item for item in items})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)

    def follow(self) -> None:
        """Nothing: the side has followed."""

    def user_views(self, histories: Sequence[Entries]) -> dict[str, np.ndarray]:
        """As the side's own."""
        return _found(self._users, [_key(history) for history in histories]) or self._side.user_views(histories)

    def item_views(self, sources: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """As the side's own."""
        return _found(self._items, [_key([source]) for source in sources]) or self._side.item_views(sources)


def _rows_ahead(encode: Callable[[list[Any]], dict[str, np.ndarray]], entries: Mapping[Any, Any]) -> dict[Any, Any]:
    """Key -> view -> vector; nothing where one of them cannot be encoded: then each is asked for by itself."""
    if not entries:
        return {}
    try:
        views = encode(list(entries.values()))
    except (ValueError, TypeError):
        return {}
    return {key: {view: matrix[row] for view, matrix in views.items()} for row, key in enumerate(entries)}


def _found(rows: Mapping[Any, Any], keys: Sequence[Any]) -> dict[str, np.ndarray] | None:
    if not keys or any(key not in rows for key in keys):
        return None
    return {view: np.stack([rows[key][view] for key in keys]) for view in rows[keys[0]]}


def _key(entries: Entries) -> tuple[Any, ...]:
    """The same for the same entries, whatever mapping a new item stands in."""
    shown = ("image", "image_features")
    return tuple(e if isinstance(e, str) else (e.get("text"), *(id(e.get(name)) for name in shown)) for e in entries)


def _key_of_options(one: Question) -> str:
    return json.dumps({**vars(one.options), "similar": one.similar}, sort_keys=True, default=repr)
