"""Items with a list of images: the first that is there becomes the item's image, and the others are counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import IMAGE

logger = logging.getLogger(__name__)

IMAGES = "images"
"""A column of this name that holds images is read where there is no column `image`."""


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds a list per row."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def named_image(table: pa.Table) -> pa.Table:
    """The table, with a column `images` that holds images (bytes, not addresses) called `image`."""
    if IMAGE in table.column_names or IMAGES not in table.column_names:
        return table
    kind = table.schema.field(IMAGES).type
    inner = kind.value_type if is_list(kind) else kind
    holds_bytes = pa.types.is_binary(inner) or pa.types.is_large_binary(inner)
    if not holds_bytes and not (pa.types.is_struct(inner) and inner.get_field_index("bytes") >= 0):
        return table
    return table.rename_columns([IMAGE if name == IMAGES else name for name in table.column_names])


def first_images(column: pa.ChunkedArray, normalise: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.ChunkedArray:
    """One image per row of a column of lists: of those with bytes the first, else the first that is named.

    Args:
        column: of lists.
        normalise: a column of single images -> `struct<bytes, path>`.
    """
    chunks, several = [], 0
    for chunk in column.chunks:
        flat = normalise(pa.chunked_array([chunk.flatten()])).combine_chunks()
        flat = pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat
        parents = pc.list_parent_indices(chunk).to_numpy()
        there = pc.is_valid(flat).to_numpy(zero_copy_only=False)
        full = pc.fill_null(pc.greater(pc.binary_length(pc.struct_field(flat, "bytes")), 0), False)
        full = full.to_numpy(zero_copy_only=False)
        place = np.full(len(chunk), -1, dtype=np.int64)
        for usable in (there, full):
            rows, first = np.unique(parents[usable], return_index=True)
            place[rows] = np.flatnonzero(usable)[first]
        several += int((np.bincount(parents[full], minlength=len(chunk)) > 1).sum())
        chunks.append(flat.take(pa.array(place, mask=place < 0)))
    if several:
        logger.warning(
            "%d items have several images; the first of each is its image, the others are not read.", several
        )
    return pa.chunked_array(chunks, type=chunks[0].type) if chunks else normalise(pa.chunked_array([], pa.binary()))


def image_cells(
    name: str, values: Sequence[Any], cell: Callable[[Any, int], Any], kind: pa.DataType
) -> pa.Array | None:
    """A column of Python objects as images, or lists of them; `None` if it holds something else.

    Args:
        name: the column's: `image` holds images unless it is all strings; `images` if any of its entries is one.
        values: one per row.
        cell: an image and its row -> `{bytes, path}`.
        kind: Arrow type of a cell.
    """
    if name == IMAGE:
        if all(isinstance(value, str) or value is None for value in values):
            return None
    elif name != IMAGES or not any(map(_is_image, (one for value in values for one in _several(value)))):
        return None
    if not any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return pa.array([cell(value, row) for row, value in enumerate(values)], type=kind)
    rows = [None if value is None else [cell(one, row) for one in _several(value)] for row, value in enumerate(values)]
    return pa.array(rows, type=pa.list_(kind))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _is_image(value: Any) -> bool:
    from PIL import Image

    from .images import ImagePath

    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), (bytes, bytearray, memoryview))
    return isinstance(value, (Image.Image, ImagePath, bytes, bytearray, memoryview))
