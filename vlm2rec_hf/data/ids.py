"""Raw ids of any type as strings and integer codes, without a Python object per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def encode_ids(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, pa.Array]:
    """Code a column of ids.

    Whole numbers stored as floats (what pandas makes of a column with gaps) become `"12"`, not `"12.0"`; null, NaN and
    the empty string are missing ids.

    Args:
        column: `(n,)` strings, integers or floats.
        name: column name for messages.

    Returns:
        codes `(n,)` int32, -1 where the id is missing, and the distinct ids (string) they point into.

    Raises:
        ValueError: a type that cannot be an id.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ValueError(f"`{name}` must hold strings or integers, got {kind}; cast it first.")
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column.cast(pa.string()) if pa.types.is_null(kind) else column)
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # older pyarrow returns one chunk still wrapped
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], column.type)
    strings = _as_strings(encoded.dictionary)
    codes = pc.fill_null(encoded.indices.cast(pa.int32()), -1).to_numpy(zero_copy_only=False)
    # Values that are no ids, or become equal as strings, fold together here; the vocabulary is small.
    vocabulary = pc.dictionary_encode(strings)
    missing = pc.or_kleene(pc.is_null(vocabulary), pc.equal(pc.fill_null(strings, ""), ""))
    fold = np.where(
        missing.to_numpy(zero_copy_only=False), -1, pc.fill_null(vocabulary.indices, -1).to_numpy(zero_copy_only=False)
    ).astype(np.int32)
    if np.array_equal(fold, np.arange(len(fold))):
        return codes, vocabulary.dictionary
    return np.append(fold, np.int32(-1))[codes], vocabulary.dictionary


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


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _as_strings(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return values.cast(pa.string())
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
    texts = [
        str(int(x)) if is_whole else (None if np.isnan(x) else repr(float(x)))
        for x, is_whole in zip(numbers, whole, strict=True)
    ]
    return pa.array(texts, pa.string())
