"""Timestamps of any type as numbers that sort."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of each unit a dataset can declare."""

_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y")


@dataclass(frozen=True)
class Parsed:
    """A timestamp column as numbers.

    Attributes:
        values: `(n,)` int64 (float64 only where the input has fractions); 0 where not `ok`.
        ok: `(n,)` bool, whether the row could be parsed.
        unit: a key of `UNITS` if the input states it (dates and times: "ms"), else None.
    """

    values: np.ndarray
    ok: np.ndarray
    unit: str | None


def parse_timestamps(column: pa.ChunkedArray) -> Parsed:
    """Parse a timestamp column: numbers stay as they are, dates and times become UTC milliseconds since 1970.

    Strings may hold numbers or ISO 8601; the kind that most rows have decides for the column, so that one column never
    mixes two units. Times without a zone count as UTC.

    Raises:
        ValueError: a type that is no time.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        return Parsed(np.zeros(len(column), np.int64), np.zeros(len(column), bool), None)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        millis = column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        return Parsed(*_filled(millis), "ms")
    if pa.types.is_integer(kind):
        return Parsed(*_filled(column.cast(pa.int64())), None)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_floats(column.cast(pa.float64()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _from_strings(column)
    raise ValueError(f"`timestamp` must hold numbers, dates or strings, got {kind}; cast it first.")


def cutoff(value: Any, unit: str | None, argument: str) -> int | float:
    """A point in time given by the user, in the ticks of the data.

    Args:
        value: a number (taken as it is), a `datetime`, a `date` or an ISO 8601 string.
        unit: the data's unit, a key of `UNITS`, or None where unknown.
        argument: its name in messages.

    Raises:
        ValueError: not a time, or a calendar time for data of unknown unit.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        if not np.isfinite(value):
            raise ValueError(f"`{argument}` must be finite, got {value}.")
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(
                f"`{argument}` must be a number or ISO 8601 such as '2024-05-01', got {value!r}."
            ) from error
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise ValueError(f"`{argument}` must be a number, a datetime or an ISO 8601 string, got {value!r}.")
    if unit is None:
        raise ValueError(
            f"`{argument}` is a calendar time ({value.isoformat()}), but the unit of the timestamps is unknown; give "
            "a number, or pass `timestamp_unit='s'` (or ms, us, ns) when building the dataset."
        )
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    micros = (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    return micros * UNITS[unit] // 1_000_000


def _filled(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    ok = pc.is_valid(column).to_numpy()
    if column.null_count:
        column = pc.fill_null(column, 0)
    return column.to_numpy(), ok


def _from_floats(column: pa.ChunkedArray) -> Parsed:
    values = pc.fill_null(column, float("nan")).to_numpy()
    ok = np.isfinite(values)
    values = np.where(ok, values, 0.0)
    if np.all(values == np.floor(values)) and np.all(np.abs(values) < 2**53):
        return Parsed(values.astype(np.int64), ok, None)
    return Parsed(values, ok, None)


def _from_strings(column: pa.ChunkedArray) -> Parsed:
    import polars as pl

    texts = pl.Series("t", column.cast(pa.large_string())).str.strip_chars()
    whole = texts.cast(pl.Int64, strict=False)
    number = texts.cast(pl.Float64, strict=False)
    calendar = _calendar_millis(texts)
    n_number, n_calendar = int(number.is_finite().sum()), int(calendar.is_not_null().sum())
    if n_calendar > n_number:
        return Parsed(calendar.fill_null(0).to_numpy(), calendar.is_not_null().to_numpy(), "ms")
    if int(whole.is_not_null().sum()) == n_number:
        return Parsed(whole.fill_null(0).to_numpy(), whole.is_not_null().to_numpy(), None)
    return _from_floats(pa.chunked_array([number.to_arrow()]))


def _calendar_millis(texts: Any) -> Any:
    """ISO 8601 strings as milliseconds, null where a string is something else. A zone suffix is honoured."""
    import polars as pl

    zone = r"(Z|[+-]\d{2}:?\d{2})$"
    offset = texts.str.extract(r"\d([+-]\d{2}:?\d{2})$", 1).str.replace(":", "")
    # A date's "-05-01" must not be read as a zone: a zone only follows a clock time.
    has_clock = texts.str.contains(r"\d[T ]\d{2}:\d{2}")
    frame = pl.DataFrame({"t": texts, "offset": offset, "clock": has_clock})
    plain = pl.when("clock").then(pl.col("t").str.replace(zone, "")).otherwise(pl.col("t")).str.replace("T", " ")
    times = pl.coalesce(
        *(plain.str.to_datetime(format, time_unit="ms", strict=False, exact=True) for format in _FORMATS)
    )
    sign = pl.when(pl.col("offset").str.starts_with("-")).then(-1).otherwise(1)
    hours = pl.col("offset").str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = pl.col("offset").str.slice(3, 2).cast(pl.Int64, strict=False)
    shift = pl.when("clock").then(sign * (hours * 60 + minutes) * 60_000).otherwise(None).fill_null(0)
    return frame.select((times.cast(pl.Int64) - shift).alias("ms"))["ms"]
