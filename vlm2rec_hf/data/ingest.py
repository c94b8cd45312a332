"""From checked tables to the two stored ones: the log of interactions and the item dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import DESCRIPTION, IMAGE, ITEM_ID, TEXT, TITLE, USER_ID
from . import quarantine as q
from .given_split import own_split
from .ids import encode_ids
from .images import check_image_header, try_decode_image
from .interaction_log import InteractionLog
from .items import IMAGE_TYPE, items_from_ids, with_text_columns
from .tables import ColumnMapping, rename, split_mapping, standard_names, to_arrow
from .text_tables import clean_items
from .timestamps import UNITS
from .usefulness import leading_zeros, losses
from .validation import Duplicates, UnknownItems, check_interactions, check_items

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class Source(TypedDict):
    """Where a dataset was loaded from: a dataset repo and the commit (40 hexadecimal digits)."""

    repo_id: str
    revision: str


@dataclass(frozen=True)
class Provenance:
    """What a dataset knows about itself besides its rows.

    Attributes:
        name: short name for reports, or None.
        timestamp_unit: a key of `UNITS`, or None where unknown (or order only).
        split: how the split was made, as plain data; `{"kind": "none"}` before any.
        steps: what was done to the rows since they came in, oldest first, with counts.
        noted: oddities that were kept: as the tables came in, or, after a filter, of what is left.
        source: the Hub revision it was loaded from, or None. Filters and splits keep it: the data comes from there,
            and the fingerprint shows whether it still equals that revision.
    """

    name: str | None = None
    timestamp_unit: str | None = None
    split: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    steps: tuple[dict[str, Any], ...] = ()
    noted: dict[str, int] = field(default_factory=dict)
    source: Source | None = None

    def after(
        self, step: dict[str, Any], split: dict[str, Any] | None = None, noted: dict[str, int] | None = None
    ) -> Provenance:
        """The provenance after one more step, with another split and other oddities if given."""
        return replace(
            self,
            steps=(*self.steps, step),
            split=self.split if split is None else split,
            noted=self.noted if noted is None else noted,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "timestamp_unit": self.timestamp_unit,
            "split": self.split,
            "steps": list(self.steps),
            "noted": self.noted,
            "source": None if self.source is None else dict(self.source),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """The inverse of `to_dict`; unknown keys are left out."""
        # Folders saved by earlier versions do not record a source.
        source = data.get("source")
        return cls(data["name"], data["timestamp_unit"], data["split"], tuple(data["steps"]), data["noted"], source)


def ingest(
    interactions: Any,
    items: Any,
    *,
    name: str | None,
    column_mapping: ColumnMapping | None,
    timestamp_unit: str | None,
    duplicates: Duplicates,
    unknown_items: UnknownItems,
    split_column: str | None,
    day_first: bool | None,
    quarantine: pa.Table | None,
    text_columns: Sequence[str] | None = None,
    noted: Mapping[str, int] | None = None,
) -> tuple[InteractionLog, datasets.Dataset, pa.Table, Provenance]:
    """Check, sort and code raw tables; see `RecDataset.from_tables` for the arguments.

    Raises:
        ValueError: no row in `interactions`, or as `check_interactions` and `check_items`.
    """
    unit_of(timestamp_unit)
    ids = standard_names(column_mapping, (USER_ID, ITEM_ID))
    events = to_arrow(interactions, "interactions", ids)
    catalogue = None if items is None else to_arrow(items, "items", ids)
    for_events, for_items = split_mapping(column_mapping, events, catalogue)
    events = rename(events, for_events, "interactions")
    events, split_column = own_split(events, split_column)
    parts = [] if quarantine is None else [quarantine]
    if not events.num_rows:
        raise ValueError(_empty(events.column_names, q.concat(parts)))
    item_ids, counts, steps = None, dict(noted or {}), []
    if catalogue is not None:
        catalogue, taken_out = check_items(rename(catalogue, for_items, "items"))
        parts.append(taken_out)
        item_ids = _one_array(catalogue[ITEM_ID])
        catalogue, mended = clean_items(catalogue, kept=(ITEM_ID, IMAGE))
        counts |= {what: counts.get(what, 0) + number for what, number in mended.items()}
    if text_columns is not None:
        if catalogue is None:
            raise ValueError(f"`text_columns` = {list(text_columns)} names columns of `items`, and there are none.")
        columns = text_columns if isinstance(text_columns, str) else [for_items.get(c, c) for c in text_columns]
        catalogue = with_text_columns(catalogue, columns)
        steps.append({"step": "text_columns", "columns": columns})
    elif catalogue is not None and {TITLE, DESCRIPTION} <= set(names := catalogue.column_names) and TEXT not in names:
        logger.warning(
            "Only the column `title` is read as the text of an item, not `description`; name both in `text_columns` "
            "to take both."
        )
    checked = check_interactions(
        events,
        item_ids,
        duplicates=duplicates,
        unknown_items=unknown_items,
        split_column=split_column,
        day_first=day_first,
    )
    unit = unit_of(timestamp_unit, checked.timestamp_unit)
    parts.append(checked.quarantine)
    taken_out = q.concat(parts)
    speak_of_losses(events, item_ids, len(checked.log), taken_out)
    catalogue = _extend(catalogue, checked.log.item_ids)
    split = {"kind": "none"} if split_column is None else {"kind": "given", "column": split_column}
    provenance = Provenance(name, unit, split, tuple(steps), {**checked.counts, **counts})
    return checked.log, items_dataset(catalogue), taken_out, provenance


def unit_of(timestamp_unit: str | None, stated: str | None = None) -> str | None:
    """The unit of a table's timestamps, or None where unknown.

    Args:
        timestamp_unit: what the user says of them.
        stated: what they say themselves, where they are dates and times.

    Raises:
        ValueError: an unknown unit, or one for dates and times.
    """
    if timestamp_unit is not None and timestamp_unit not in UNITS:
        raise ValueError(f"`timestamp_unit` must be one of {list(UNITS)} or None, got {timestamp_unit!r}.")
    if timestamp_unit is not None and stated is not None:
        raise ValueError(
            f"`timestamp_unit` {timestamp_unit!r} says how to read numbers, but `timestamp` holds dates and times, "
            "which say it themselves; leave it out."
        )
    return timestamp_unit or stated


def speak_of_losses(events: pa.Table, item_ids: pa.Array | None, kept: int, taken_out: pa.Table) -> None:
    """Log what made many rows useless.

    Args:
        events: the interactions as they came.
        item_ids: those of `items`, if there are any.
        kept: interactions that are usable.
        taken_out: the quarantine.

    Raises:
        ValueError: there were interactions, and none is usable.
    """
    counts = q.counts(taken_out)
    hint = None
    if item_ids is not None and "unknown_item" in counts:
        hint = leading_zeros(encode_ids(events[ITEM_ID], ITEM_ID)[1], item_ids)
    if not kept and events.num_rows:
        raise ValueError(_nothing_left(events.num_rows, taken_out, item_ids) + (f" {hint}" if hint else ""))
    kept += 0 if item_ids is None else len(item_ids)
    for sentence in [*([hint] if hint else []), *losses(counts, kept)]:
        logger.warning(sentence)


def _empty(columns: list[str], quarantine: pa.Table) -> str:
    if not quarantine.num_rows:
        return (
            f"`interactions` is empty: its columns are {columns}, and it has no row. Give a table with at least one "
            "interaction: who took what, and when."
        )
    return (
        f"No interaction is left: `interactions` has no row that could be read, and {quarantine.num_rows:,} lines "
        f"went to the quarantine ({_reasons(quarantine)}). The first: {quarantine['row'][0].as_py()[:300]}. Check "
        "the file, its `separator` and its `encoding`."
    )


def _reasons(quarantine: pa.Table) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in q.counts(quarantine).items())


def _nothing_left(rows: int, quarantine: pa.Table, item_ids: pa.Array | None) -> str:
    reasons = _reasons(quarantine)
    words = f"No interaction is left: none of the {rows:,} rows of `interactions` can be used ({reasons}). "
    words += f"The first row set aside: {quarantine['row'][0].as_py()[:300]}. "
    if item_ids is not None and "unknown_item" in reasons:
        words += f"The ids of `items` look like {item_ids.slice(0, 3).to_pylist()}. "
    return words + "Check the columns (`column_mapping`), and that both tables write their ids alike."


def items_dataset(table: pa.Table) -> datasets.Dataset:
    """An item table as a `datasets.Dataset` whose images stay encoded."""
    import datasets

    table = table.replace_schema_metadata(None)
    features = datasets.Features.from_arrow_schema(table.schema)
    if IMAGE in features:
        features[IMAGE] = datasets.Image(decode=False)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def find_broken_images(items: datasets.Dataset, *, full: bool, max_pixels: int) -> dict[int, str]:
    """Row and reason of every image that cannot be used.

    Args:
        items: the item dataset.
        full: decode the pixels; else look at the headers only (much faster, misses truncated files).
        max_pixels: as in `decode_image`.
    """
    broken: dict[int, str] = {}
    if IMAGE not in items.column_names:
        return broken
    row = 0
    for batch in items.select_columns([IMAGE]).with_format("arrow").iter(batch_size=64):
        for cell in batch[IMAGE].to_pylist():
            if cell is not None and cell["bytes"]:
                reason = (
                    try_decode_image(cell["bytes"], max_pixels)[1]
                    if full
                    else check_image_header(cell["bytes"], max_pixels)
                )
                if reason is not None:
                    broken[row] = reason
            row += 1
    return broken


def without_images(items: datasets.Dataset, broken: dict[int, str]) -> tuple[datasets.Dataset, pa.Table]:
    """The items with the `broken` images set to null, and these images (with their ids) for the quarantine."""
    rows = np.array(sorted(broken), dtype=np.int64)
    flat = items.flatten_indices() if items._indices is not None else items
    table = flat.data.table
    parts = []
    for row in rows.tolist():
        image = table.slice(row, 1).select([ITEM_ID, IMAGE])
        parts.append(q.of_rows(image, np.array([row]), table="items", reason=f"image:{broken[row]}", column=IMAGE))
    lost = np.zeros(table.num_rows, dtype=bool)
    lost[rows] = True
    chunks, start = [], 0
    for chunk in table[IMAGE].chunks:
        mask = pa.array(lost[start : start + len(chunk)])
        chunks.append(pc.if_else(mask, pa.scalar(None, IMAGE_TYPE), chunk))
        start += len(chunk)
    column = pa.chunked_array(chunks, type=IMAGE_TYPE)
    return items_dataset(table.set_column(table.column_names.index(IMAGE), IMAGE, column)), q.concat(parts)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    return whole


def _extend(table: pa.Table | None, item_ids: pa.Array) -> pa.Table:
    """The catalogue with a bare row for every id that only the interactions know."""
    if table is None:
        return items_from_ids(item_ids)
    if len(item_ids) == table.num_rows:
        return table
    bare = items_from_ids(item_ids.slice(table.num_rows))
    return pa.concat_tables([table, bare], promote_options="default")
