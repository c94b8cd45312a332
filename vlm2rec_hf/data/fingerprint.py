"""A hash of content: equal data gives equal fingerprints, wherever it lies and however it is chunked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import datasets

    from .interaction_log import InteractionLog

_VERSION = b"vlm2rec-rec-dataset-1"
_BLOCK = 512  # items per block: fixed, so that the hash does not see how the table is chunked


class ContentHash:
    """Feeds arrays and Arrow columns into one digest."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(_VERSION, digest_size=16)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()

    def label(self, text: str) -> None:
        """Feed a name, with its length so that neighbours cannot run together."""
        data = text.encode()
        self._hash.update(len(data).to_bytes(8, "little") + data)

    def numbers(self, values: np.ndarray) -> None:
        """Feed an array, as little-endian of its own dtype."""
        self.label(f"{values.dtype.kind}{values.dtype.itemsize}:{len(values)}")
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._hash.update(np.ascontiguousarray(little).view(np.uint8).data)

    def column(self, values: pa.Array) -> None:
        """Feed an Arrow array: validity and values, nested ones field by field."""
        kind = values.type
        if pa.types.is_dictionary(kind):
            values, kind = values.cast(kind.value_type), kind.value_type
        self.numbers(pc.is_valid(values).to_numpy(zero_copy_only=False))
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            self._binary(values.cast(pa.large_string()).cast(pa.large_binary()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            self._binary(values.cast(pa.large_binary()))
        elif pa.types.is_struct(kind):
            for field in kind:
                self.label(field.name)
                self.column(pc.struct_field(values, field.name))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            self.numbers(pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64()).to_numpy(zero_copy_only=False))
            self.column(pc.list_flatten(values))
        elif pa.types.is_null(kind):
            self.label("null")
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            fill: Any = False if pa.types.is_boolean(kind) else 0
            self.numbers(pc.fill_null(values, fill).to_numpy(zero_copy_only=False))
        else:
            # Dates, decimals and other rare kinds: their text is canonical enough.
            for value in values.to_pylist():
                self.label(repr(value))

    def _binary(self, values: pa.Array) -> None:
        filled = pc.fill_null(values, b"")
        self.numbers(pc.binary_length(filled).cast(pa.int64()).to_numpy(zero_copy_only=False))
        data = filled.buffers()[2]
        if data is None:
            return
        offsets = np.frombuffer(filled.buffers()[1], dtype=np.int64)[filled.offset : filled.offset + len(filled) + 1]
        if len(offsets):
            self._hash.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def hash_chunked(digest: ContentHash, column: pa.ChunkedArray) -> None:
    """Feed a column in blocks of a fixed number of rows, so that its own chunks do not matter."""
    rows = 1_000_000
    for start in range(0, len(column), rows):
        block = column.slice(start, rows).combine_chunks()
        if isinstance(block, pa.ChunkedArray):
            block = pa.concat_arrays(block.chunks)
        digest.column(block)


def hash_batches(digest: ContentHash, batches: Iterable[pa.Table], names: list[str]) -> None:
    """Feed equal-sized batches of a table, column by column in the order of `names`."""
    for batch in batches:
        for name in names:
            digest.label(name)
            column = batch[name].combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks)
            digest.column(column)


def dataset_fingerprint(log: InteractionLog, items: datasets.Dataset) -> str:
    """The fingerprint of a dataset: interactions in stored order with their split, and items with their images."""
    digest = ContentHash()
    digest.label("interactions")
    digest.column(log.user_ids)
    for values in (log.user, log.item, log.split):
        digest.numbers(values)
    for name in sorted(log.columns):
        digest.label(name)
        hash_chunked(digest, log.columns[name])
    digest.label("items")
    # The catalogue hashes in its order, because item codes are places in it.
    hash_batches(digest, items.with_format("arrow").iter(batch_size=_BLOCK), sorted(items.column_names))
    return digest.hexdigest()
