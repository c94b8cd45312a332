"""The rule for text (`text.py`) on whole columns: only what needs it is touched, distinct values once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

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
    """The text columns of an item table (also texts in lists and structs) without page source.

    Args:
        table: its texts are `sound`.
        kept: columns that are left alone, such as ids and images.

    Returns:
        The table, and what was counted, without zeros.
    """
    counts: Counter[str] = Counter()
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if name not in kept and _holds_text(kind):
            cells = column.cast(kind)
            chunks = [_cleaned(chunk, counts) for chunk in cells.chunks]
            if any(chunk is not None for chunk in chunks):
                pairs = zip(chunks, cells.chunks, strict=True)
                new = pa.chunked_array([was if chunk is None else chunk for chunk, was in pairs], type=kind)
                table = table.set_column(index, name, new)
    return table, dict(+counts)


def _cleaned(chunk: pa.Array, counts: Counter[str]) -> pa.Array | None:
    """A column's chunk with its texts cleaned; None where there is nothing to clean."""
    if not is_string(chunk.type):
        before = chunk.to_pylist()
        after = [_clean(cell, counts) for cell in before]
        return None if after == before else pa.array(after, chunk.type)
    suspect = pc.fill_null(pc.match_substring_regex(chunk, SUSPECT), False)
    texts = [_clean(text, counts) for text in chunk.filter(suspect).to_pylist()]
    return pc.replace_with_mask(chunk, suspect, pa.array(texts, chunk.type)) if texts else None


def _clean(cell: Any, counts: Counter[str]) -> Any:
    """Every text in a cell cleaned; texts of lists that held nothing but page source are left out."""
    if isinstance(cell, str):
        return without_markup(cell, counts) or None if cell else cell
    if isinstance(cell, list):
        parts = [(part, _clean(part, counts)) for part in cell]
        return [new for old, new in parts if new is not None or old is None]
    if isinstance(cell, dict):
        return {name: _clean(part, counts) for name, part in cell.items()}
    return cell


def _holds_text(kind: pa.DataType) -> bool:
    """Whether there is text in a type; structs with bytes in them, such as images, are left alone."""
    if _is_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        parts = [kind.field(place).type for place in range(kind.num_fields)]
        binary = any(pa.types.is_binary(part) or pa.types.is_large_binary(part) for part in parts)
        return not binary and any(map(_holds_text, parts))
    return is_string(kind)


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
        column = table.column(index)
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
        column = table.column(index)
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
