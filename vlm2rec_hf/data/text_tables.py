"""The rule for text (`text.py`) on whole columns: only what needs it is touched, distinct values once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .text import SUSPECT, as_text, sound, without_markup


def text_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column of an item table that is read as text, as strings; lists of texts are joined.

    Raises:
        ValueError: values that are neither texts, numbers, dates nor lists of such.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if is_string(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    of = kind.value_type if _is_list(kind) else kind
    if pa.types.is_nested(of) or pa.types.is_binary(of) or pa.types.is_large_binary(of):
        raise ValueError(
            f"`{name}` of the items must hold text, numbers, dates or lists of them, got {kind}; cast it, or give the "
            "column another name by `column_mapping`."
        )
    return _each(column, _listed if _is_list(kind) else as_text)


def _listed(values: Sequence[Any] | None) -> str | None:
    return None if values is None else ", ".join(text for text in map(as_text, values) if text) or None


def clean_items(table: pa.Table, kept: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
    """The text columns of an item table (lists of texts too) without page source.

    Args:
        table: its texts are `sound`.
        kept: columns that are left alone, such as ids.

    Returns:
        The table, and what was counted, without zeros.
    """
    counts: Counter[str] = Counter()

    def clean(text: str | None) -> str | None:
        return None if text is None else without_markup(text, counts) or None

    def clean_list(texts: list[str | None] | None) -> list[str] | None:
        return None if texts is None else [text for text in map(clean, texts) if text]

    for index, name in enumerate(table.column_names):
        column = table[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if name in kept:
            continue
        if is_string(kind):
            cells, change = column.cast(kind), clean
        elif _is_list(kind) and is_string(kind.value_type):
            cells, change = column, clean_list
        else:
            continue
        changed = _mended(cells, change)
        if changed is not None:
            table = table.set_column(index, name, changed)
    return table, dict(+counts)


def _mended(column: pa.ChunkedArray, change: Callable[[Any], Any]) -> pa.ChunkedArray | None:
    """The column with `change` applied where there may be page source; None where nowhere is."""
    chunks, any_suspect = [], False
    for chunk in column.chunks:
        if _is_list(chunk.type):
            suspect = np.zeros(len(chunk), dtype=bool)
            rows = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
            hits = pc.fill_null(pc.match_substring_regex(pc.list_flatten(chunk), SUSPECT), False)
            suspect[rows[hits.to_numpy(zero_copy_only=False)]] = True
        else:
            suspect = pc.fill_null(pc.match_substring_regex(chunk, SUSPECT), False).to_numpy(zero_copy_only=False)
        if suspect.any():
            any_suspect = True
            mask = pa.array(suspect)
            values = [change(value) for value in chunk.filter(mask).to_pylist()]
            if _is_list(chunk.type):
                cells = chunk.to_pylist()
                for row, value in zip(np.flatnonzero(suspect).tolist(), values, strict=True):
                    cells[row] = value
                chunk = pa.array(cells, chunk.type)
            else:
                chunk = pc.replace_with_mask(chunk, mask, pa.array(values, chunk.type))
        chunks.append(chunk)
    return pa.chunked_array(chunks, type=column.type) if any_suspect else None


_NULL_WORDS = ("NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "")
# Numbers that read the same once they are numbers; "0012", "1e5" (a hash) and numbers of 16 digits do not.
_NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-][0-9]{1,3})?$"


def with_numbers(table: pa.Table, texts: Collection[str]) -> pa.Table:
    """Columns of text that hold numbers only become numbers, where nothing is lost by it; among numbers `NA` is null.

    Args:
        table: as a file was read.
        texts: columns that stay as they are.
    """
    for index, name in enumerate(table.column_names):
        column = table[name]
        if name in texts or not pa.types.is_string(column.type):
            continue
        known = column.filter(pc.invert(pc.is_in(column, value_set=pa.array([*_NULL_WORDS, None]))))
        if not len(known) or not pc.all(pc.match_substring_regex(known, _NUMBER)).as_py():
            continue
        whole = not pc.any(pc.match_substring_regex(known, r"[.eE]")).as_py()
        nothing = pc.is_in(column, value_set=pa.array(_NULL_WORDS))
        numbers = pc.if_else(nothing, pa.scalar(None, pa.string()), column)
        table = table.set_column(index, name, numbers.cast(pa.int64() if whole else pa.float64()))
    return table


def sound_table(table: pa.Table) -> pa.Table:
    """A table whose strings are all UTF-8, in a type that every kernel takes; what is not becomes U+FFFD.

    Arrow does not look at the bytes of a string that a file or another library hands over.
    """
    for index, name in enumerate(table.column_names):
        column = table[name]
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
            table = table.set_column(index, name, column)
        if not is_string(column.type.value_type if pa.types.is_dictionary(column.type) else column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            table = table.set_column(index, name, _from_bytes(column))
    return table


def _from_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([chunk.dictionary.take(chunk.indices) for chunk in column.chunks])
    raw = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    chunks = [
        pa.array([None if value is None else _decoded(value) for value in chunk.cast(raw).to_pylist()], column.type)
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, type=column.type)


def _decoded(value: bytes) -> str:
    try:
        return sound(value.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace")


def is_string(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _each(column: pa.ChunkedArray, change: Callable[[Any], Any]) -> pa.ChunkedArray:
    """`change` applied to every distinct value; to every value of a column of lists."""
    text = pa.string()
    if _is_list(column.type):
        return pa.chunked_array(
            [pa.array([change(v) for v in chunk.to_pylist()], text) for chunk in column.chunks], text
        )
    chunks = []
    for chunk in column.dictionary_encode().unify_dictionaries().chunks:
        # Numbers keep their precision in numpy's types, Python would make doubles of them.
        floats = pa.types.is_floating(column.type)
        distinct = chunk.dictionary.to_numpy(zero_copy_only=False) if floats else chunk.dictionary.to_pylist()
        chunks.append(pa.array([change(v) for v in distinct], text).take(chunk.indices))
    return pa.chunked_array(chunks, text)
