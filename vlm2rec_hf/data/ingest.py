"""From checked tables to the two stored ones: the log of interactions and the item dataset."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import IMAGE, ITEM_ID
from . import quarantine as q
from .ids import encode_ids
from .images import check_image_header, try_decode_image
from .interaction_log import InteractionLog
from .items import IMAGE_TYPE, items_from_ids
from .tables import ColumnMapping, rename, split_mapping, to_arrow
from .timestamps import UNITS
from .usefulness import leading_zeros, losses, reasons
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
        noted: oddities counted when the tables came in.
        source: the Hub revision it was loaded from, or None. Filters and splits keep it: the data comes from there,
            and the fingerprint shows whether it still equals that revision.
    """

    name: str | None = None
    timestamp_unit: str | None = None
    split: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    steps: tuple[dict[str, Any], ...] = ()
    noted: dict[str, int] = field(default_factory=dict)
    source: Source | None = None

    def after(self, step: dict[str, Any], split: dict[str, Any] | None = None) -> Provenance:
        """The provenance after one more step."""
        return replace(self, steps=(*self.steps, step), split=self.split if split is None else split)

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
    quarantine: pa.Table | None,
) -> tuple[InteractionLog, datasets.Dataset, pa.Table, Provenance]:
    """Check, sort and code raw tables; see `RecDataset.from_tables` for the arguments.

    Raises:
        ValueError: as `check_interactions` and `check_items`.
    """
    if timestamp_unit is not None and timestamp_unit not in UNITS:
        raise ValueError(f"`timestamp_unit` must be one of {list(UNITS)} or None, got {timestamp_unit!r}.")
    events = to_arrow(interactions, "interactions")
    catalogue = None if items is None else to_arrow(items, "items")
    for_events, for_items = split_mapping(column_mapping, events, catalogue)
    events = rename(events, for_events, "interactions")
    parts = [] if quarantine is None else [quarantine]
    item_ids = None
    if catalogue is not None:
        catalogue, taken_out = check_items(rename(catalogue, for_items, "items"))
        parts.append(taken_out)
        item_ids = _one_array(catalogue[ITEM_ID])
    checked = check_interactions(
        events, item_ids, duplicates=duplicates, unknown_items=unknown_items, split_column=split_column
    )
    parts.append(checked.quarantine)
    taken_out = q.concat(parts)
    speak_of_losses(events, item_ids, len(checked.log), taken_out)
    catalogue = _extend(catalogue, checked.log.item_ids)
    split = {"kind": "none"} if split_column is None else {"kind": "given", "column": split_column}
    provenance = Provenance(name, timestamp_unit or checked.timestamp_unit, split, (), checked.counts)
    return checked.log, items_dataset(catalogue), taken_out, provenance


def speak_of_losses(events: pa.Table, item_ids: pa.Array | None, kept: int, taken_out: pa.Table) -> None:
    """Log what made many rows useless.

    Raises:
        ValueError: there were interactions, and none is usable.
    """
    counts = q.counts(taken_out)
    hint = None
    if item_ids is not None and "unknown_item" in counts:
        hint = leading_zeros(encode_ids(events[ITEM_ID], ITEM_ID)[1], item_ids)
    if events.num_rows and not kept:
        raise ValueError(
            f"None of the {events.num_rows:,} interactions is usable: {reasons(counts)}."
            + (f" {hint}" if hint else "")
        )
    kept += 0 if item_ids is None else len(item_ids)
    for sentence in [*([hint] if hint else []), *losses(counts, kept)]:
        logger.warning(sentence)


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
