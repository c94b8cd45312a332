"""Raw ids of any type as strings and integer codes, without a Python object per row."""

from __future__ import annotations

import math
import re
import uuid
import warnings
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .exact_values import whole_below
from .text import is_nothing, number_text, sound
from .text_tables import is_string

_WHOLE = r"(-?[1-9][0-9]*|0)\.0+"
"""A whole number with a point, as files hold it that pandas wrote."""


def encode_ids(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, pa.Array]:
    """Code a column of ids: the one rule for what an id is.

    `1`, `1.0` (what pandas makes of a column with gaps, and writes into files) and `"1"` are the same id, `"1"`;
    `"007"` stays as it is. Null, NaN, infinity and the empty string are missing ids; words such as `NA` are ids.

    Args:
        column: `(n,)` strings, integers, floats or decimals.
        name: column name for messages.

    Returns:
        codes `(n,)` int32, -1 where the id is missing, and the distinct ids (string) they point into.

    Raises:
        ValueError: a type that cannot be an id.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_string(kind) or numbers or pa.types.is_null(kind)):
        raise ValueError(f"`{name}` must hold strings or integers, got {kind}; cast it first.")
    codes, distinct = _coded(column)
    return _folded(codes, _as_strings(distinct, name))


def encode_stored_ids(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Code ids that a saved dataset holds: they are taken as they are. Returns as `encode_ids`."""
    return _folded(*_coded(column))


def id_values(values: Iterable[Any]) -> pa.Array:
    """Python values of any mixture as ids, by the same rule; what is no string and no number is missing."""
    return pa.array([_id_text(value) for value in values], pa.string())


def id_strings(column: pa.ChunkedArray, name: str) -> pa.Array:
    """A column of ids as strings, null where the id is missing. Same rules as `encode_ids`."""
    codes, ids = encode_ids(column, name)
    return ids.take(pa.array(codes, mask=codes < 0))


def positions_in(values: pa.Array, catalogue: pa.Array) -> np.ndarray:
    """Where each of `values` stands in `catalogue`: `(len(values),)` int32, -1 where it does not."""
    places = pc.index_in(values, value_set=catalogue)
    return pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int32)


def to_objects(strings: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """`(n,)` object array of `str`: one long id does not widen all the others as a fixed-width dtype would."""
    return np.array(strings.to_pylist(), dtype=object)


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Codes, -1 where null, and the distinct values they point into."""
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column.cast(pa.string()) if pa.types.is_null(column.type) else column)
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # older pyarrow returns one chunk still wrapped
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], column.type)
    return pc.fill_null(encoded.indices.cast(pa.int32()), -1).to_numpy(zero_copy_only=False), encoded.dictionary


def _folded(codes: np.ndarray, strings: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Values that are no ids, or are equal as strings, fold together here; the vocabulary is small."""
    strings = strings.cast(pa.string())
    vocabulary = pc.dictionary_encode(strings)
    missing = pc.or_kleene(pc.is_null(vocabulary), pc.equal(pc.fill_null(strings, ""), ""))
    fold = np.where(
        missing.to_numpy(zero_copy_only=False), -1, pc.fill_null(vocabulary.indices, -1).to_numpy(zero_copy_only=False)
    ).astype(np.int32)
    if np.array_equal(fold, np.arange(len(fold))):
        return codes, vocabulary.dictionary
    return np.append(fold, np.int32(-1))[codes], vocabulary.dictionary


def _as_strings(values: pa.Array, name: str) -> pa.Array:
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        limit = whole_below(numbers.dtype)
        large = int(np.sum(np.isfinite(numbers) & (np.abs(numbers) >= limit)))
        if large:
            warnings.warn(
                f"`{name}` holds {large} numbers above 2**{limit.bit_length() - 1} as floats; these have "
                "lost their last digits, so that different ids may have become one. Read the column as text.",
                stacklevel=2,
            )
        return id_values(numbers)
    texts = values.cast(pa.string())
    if pa.types.is_integer(values.type):
        return texts
    # What `_id_text` does to a string, without a Python object each.
    return pc.replace_substring_regex(texts, f"^{_WHOLE}$", r"\1")


def _id_text(value: Any) -> str | None:
    if is_nothing(value) or isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, str):
        return _without_point(sound(str(value)))
    if isinstance(value, (float, np.floating)):
        return number_text(value) if math.isfinite(value) else None
    if isinstance(value, (int, np.integer, Decimal, uuid.UUID)):
        return _without_point(str(value))
    return None


def _without_point(text: str) -> str:
    whole = re.fullmatch(_WHOLE, text)
    return whole[1] if whole else text
