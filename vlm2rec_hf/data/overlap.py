"""New interactions that a dataset holds already, as exports that overlap bring them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ..columns import TIMESTAMP
from . import quarantine as q
from .ids import positions_in
from .interaction_log import POSITION, InteractionLog
from .validation import CheckedInteractions


def held_already(old: InteractionLog, new: InteractionLog, factors: tuple[int, int]) -> np.ndarray:
    """Which new events equal an old one in user, item, timestamp and position: `(len(new),)` bool.

    Args:
        old: the dataset's interactions.
        new: over the same catalogue, which may have grown at its end, and ordered by the same columns.
        factors: what old and new timestamps are multiplied by, so that both are of one unit.
    """
    users = positions_in(new.user_ids, old.user_ids)
    places = np.full(len(old.user_ids), -1, dtype=np.int64)
    places[users[users >= 0]] = np.flatnonzero(users >= 0)
    theirs = np.flatnonzero(places[old.user] >= 0)  # only users of the new rows can have their events
    is_new = np.repeat([False, True], [len(theirs), len(new)])
    keys = [np.concatenate([places[old.user[theirs]], new.user]), np.concatenate([old.item[theirs], new.item])]
    for name in (TIMESTAMP, POSITION):
        if name in old.columns:
            by = factors if name == TIMESTAMP else (1, 1)
            pair = [log.columns[name].to_numpy() * factor for log, factor in zip((old, new), by, strict=True)]
            keys.append(np.concatenate([pair[0][theirs], pair[1]]))
    order = np.lexsort((is_new, *keys))  # of equal events an old one comes first
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.logical_or.reduce([key[order[1:]] != key[order[:-1]] for key in keys])
    group = np.cumsum(first) - 1
    held = np.zeros(len(order), dtype=bool)
    held[order] = ~is_new[order[first]][group]
    return held[is_new]


def without_held(
    events: pa.Table, held: np.ndarray, check: Callable[[pa.Table], CheckedInteractions]
) -> tuple[InteractionLog, pa.Table]:
    """The usable new interactions without those that are held already, and these for the quarantine, as they came.

    Args:
        events: the new interactions as they came.
        held: of the usable ones, in stored order.
        check: makes these of `events`.
    """
    name = "number"
    while name in events.column_names:
        name += "_"
    log = check(events.append_column(name, pa.array(np.arange(len(events))))).log
    rows = log.columns.pop(name).to_numpy()[held]
    bad = q.of_rows(events.take(pa.array(rows)), rows, table="interactions", reason="duplicate", column=None)
    return log.keep(~held), bad
