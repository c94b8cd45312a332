"""The item column `image_features`: what an image encoder made of each item's image, checked and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import IMAGE_FEATURES, ITEM_ID

if TYPE_CHECKING:
    import datasets

_BLOCK = 8192  # rows at a time: places in a list have 31 bits
FEATURES_TYPE = pa.list_(pa.list_(pa.float32()))


def normalise_features(table: pa.Table) -> pa.Table:
    """An item table whose `image_features` are lists of float32 vectors; null where an item has no image.

    A list of numbers is one vector. Nothing is mended: features are made by a program, and a wrong one is its error.

    Raises:
        ValueError: something else than numbers, an empty or missing vector, vectors of different widths, or a number
            that is not finite; with the first such item.
    """
    at = table.column_names.index(IMAGE_FEATURES)
    column = table[IMAGE_FEATURES]
    depth, kind = 0, column.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        depth, kind = depth + 1, kind.value_type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if pa.types.is_null(column.type) or (depth in (1, 2) and pa.types.is_null(kind) and not _longest(column)):
        return table.set_column(at, IMAGE_FEATURES, pa.chunked_array([pa.nulls(table.num_rows, FEATURES_TYPE)]))
    if depth not in (1, 2) or not numbers:
        raise ValueError(
            f"`{IMAGE_FEATURES}` of the items must hold list<float> or list<list<float>>, got {column.type}; give "
            "every item one vector or several of one width, or null."
        )
    width: int | None = None
    chunks = []
    for start in range(0, table.num_rows, _BLOCK):
        block = pa.chunked_array(column.slice(start, _BLOCK).chunks, type=column.type).combine_chunks()
        made, width = _checked_block(block, depth, width, table, start)
        chunks.append(made)
    return table.set_column(at, IMAGE_FEATURES, pa.chunked_array(chunks, type=FEATURES_TYPE))


def has_features(table: pa.Table) -> np.ndarray:
    """Whether each row has features of an image: `(n,)` bool."""
    if IMAGE_FEATURES not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return pc.is_valid(table[IMAGE_FEATURES]).to_numpy()


class FeatureColumn:
    """The features of a dataset's items, read one by one.

    Args:
        items: the item table, with the column as `normalise_features` leaves it.
    """

    def __init__(self, items: datasets.Dataset) -> None:
        self._rows = items.select_columns([IMAGE_FEATURES]).with_format("arrow")

    def __getitem__(self, index: int) -> np.ndarray | None:
        """`(n, width)` float32, or `None` without an image."""
        cell = self._rows[index : index + 1][IMAGE_FEATURES]
        if cell.null_count:
            return None
        vectors = pa.concat_arrays(cell.chunks).flatten()
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(vectors), -1).astype(np.float32)


def _longest(column: pa.ChunkedArray) -> int:
    return pc.max(pc.list_value_length(column)).as_py() or 0


def _checked_block(
    chunk: pa.Array, depth: int, width: int | None, table: pa.Table, start: int
) -> tuple[pa.Array, int | None]:
    """Some rows as `FEATURES_TYPE`, and the width of their vectors."""
    kind = chunk.type.value_type
    chunk = chunk.cast(pa.list_(pa.list_(kind.value_type) if depth == 2 else kind))
    counts = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
    present = pc.is_valid(chunk).to_numpy(zero_copy_only=False)
    owners = np.flatnonzero(present)

    def refuse(row: int, what: str) -> None:
        raise ValueError(
            f"`{IMAGE_FEATURES}` of item {table[ITEM_ID][start + int(row)].as_py()!r} {what}; give every item one "
            "vector or several, all of one width and finite, or null where there is no image."
        )

    if (bad := present & (counts == 0)).any():
        refuse(np.flatnonzero(bad)[0], "is an empty list")
    vectors = chunk.flatten()
    if depth == 2:
        owners = np.repeat(owners, counts[present])
        lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy(zero_copy_only=False)
        values = vectors.flatten()
    else:
        lengths, values = counts[present], vectors
    if len(lengths):
        width = int(lengths[0]) if width is None else width
        if (bad := lengths != width).any():
            first = np.flatnonzero(bad)[0]
            refuse(owners[first], f"has a vector of {lengths[first]} numbers where others have {width}")
    flat = values.cast(pa.float64()).to_numpy(zero_copy_only=False)  # a null is NaN there
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    if not np.isfinite(flat).all():
        first = np.flatnonzero(~np.isfinite(flat))[0]
        refuse(owners[first // (width or 1)], f"holds {values[int(first)].as_py()} as a number")
    per_item = np.where(present, counts if depth == 2 else 1, 0)
    inner = np.arange(len(lengths) + 1, dtype=np.int32) * np.int32(width or 0)
    rows = pa.ListArray.from_arrays(pa.array(inner), pa.array(flat))
    outer = np.concatenate([[0], np.cumsum(per_item)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(outer), rows, mask=pa.array(~present)), width
