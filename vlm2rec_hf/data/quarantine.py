"""Rows that were taken out, with the reason: nothing that came in is dropped silently."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("number", pa.int64()),
        ("row", pa.large_string()),
    ]
)
"""`table`: interactions, items or a file name; `number`: the row of the input table from 0, or the line of a text file
from 1; `row`: the original row as JSON (bytes as `{"base64": ...}`), or the text of the line."""


def empty() -> pa.Table:
    """A quarantine without rows."""
    return SCHEMA.empty_table()


def of_rows(rows: pa.Table, numbers: np.ndarray, *, table: str, reason: str, column: str | None) -> pa.Table:
    """Quarantine the rows of an Arrow table.

    Args:
        rows: the rows taken out.
        numbers: `(len(rows),)` where each stood in the input.
        table: which table they come from.
        reason: short machine-readable reason.
        column: the column at fault, if there is one.
    """
    if not rows.num_rows:
        return empty()
    n = rows.num_rows
    columns = [
        pa.repeat(pa.scalar(table, pa.string()), n),
        pa.repeat(pa.scalar(reason, pa.string()), n),
        pa.repeat(pa.scalar(column, pa.string()), n),
        pa.array(numbers, pa.int64()),
        _as_json(rows),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def of_lines(lines: Sequence[tuple[int, str]], *, table: str, reason: str = "bad_line") -> pa.Table:
    """Quarantine lines of a text file, given as (line number from 1, text)."""
    return pa.table(
        {
            "table": pa.array([table] * len(lines), pa.string()),
            "reason": pa.array([reason] * len(lines), pa.string()),
            "column": pa.nulls(len(lines), pa.string()),
            "number": pa.array([number for number, _ in lines], pa.int64()),
            "row": pa.array([text for _, text in lines], pa.large_string()),
        },
        schema=SCHEMA,
    )


def concat(parts: Iterable[pa.Table]) -> pa.Table:
    """All parts in order."""
    filled = [part for part in parts if part.num_rows]
    return pa.concat_tables(filled) if filled else empty()


def counts(quarantine: pa.Table) -> dict[str, int]:
    """How many rows each reason took, by reason."""
    grouped = quarantine.group_by(["reason"]).aggregate([([], "count_all")])
    pairs = zip(grouped["reason"].to_pylist(), grouped["count_all"].to_pylist(), strict=True)
    return dict(sorted(pairs))


def _as_json(rows: pa.Table) -> pa.Array | pa.ChunkedArray:
    simple = all(
        pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_integer(t) or pa.types.is_boolean(t)
        for t in rows.schema.types
    )
    if simple and rows.num_rows > 1000:
        # Millions of rows may end up here; the loop below is for the short and the odd ones. Both write the same JSON.
        import polars as pl

        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        encoded = frame.select(pl.struct(pl.all()).struct.json_encode().alias("row"))
        return encoded["row"].to_arrow().cast(pa.large_string())
    return pa.array(
        [json.dumps(_plain(row), ensure_ascii=False, separators=(",", ":")) for row in _iterate(rows)],
        pa.large_string(),
    )


def _iterate(rows: pa.Table) -> Iterable[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
