"""What one item is (`Item`), and how any item table becomes the one shape stored here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import DESCRIPTION, IMAGE, IMAGE_FEATURES, ITEM_ID, TEXT, TITLE
from .feature_column import normalise_features
from .image_lists import first_images, is_list, named_image
from .images import ImageError, ImagePath, encode_png
from .text import joined
from .text_tables import is_string, text_column

if TYPE_CHECKING:
    from PIL import Image

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Item(TypedDict):
    """One item as the processor takes it. `text` is always text, never a path or an address to open.

    `image_features` `(n, width)` is there where the dataset has such a column; then `image` is, where it has that.
    """

    text: str | None
    image: NotRequired[Image.Image | None]
    image_features: NotRequired[np.ndarray | None]


def text_of(row: Mapping[str, Any]) -> str | None:
    """The text of an item row: its `text`, else its `title`; blank counts as none."""
    for column in (TEXT, TITLE):
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            return value
    return None


def with_text_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The item table with a `text` that is made of columns, in this order; what an item lacks is left out.

    Args:
        table: with standard names, its texts cleaned.
        columns: at least one; `text` itself may be among them.

    Raises:
        ValueError: a column that is not there, is named twice, or holds no text.
    """
    known = [name for name in table.column_names if name not in (ITEM_ID, IMAGE)]
    if isinstance(columns, str) or not columns or not set(columns) <= set(known) or len({*columns}) < len(columns):
        raise ValueError(
            f"`text_columns` must be a list of different columns of the items, got {columns!r}; there are {known}."
        )
    parts = [text_column(table[name], name).to_pylist() for name in columns]
    text = pa.chunked_array([pa.array([joined(cells) for cells in zip(*parts, strict=True)], pa.string())])
    if TEXT in table.column_names:
        return table.set_column(table.column_names.index(TEXT), TEXT, text)
    return table.append_column(TEXT, text)


def text_sources(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """The columns of an item table that are read as its text, first choice first, and the other columns of text."""
    texts = [
        field.name
        for field in schema
        if is_string(field.type.value_type if hasattr(field.type, "value_type") else field.type)
    ]
    read = [name for name in (TEXT, TITLE) if name in texts]
    return read, [name for name in texts if name not in (ITEM_ID, IMAGE, *read)]


def has_text(table: pa.Table) -> np.ndarray:
    """Whether each row has a text by the rule of `text_of`: `(n,)` bool."""
    with_text = np.zeros(table.num_rows, dtype=bool)
    for column in (TEXT, TITLE):
        if column in table.column_names:
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table[column])), 0)
            with_text |= ~pc.fill_null(blank, True).to_numpy()
    return with_text


def has_image(table: pa.Table) -> np.ndarray:
    """Whether each row carries image bytes: `(n,)` bool. Says nothing about whether they decode."""
    if IMAGE not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return pc.fill_null(pc.greater(pc.binary_length(_field(table, "bytes")), 0), False).to_numpy()


def has_only_image_path(table: pa.Table) -> np.ndarray:
    """Whether each row names an image file without carrying its bytes: `(n,)` bool. Such files are not opened."""
    if IMAGE not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return pc.is_valid(_field(table, "path")).to_numpy() & ~has_image(table)


def _field(table: pa.Table, name: str) -> pa.ChunkedArray:
    chunks = [pc.struct_field(chunk, name) for chunk in table[IMAGE].chunks]
    return pa.chunked_array(chunks, type=IMAGE_TYPE.field(name).type)


def normalise_items(table: pa.Table) -> pa.Table:
    """Cast the known columns of an item table: texts to string, images to `{bytes, path}`. `item_id` is left alone.

    Raises:
        ValueError: an image column of strings, a text column that `text_column` refuses, or features that
            `normalise_features` refuses.
    """
    table = named_image(table)
    for index, name in enumerate(table.column_names):
        if name == IMAGE:
            table = table.set_column(index, IMAGE, normalise_images(table[IMAGE]))
        elif name == IMAGE_FEATURES:
            table = normalise_features(table)
        elif name in (TITLE, TEXT, DESCRIPTION):
            table = table.set_column(index, name, text_column(table[name], name))
    return table


def normalise_images(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """An image column as `struct<bytes: binary, path: string>`, chunk by chunk, so that it may exceed 2 GiB.

    Of a list of images the first one that is there is taken.

    Raises:
        ValueError: the column holds strings (addresses or paths), which are never opened, or something else.
    """
    kind = column.type
    if is_list(kind):
        return first_images(column, normalise_images)
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), IMAGE_TYPE)])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raise ValueError(
            "`image` of the items holds strings; strings are never opened or fetched. Give the images' bytes, a "
            "{'bytes', 'path'} struct, or rows with `ImagePath(...)` values; or drop or rename the column."
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.chunked_array([_struct(chunk, None) for chunk in column.chunks], type=IMAGE_TYPE)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        with_path = kind.get_field_index("path") >= 0
        chunks = []
        for chunk in column.chunks:
            paths = pc.struct_field(chunk, "path") if with_path else None
            chunks.append(_struct(pc.struct_field(chunk, "bytes"), paths, pc.is_null(chunk)))
        return pa.chunked_array(chunks, type=IMAGE_TYPE)
    raise ValueError(f"`image` of the items must hold bytes or a {{'bytes', 'path'}} struct, got {kind}.")


def _struct(data: pa.Array, paths: pa.Array | None, missing: pa.Array | None = None) -> pa.Array:
    paths = pa.nulls(len(data), pa.string()) if paths is None else paths.cast(pa.string())
    nothing = pc.and_(pc.is_null(data), pc.is_null(paths))
    mask = nothing if missing is None else pc.or_(nothing, missing)
    return pa.StructArray.from_arrays([data.cast(pa.binary()), paths], fields=list(IMAGE_TYPE), mask=mask)


def image_cell(value: Any, row: int) -> dict[str, Any] | None:
    """One image given as a Python object, as the stored `{bytes, path}`; an unreadable file keeps only its name.

    Raises:
        ValueError: a plain string or another unusable type, naming the row.
    """
    from PIL import Image

    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    # An item whose image cannot be read loses it and keeps a name; `Coverage.items_image_path_only` counts it.
    if isinstance(value, Image.Image):
        try:
            return {"bytes": encode_png(value), "path": None}
        except ImageError:
            return {"bytes": None, "path": os.path.basename(getattr(value, "filename", "")) or f"row {row}"}
    if isinstance(value, ImagePath):
        try:
            return {"bytes": value.read_bytes(), "path": value.path.name}
        except ImageError:
            return {"bytes": None, "path": value.path.name}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, Mapping) and not isinstance(value.get("bytes"), str):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    shown = repr(value)[:60]
    raise ValueError(
        f"`image` of item row {row} is {shown}; give bytes, a PIL image, {{'bytes', 'path'}} or `ImagePath(...)`. "
        "Strings are never opened or fetched."
    )


def items_from_ids(item_ids: pa.Array) -> pa.Table:
    """An item table that knows nothing but ids."""
    return pa.table({ITEM_ID: item_ids})
