"""Rows of an index as Arrow tables: ids, metadata, the items' own sources, and a vector per view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..columns import SCORED

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
FROM_DATASET, EDITED, OWN = 0, 1, 2
"""Where an item comes from: the dataset; the dataset, with metadata changed here; or text and image kept here."""
SOURCE_COLUMNS = ("_text", "_image")
RUNS = 256
"""Up to so many stretches of a table's rows stay where they are; more are copied, so that a table has few chunks."""


@dataclass(frozen=True)
class IndexFacts:
    """What an index holds and which model made its vectors.

    Attributes:
        kind: `model_type` of the model.
        model: repo id or folder of the model; None for one made in this process.
        revision: its commit, or `sha256:...` of its weights.
        fingerprint: digest of everything that decides a vector: weights, processor, item columns.
        views: view -> length of its vectors.
        metric: `"cosine"` or `"inner"`, how the model compares; see `metric_of` for the view `scored`.
        summed: whether the view `both` is the sum of `text` and `image`, as external fusion has it.
        columns: metadata column -> `"string"`, `"int64"`, `"double"` or `"bool"`.
        store: `"exact"` (in memory) or `"lance"`.
        dataset: name and fingerprint of the dataset that the items came from.
        scoring: the score options behind the view `scored`, as `ScoreOptions.to_dict` gives them; None: bare cosines.
    """

    kind: str
    model: str | None
    revision: str
    fingerprint: str
    views: dict[str, int]
    metric: str = "cosine"
    summed: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    store: str = "exact"
    dataset: dict[str, str | None] = field(default_factory=dict)
    scoring: dict[str, Any] | None = None

    def metric_of(self, view: str) -> str:
        """How the vectors of a view are compared; those of `scored` as they are, for lengths and prior are in them."""
        return "inner" if view == SCORED else self.metric

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a file."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IndexFacts:
        """Back from a file.

        Raises:
            ValueError: of a newer version.
        """
        rest = dict(values)
        version = rest.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"The index has format {version!r}, and this package reads {FORMAT_VERSION}.")
        return cls(**rest)


def vector_column(view: str) -> str:
    """The column that holds a view's vectors."""
    return f"_vector_{view}"


def schema_of(facts: IndexFacts) -> pa.Schema:
    """The columns of an index, in order."""
    import pyarrow as pa

    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            *(pa.field(name, kinds[kind]) for name, kind in facts.columns.items()),
            pa.field("_popularity", pa.int64()),
            pa.field("_source", pa.int8()),
            pa.field("_text", pa.large_string()),
            pa.field("_image", pa.large_binary()),
            *(pa.field(vector_column(view), pa.list_(pa.float32(), size)) for view, size in facts.views.items()),
        ]
    )


def edit_schema(facts: IndexFacts) -> pa.Schema:
    """The columns of an edit: those of the index, and whether the item is deleted (its vectors are zero then)."""
    import pyarrow as pa

    return schema_of(facts).append(pa.field("_deleted", pa.bool_(), nullable=False))


def rows_table(
    facts: IndexFacts, columns: Mapping[str, Sequence[Any]], vectors: Mapping[str, Any], *, deleted: bool | None = None
) -> pa.Table:
    """Rows of an index as one table.

    Args:
        facts: of the index.
        columns: `item_id` and as much of metadata, `_popularity`, `_source`, `_text`, `_image` as is known.
        vectors: view -> `(n, dim)` float32.
        deleted: of an edit: whether the items go.

    Raises:
        ValueError: an id that repeats or is empty, an unknown column, a value of another type, or vectors of another
            shape.
    """
    import pyarrow as pa

    ids = [str(item) for item in columns["item_id"]]
    if len(set(ids)) != len(ids):
        twice = next(item for place, item in enumerate(ids) if item in ids[:place])
        raise ValueError(f"`items` names {twice!r} twice; name each item once.")
    if not all(ids) or any("\x00" in item for item in ids):
        raise ValueError("`items` holds an item whose `item_id` is empty or holds a zero byte; give it another one.")
    schema = schema_of(facts) if deleted is None else edit_schema(facts)
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise ValueError(f"`items` holds {unknown[0]!r}, which is no column of this index: {list(facts.columns)}.")
    defaults: dict[str, Any] = {"_popularity": 0, "_source": FROM_DATASET, "_deleted": deleted}
    arrays = []
    for part in schema:
        if part.name.startswith("_vector_"):
            arrays.append(_vector_array(part.name.removeprefix("_vector_"), vectors, len(ids), part.type.list_size))
            continue
        values = ids if part.name == "item_id" else columns.get(part.name, [defaults.get(part.name)] * len(ids))
        try:
            arrays.append(pa.array(values, part.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
            kind = facts.columns.get(part.name, str(part.type))
            raise ValueError(f"`items`: the column {part.name!r} takes values of type {kind}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)


def _vector_array(view: str, vectors: Mapping[str, Any], count: int, size: int) -> Any:
    import pyarrow as pa

    if view not in vectors:
        raise ValueError(f"`vectors` lack the view {view!r}, which the index holds.")
    matrix = np.ascontiguousarray(vectors[view], dtype=np.float32)
    if matrix.shape != (count, size) or not np.isfinite(matrix).all():
        raise ValueError(f"`vectors` of view {view!r} must be finite ({count}, {size}), got {matrix.shape}.")
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), size)


def with_deleted(table: pa.Table) -> pa.Table:
    """Rows of an index as an edit that puts them in."""
    import pyarrow as pa

    part = pa.field("_deleted", pa.bool_(), nullable=False)
    return table.append_column(part, pa.array(np.zeros(len(table), bool)))


def take_rows(table: pa.Table, places: Sequence[int]) -> pa.Table:
    """The rows of a table at some places, none of them among others."""
    return table.take(np.array(places, dtype=np.int64))


def kept_rows(table: pa.Table, kept: np.ndarray) -> pa.Table:
    """Some rows of a table, of which nothing is copied unless they lie far scattered.

    Args:
        table: of any chunks.
        kept: `(n,)` truth values.
    """
    import pyarrow as pa

    runs = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]))).reshape(-1, 2)
    if len(runs) > RUNS:
        return take_rows(table, np.flatnonzero(kept).tolist())
    return pa.concat_tables([table.slice(start, stop - start) for start, stop in runs.tolist()] or [table[:0]])


def vectors_of(table: pa.Table, view: str) -> np.ndarray:
    """The vectors of a view, `(n, dim)` float32; of a table of one chunk without copying."""
    column = table[vector_column(view)].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
