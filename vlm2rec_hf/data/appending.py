"""New interactions and items beside those of a dataset: old items keep their places, the split is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import numpy as np
import pyarrow as pa

from ..columns import IMAGE, IMAGE_FEATURES, ITEM_ID, TEXT, TIMESTAMP, USER_ID
from . import quarantine as q
from .feature_column import normalise_features
from .given_split import own_split
from .ids import positions_in
from .ingest import Provenance, speak_of_losses, unit_of
from .interaction_log import POSITION, SPLIT, InteractionLog
from .items import with_text_columns
from .overlap import held_already, without_held
from .text_tables import clean_items
from .timestamps import UNITS
from .validation import CheckedInteractions, Duplicates, UnknownItems, check_interactions, check_items
from .widening import alike

FAR_APART = 100
"""Factor between the medians of two time columns that shows two units (our choice)."""


@dataclass(frozen=True)
class Grown:
    """A dataset's parts after rows came in, not split yet unless the split came with the rows.

    Attributes:
        log: all interactions.
        items: all items, the old ones in their places.
        quarantine: rows of the new tables that were taken out.
        provenance: with the step `append`; timestamps may be in a finer unit than before.
        factor: by what the old timestamps were multiplied.
    """

    log: InteractionLog
    items: pa.Table
    quarantine: pa.Table
    provenance: Provenance
    factor: int


def grow(
    log: InteractionLog,
    items: pa.Table,
    provenance: Provenance,
    events: pa.Table | None,
    catalogue: pa.Table | None,
    *,
    timestamp_unit: str | None,
    duplicates: Duplicates,
    unknown_items: UnknownItems,
    split_column: str | None,
    day_first: bool | None = None,
    text_columns: Sequence[str] | None = None,
) -> Grown:
    """Put new tables beside a dataset's; see `RecDataset.append` for the arguments.

    Args:
        log: the dataset's interactions.
        items: its item table.
        provenance: what it knows of itself.
        events: new interactions under standard names, or None.
        catalogue: new items, likewise.
        timestamp_unit: of `events`.
        duplicates: what happens to new rows that the dataset holds already; all others stay.
        unknown_items: as in `check_interactions`.
        split_column: of `events`, for a dataset whose split was given.
        day_first: as in `check_interactions`.
        text_columns: columns of `catalogue` that make the items' text; by default as the dataset was made.

    Raises:
        ValueError: rows that cannot stand beside the old ones.
    """
    unit_of(timestamp_unit)
    if duplicates not in get_args(Duplicates):
        raise ValueError(f"`duplicates` must be one of {list(get_args(Duplicates))}, got {duplicates!r}.")
    parts: list[pa.Table] = []
    mended: dict[str, int] = {}
    counts = {"new_items": 0, "changed_items": 0}
    if catalogue is not None:
        catalogue, bad = check_items(catalogue)
        parts.append(bad)
        catalogue, mended = clean_items(catalogue, kept=(ITEM_ID, IMAGE))
        made = [step["columns"] for step in provenance.steps if step["step"] == "text_columns"]
        if text_columns is None and made and TEXT not in catalogue.column_names:
            text_columns = made[-1]
        if text_columns is not None:
            catalogue = with_text_columns(catalogue, text_columns)
        items, counts = merge_items(items, catalogue)
        if IMAGE_FEATURES in items.column_names:
            items = normalise_features(items)  # old and new ones have one width
    ids = items[ITEM_ID].combine_chunks().cast(pa.string())
    ids = pa.concat_arrays(ids.chunks) if isinstance(ids, pa.ChunkedArray) else ids
    old = replace(log, item_ids=ids)  # places of old items stay
    given = provenance.split["kind"] == "given"
    if given != (split_column is not None) and events is not None:
        raise ValueError(
            "`split_column` must name the column of the new interactions' split: that of the dataset was given."
            if given
            else f"`split_column` {split_column!r} cannot continue the dataset's split "
            f"{provenance.split['kind']!r}, which is made anew; leave it out."
        )
    unit, factor = provenance.timestamp_unit, 1
    if events is None:
        step = {"step": "append", "new_interactions": 0, **counts}
        after = replace(provenance.after(step), noted=_added(provenance.noted, mended), source=None)
        return Grown(old, items, q.concat(parts), after, factor)
    events, split_column = own_split(events, split_column)
    check = partial(
        check_interactions, item_ids=ids, unknown_items=unknown_items, split_column=split_column, day_first=day_first
    )
    new = check(events)
    speak_of_losses(events, ids, len(new.log), new.quarantine)
    added = new.log.item_ids.slice(len(ids))
    if len(added):
        items = pa.concat_tables([items, pa.table({ITEM_ID: added})], promote_options="default")
        counts["new_items"] += len(added)
    unit, factor, new_factor = _one_unit(old, new, unit, unit_of(timestamp_unit, new.timestamp_unit))
    fresh, parts = new.log, [*parts, new.quarantine]
    if duplicates == "quarantine" and (held := held_already(old, fresh, (factor, new_factor))).any():
        fresh, repeated = without_held(events, held, check)
        parts.append(repeated)
    own = (USER_ID, ITEM_ID, TIMESTAMP, POSITION, SPLIT)
    rows = _concat(alike(_in_ticks(old, factor), _in_ticks(fresh, new_factor), "interactions", own))
    merged = check_interactions(rows, new.log.item_ids, split_column=SPLIT if given else None)
    step = {"step": "append", "new_interactions": len(fresh), **counts}
    # Old rows stand in order: what had to be swapped is known from when they, and the new ones, came in.
    swapped = provenance.noted.get("out_of_order", 0) + new.counts["out_of_order"]
    noted = {**provenance.noted, **merged.counts, "out_of_order": swapped}
    noted = _added(noted, mended)
    after = replace(provenance.after(step), timestamp_unit=unit, noted=noted, source=None)
    return Grown(merged.log, items, q.concat(parts), after, factor)


def _added(noted: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {**noted, **{what: noted.get(what, 0) + number for what, number in more.items()}}


def merge_items(old: pa.Table, new: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Old items in their places, those that `new` changes with their new values, then the others of `new`.

    A column that `new` does not have keeps its values, and is null for new items. One of another type gets a type that
    holds both, see `alike`.

    Args:
        old: with unique ids.
        new: likewise.

    Returns:
        The table, and `new_items` and `changed_items`.

    Raises:
        ValueError: a column of types that cannot stand beside one another.
    """
    old, new = alike(old, new, "items")
    places = positions_in(new[ITEM_ID].combine_chunks(), old[ITEM_ID].combine_chunks().cast(pa.string()))
    known = np.flatnonzero(places >= 0)
    kept = old.take(pa.array(places[known]))
    rows = new.take(pa.array(known))
    for name in old.column_names:
        if name not in rows.column_names:
            rows = rows.append_column(old.schema.field(name), kept[name])
    for name in new.column_names:
        if name not in old.column_names:
            old = old.append_column(name, pa.nulls(len(old), new.schema.field(name).type))
            kept = kept.append_column(name, pa.nulls(len(kept), new.schema.field(name).type))
    rows = rows.select(old.column_names)
    changed = [row for row in range(len(known)) if not rows.slice(row, 1).equals(kept.slice(row, 1))]
    pieces, start = [], 0
    for row in sorted(changed, key=lambda row: places[known[row]]):
        place = int(places[known[row]])
        pieces += [old.slice(start, place - start), rows.slice(row, 1)]
        start = place + 1
    fresh = new.filter(pa.array(places < 0))
    table = pa.concat_tables([*pieces, old.slice(start), fresh], promote_options="default")
    return table.select(old.column_names), {"new_items": len(fresh), "changed_items": len(changed)}


def _one_unit(
    old: InteractionLog, new: CheckedInteractions, was: str | None, is_now: str | None
) -> tuple[str | None, int, int]:
    """The common unit, the finer of the two, and what old and new timestamps are multiplied by.

    Raises:
        ValueError: order by time here and by position there, or units that are not known to be one.
    """
    keys = [{name for name in (TIMESTAMP, POSITION) if name in log.columns} for log in (old, new.log)]
    if keys[0] != keys[1]:
        raise ValueError(
            f"`interactions` are ordered by {sorted(keys[1])}, those of the dataset by {sorted(keys[0])}; give the "
            "same columns."
        )
    before, after = old.timestamp, new.log.timestamp
    if before is None or after is None:
        return was, 1, 1
    if is_now is None:  # numbers: as those before, which a thousandfold step between units would betray
        if _far_apart(before, after):
            raise ValueError(
                f"`interactions` have timestamps around {np.median(after):g}, the dataset around "
                f"{np.median(before):g}: they cannot be of one unit. Say theirs by `timestamp_unit`, or convert them."
            )
        return was, 1, 1
    if was is None:
        raise ValueError(
            f"`timestamp_unit`: the new timestamps are in {is_now!r}, the dataset's are of unknown unit; "
            "build it anew with its `timestamp_unit`."
        )
    if was == is_now:
        return was, 1, 1
    finer = max(was, is_now, key=UNITS.__getitem__)
    return finer, UNITS[finer] // UNITS[was], UNITS[finer] // UNITS[is_now]


def _far_apart(before: np.ndarray, after: np.ndarray) -> bool:
    if not len(before) or not len(after):
        return False
    low, high = sorted([abs(float(np.median(before))), abs(float(np.median(after)))])
    return high > FAR_APART * max(low, 1.0)


def _in_ticks(log: InteractionLog, factor: int) -> pa.Table:
    """All interactions as a table, their timestamps multiplied."""
    if factor == 1 or TIMESTAMP not in log.columns:
        return log.to_table()
    ticks = pa.chunked_array([pa.array(log.columns[TIMESTAMP].to_numpy() * factor)])
    return replace(log, columns={**log.columns, TIMESTAMP: ticks}).to_table()


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"`interactions` have a column of another type than in the dataset: {error}") from error
