"""Checks on raw tables: what is unusable goes to the quarantine with a reason, what is merely odd is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import ITEM_ID, TIMESTAMP, USER_ID
from . import quarantine as q
from .ids import encode_ids, id_strings, positions_in
from .interaction_log import POSITION, SPLIT, InteractionLog, order_users, sort_order
from .items import normalise_items
from .sequences import SPLIT_CODES, TRAIN
from .tables import header_hint
from .timestamps import Parsed, parse_timestamps

Duplicates = Literal["keep", "quarantine"]
UnknownItems = Literal["quarantine", "keep"]

# In the order in which they are looked for: a row has one reason, the first that applies.
_REASONS = [
    ("null_user_id", USER_ID),
    ("null_item_id", ITEM_ID),
    ("bad_timestamp", TIMESTAMP),
    ("bad_position", POSITION),
    ("bad_split", SPLIT),
    ("unknown_item", ITEM_ID),
]


@dataclass(frozen=True)
class CheckedInteractions:
    """Usable interactions in stored order, what was taken out, and what was odd.

    Attributes:
        log: the usable interactions.
        quarantine: the others.
        counts: `duplicates`, `out_of_order` (neighbours that the sort had to swap), `equal_timestamps` (an event at
            the same time as the user's previous one) and, of these, `ties_by_row_order` (not settled by `position`;
            an existing split may have).
        timestamp_unit: if the input states it.
    """

    log: InteractionLog
    quarantine: pa.Table
    counts: dict[str, int]
    timestamp_unit: str | None


def check_items(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Item rows with a unique, non-null string `item_id`, in their order, and the quarantine of the others.

    Of several rows with one id the first is kept. Items without text and image stay: heads that learn from ids
    alone can use them, and `Coverage` counts them.

    Raises:
        ValueError: no `item_id` column, or a column of the wrong type.
    """
    require_columns(table, "items", [ITEM_ID])
    table = normalise_items(table)
    ids = id_strings(table[ITEM_ID], ITEM_ID)
    table = table.set_column(table.column_names.index(ITEM_ID), ITEM_ID, ids)
    missing = pc.is_null(ids).to_numpy(zero_copy_only=False)
    codes = pc.fill_null(pc.dictionary_encode(ids).indices, -1).to_numpy(zero_copy_only=False)
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    repeated = ~first & ~missing
    parts = [
        _taken_out(table, missing, "items", "null_item_id", ITEM_ID),
        _taken_out(table, repeated, "items", "duplicate_item_id", ITEM_ID),
    ]
    bad = missing | repeated
    # `filter` works chunk by chunk, so images of more than 2 GiB together are no problem.
    return (table.filter(pa.array(~bad)) if bad.any() else table), q.concat(parts)


def check_interactions(
    table: pa.Table,
    item_ids: pa.Array | None,
    *,
    duplicates: Duplicates = "keep",
    unknown_items: UnknownItems = "quarantine",
    split_column: str | None = None,
    day_first: bool | None = None,
) -> CheckedInteractions:
    """Check, code and sort raw interactions.

    Args:
        table: the rows, with standard column names.
        item_ids: catalogue; None to make one of the ids that occur, in ascending order.
        duplicates: what happens to a row whose user, item, timestamp (and position) an earlier row already has.
        unknown_items: what happens to a row with an item outside the catalogue; "keep" adds the item at its end.
        split_column: column with an existing split (codes or names) to take over; None to start all in train.
        day_first: how to read timestamps such as `3/4/2024`; None: as the column settles it.

    Raises:
        ValueError: missing columns, wrong types, unknown options, timestamps that can be read in two ways, or a split
            that goes back in time.
    """
    _check_option("duplicates", duplicates, ("keep", "quarantine"))
    _check_option("unknown_items", unknown_items, ("quarantine", "keep"))
    require_columns(table, "interactions", [USER_ID, ITEM_ID])
    if TIMESTAMP not in table.column_names and POSITION not in table.column_names:
        require_columns(table, "interactions", [TIMESTAMP])
    user, user_ids = encode_ids(table[USER_ID], USER_ID)
    raw_item, raw_ids = encode_ids(table[ITEM_ID], ITEM_ID)
    item, catalogue = _catalogue_codes(raw_item, raw_ids, item_ids, unknown_items)
    times = parse_timestamps(table[TIMESTAMP], day_first=day_first) if TIMESTAMP in table.column_names else None
    position = _whole_numbers(table[POSITION], POSITION) if POSITION in table.column_names else None
    split = _split_codes(table, split_column)

    reason = np.full(table.num_rows, -1, dtype=np.int8)
    tests = [user < 0, raw_item < 0]
    tests += [~x.ok if x is not None else np.zeros(len(user), dtype=bool) for x in (times, position, split)]
    for code, failed in enumerate([*tests, item < 0]):
        reason[failed & (reason < 0)] = code
    parts = [
        _taken_out(table, reason == code, "interactions", name, column) for code, (name, column) in enumerate(_REASONS)
    ]
    rows: np.ndarray | None = np.flatnonzero(reason < 0) if (reason >= 0).any() else None

    def pick(values: np.ndarray) -> np.ndarray:
        return values if rows is None else values[rows]

    user, item = pick(user), pick(item)
    user, user_ids = order_users(user, user_ids)
    keys = [pick(x.values) for x in (times, position) if x is not None]
    # Where nothing else tells events apart, an existing split does.
    order = sort_order(user, keys if split is None else [*keys, pick(split.values)])
    out_of_order = 0
    if order is not None:
        user, item, keys = user[order], item[order], [key[order] for key in keys]
        out_of_order = int(np.sum((order[1:] < order[:-1]) & (user[1:] == user[:-1])))
        rows = order if rows is None else rows[order]
    again = repeated_events(user, item, keys)
    oddities = count_oddities(user, item, keys, times is not None, again)
    counts = {"out_of_order": out_of_order, **oddities}
    columns = _columns(table, rows, times, position, keys, split_column)
    codes = (
        np.full(len(user), TRAIN, dtype=np.int8) if split is None else pick_rows(split.values, rows).astype(np.int8)
    )
    log = InteractionLog(user_ids, catalogue, user, item, codes, columns)
    _check_split(log, split_column)

    if duplicates == "quarantine" and again.any():
        places = np.flatnonzero(again) if rows is None else rows[again]
        parts.append(
            q.of_rows(table.take(pa.array(places)), places, table="interactions", reason="duplicate", column=None)
        )
        log = log.keep(~again)
    return CheckedInteractions(log, q.concat(parts), counts, times.unit if times is not None else None)


def require_columns(table: pa.Table, argument: str, needed: list[str]) -> None:
    """Raise a ValueError that names the first missing column, the columns there are, and the remedy."""
    for name in needed:
        if name not in table.column_names:
            also = f" (or `{POSITION}`, the order within each user)" if name == TIMESTAMP else ""
            raise ValueError(
                f"`{argument}` has no column `{name}`{also}; its columns are {table.column_names}. Name the column to "
                f"use with `column_mapping={{'<your column>': '{name}'}}`.{header_hint(table.column_names)}"
            )


def repeated_events(user: np.ndarray, item: np.ndarray, keys: list[np.ndarray]) -> np.ndarray:
    """Which events equal an earlier one in user, item and all `keys`: `(n,)` bool. Sorted by user and keys."""
    again = np.zeros(len(user), dtype=bool)
    tied = _same_as_previous([user, *keys])
    # Only members of a group of simultaneous events can repeat one another; usually few.
    member = tied.copy()
    member[:-1] |= tied[1:]
    places = np.flatnonzero(member)
    if len(places):
        group = np.cumsum(~tied)[places]
        order = np.lexsort((places, item[places], group))
        group, items = group[order], item[places][order]
        again[places[order[1:][(group[1:] == group[:-1]) & (items[1:] == items[:-1])]]] = True
    return again


def pick_rows(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """`values[rows]`, or `values` untouched where `rows` is None."""
    return values if rows is None else values[rows]


def _check_option(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{argument}` must be one of {list(allowed)}, got {value!r}.")


def _taken_out(table: pa.Table, mask: np.ndarray, name: str, reason: str, column: str) -> pa.Table:
    if not mask.any():
        return q.empty()
    return q.of_rows(table.filter(pa.array(mask)), np.flatnonzero(mask), table=name, reason=reason, column=column)


def _catalogue_codes(
    raw_item: np.ndarray, raw_ids: pa.Array, item_ids: pa.Array | None, unknown_items: str
) -> tuple[np.ndarray, pa.Array]:
    if item_ids is None:
        # A vocabulary may hold ids that no row uses any more (a filtered dictionary column).
        used = raw_ids.filter(pa.array(np.bincount(raw_item[raw_item >= 0], minlength=len(raw_ids)) > 0))
        item_ids = used.take(pc.sort_indices(used))
    elif unknown_items == "keep":
        used = raw_ids.filter(pa.array(np.bincount(raw_item[raw_item >= 0], minlength=len(raw_ids)) > 0))
        new = used.filter(pa.array(positions_in(used, item_ids) < 0))
        item_ids = pa.concat_arrays([item_ids, new.take(pc.sort_indices(new))])
    lookup = np.append(positions_in(raw_ids, item_ids), np.int32(-1))
    return lookup[raw_item], item_ids


def _whole_numbers(column: pa.ChunkedArray, name: str) -> Parsed:
    parsed = parse_timestamps(column, argument=name) if not pa.types.is_temporal(column.type) else None
    if parsed is None or parsed.unit is not None or not np.issubdtype(parsed.values.dtype, np.integer):
        raise ValueError(f"`{name}` must hold whole numbers, got {column.type}; cast it first.")
    return parsed


def _split_codes(table: pa.Table, name: str | None) -> Parsed | None:
    if name is None:
        return None
    require_columns(table, "interactions", [name])
    # By the rule of ids 1, 1.0 and "1" are one value, whatever the column's type.
    values, distinct = encode_ids(table[name], name)
    names = SPLIT_CODES | {str(code): code for code in SPLIT_CODES.values()}
    codes = np.array([*(names.get(value, -1) for value in distinct.to_pylist()), -1], dtype=np.int64)[values]
    return Parsed(codes, codes >= 0, None)


def _check_split(log: InteractionLog, split_column: str | None) -> None:
    back = np.flatnonzero((log.split[1:] < log.split[:-1]) & (log.user[1:] == log.user[:-1]))
    if len(back):
        raise ValueError(
            f"The existing split of `split_column` {split_column!r} goes back in time, first for the user "
            f"{log.user_ids[log.user[back[0]]].as_py()!r} (for instance train after test): a history would hold what "
            "came later. Pass `split_column=None` and split the dataset again."
        )


def _same_as_previous(keys: list[np.ndarray]) -> np.ndarray:
    same = np.zeros(len(keys[0]), dtype=bool)
    same[1:] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return same


def count_oddities(
    user: np.ndarray, item: np.ndarray, keys: list[np.ndarray], has_time: bool, again: np.ndarray | None = None
) -> dict[str, int]:
    """`duplicates`, `equal_timestamps` and `ties_by_row_order` of sorted interactions, see `CheckedInteractions`.

    Args:
        user: `(n,)` codes in stored order.
        item: `(n,)` likewise.
        keys: what orders a user's events: `(n,)` each.
        has_time: whether the first key is the time.
        again: what `repeated_events` says of them, if known.
    """
    again = repeated_events(user, item, keys) if again is None else again
    return {
        "duplicates": int(again.sum()),
        "equal_timestamps": int(_same_as_previous([user, keys[0]]).sum()) if has_time else 0,
        "ties_by_row_order": int(_same_as_previous([user, *keys]).sum()),
    }


def _columns(
    table: pa.Table,
    rows: np.ndarray | None,
    times: Parsed | None,
    position: Parsed | None,
    keys: list[np.ndarray],
    split_column: str | None,
) -> dict[str, pa.ChunkedArray]:
    """Everything but ids and split, in stored order: the sort keys as parsed, the others as they came."""
    columns: dict[str, pa.ChunkedArray] = {}
    remaining = iter(keys)
    if times is not None:
        columns[TIMESTAMP] = pa.chunked_array([pa.array(next(remaining))])
    if position is not None:
        columns[POSITION] = pa.chunked_array([pa.array(next(remaining))])
    taken = {USER_ID, ITEM_ID, TIMESTAMP, POSITION, SPLIT, split_column}
    picked = None if rows is None else pa.array(rows)
    for name in table.column_names:
        if name not in taken:
            column = table[name]
            columns[name] = column if picked is None else column.take(picked)
    return columns
