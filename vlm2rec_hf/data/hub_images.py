"""Images of a dataset repo: the `Image` feature for everybody, and no cell that makes a reader open something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..columns import IMAGE
from .ingest import items_dataset
from .items import IMAGE_TYPE

if TYPE_CHECKING:
    import datasets


def for_hub(items: datasets.Dataset) -> tuple[datasets.Dataset, str | None]:
    """The items with images as a decoding `Image` feature, and the column that holds names without images.

    Whoever decodes an `Image` cell without bytes opens what its `path` names, on a disk or on the web. A repo of ours
    must make nobody do that, so such names move to a column of plain text; `from_hub` puts them back.
    """
    import datasets

    if IMAGE not in items.column_names:
        return items, None
    label = None
    batches = items.select_columns([IMAGE]).with_format("arrow").iter(batch_size=1024)
    if any(pc.any(_only_named(chunk)).as_py() for batch in batches for chunk in batch[IMAGE].chunks):
        label = "image_path"
        while label in items.column_names:
            label += "_"
        table = (items.flatten_indices() if items._indices is not None else items).data.table
        images, names = [], []
        for chunk in table[IMAGE].chunks:
            only_named = _only_named(chunk)
            names.append(pc.if_else(only_named, pc.struct_field(chunk, "path"), pa.scalar(None, pa.string())))
            images.append(pc.if_else(only_named, pa.scalar(None, IMAGE_TYPE), chunk))
        table = _with_images(table, images).append_column(label, pa.chunked_array(names, type=pa.string()))
        items = items_dataset(table)
    return items.cast_column(IMAGE, datasets.Image()), label


def from_hub(items: datasets.Dataset, label: str | None) -> datasets.Dataset:
    """The inverse of `for_hub`; nothing of the result is ever decoded by `datasets`, whatever the files' features say.

    Raises:
        ValueError: the column that holds the names is not there.
    """
    table = items.data.table
    if label is None:
        return items_dataset(table)
    if label not in table.column_names or IMAGE not in table.column_names:
        raise ValueError(f"The items have no column {label!r}, which `image_path_column` names; push them again.")
    images = []
    for names, cells in zip(*_aligned(table[label], table[IMAGE]), strict=True):
        data, paths = (pc.struct_field(cells, field) for field in ("bytes", "path"))
        paths = pc.coalesce(paths, names)
        nothing = pc.and_(pc.is_null(data), pc.is_null(paths))
        images.append(pa.StructArray.from_arrays([data, paths], fields=list(IMAGE_TYPE), mask=nothing))
    return items_dataset(_with_images(table, images).drop_columns([label]))


def _only_named(cells: pa.Array) -> pa.Array:
    return pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(pc.struct_field(cells, "path")))


def _with_images(table: pa.Table, chunks: list[pa.Array]) -> pa.Table:
    column = pa.chunked_array(chunks, type=IMAGE_TYPE)
    return table.set_column(table.column_names.index(IMAGE), IMAGE, column)


def _aligned(first: pa.ChunkedArray, second: pa.ChunkedArray) -> tuple[list[pa.Array], list[pa.Array]]:
    """Two columns of a table in common chunks."""
    batches = pa.table({"first": first, "second": second}).to_batches()
    return [batch.column(0) for batch in batches], [batch.column(1) for batch in batches]
