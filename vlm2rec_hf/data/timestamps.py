"""Timestamps of any type as numbers that sort: order is never lost, and never guessed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .calendar_text import READABLE, is_date, read_calendar, ticks
from .exact_values import whole_below

if TYPE_CHECKING:
    import polars as pl

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of each unit a dataset can declare."""


@dataclass(frozen=True)
class Parsed:
    """A timestamp column as numbers.

    Attributes:
        values: `(n,)` int64 (uint64 only where they need it, float64 only where the input has fractions); 0 where not
            `ok`.
        ok: `(n,)` bool, whether the row could be parsed.
        unit: a key of `UNITS` if the input states it (dates and times), else None.
    """

    values: np.ndarray
    ok: np.ndarray
    unit: str | None


def parse_timestamps(column: pa.ChunkedArray, *, day_first: bool | None = None, argument: str = "timestamp") -> Parsed:
    """Parse a timestamp column: numbers stay as they are, dates and times become UTC ticks since 1970.

    The ticks are milliseconds, or the longest of microseconds and nanoseconds that loses nothing. Strings may hold
    numbers, ISO 8601 or dates with the year last; the kind that most rows have decides for the column, so that one
    column never mixes two units. Times without a zone count as UTC.

    Args:
        column: `(n,)` numbers, dates, times or strings.
        day_first: how to read strings such as `3/4/2024`; None: as the rest of the column settles it.
        argument: name of the column in messages.

    Raises:
        ValueError: a type that is no time, strings of which none can be read, day and month in an order that nothing
            settles, or numbers with more digits than can be kept apart (or, as floats, than could be).
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        return Parsed(np.zeros(len(column), np.int64), np.zeros(len(column), bool), None)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _from_moments(column)
    if pa.types.is_integer(kind):
        return Parsed(*_filled(column), None)
    if pa.types.is_floating(kind):
        _check_whole(column, argument)
        return _from_floats(column.cast(pa.float64()))
    if pa.types.is_decimal(kind):
        return _from_decimals(column, argument)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _from_strings(column, day_first, argument)
    raise ValueError(f"`{argument}` must hold numbers, dates or strings, got {kind}; cast it first.")


def is_calendar(column: pa.ChunkedArray) -> bool:
    """Whether a column holds dates or times, by its type; of texts, by the first that says something."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_temporal(kind):
        return True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return False
    first = next((text for text in column.slice(0, 1000).to_pylist() if text and text.strip()), None)
    if first is None:
        return False
    parsed = _texts(pa.chunked_array([[first]]))
    return bool(is_date(read_calendar(parsed))[0])


def cutoff(value: Any, unit: str | None, argument: str) -> int | float:
    """A point in time given by the user, in the ticks of the data: the first tick that is not before it.

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
    nanos = 0
    if isinstance(value, str):
        value, nanos = _iso_moment(value, argument)
    if isinstance(value, np.datetime64) and not np.isnat(value):
        value, nanos = _numpy_moment(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime) or value != value:  # pandas' NaT is a datetime
        raise ValueError(f"`{argument}` must be a number, a datetime or an ISO 8601 string, got {value!r}.")
    if unit is None:
        raise ValueError(
            f"`{argument}` is a calendar time ({value.isoformat()}), but the unit of the timestamps is unknown; give "
            "a number, or pass `timestamp_unit='s'` (or ms, us, ns) when building the dataset."
        )
    nanos = nanos or int(getattr(value, "nanosecond", 0))  # of pandas
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    micros = (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    # Rounded up: an event of the tick before lies before the cut.
    return -(-(micros * 1000 + nanos) * UNITS[unit] // 1_000_000_000)


def _iso_moment(text: str, argument: str) -> tuple[dt.datetime, int]:
    """An ISO 8601 text as a datetime and the nanoseconds that it has no room for."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"`{argument}` must be a number or ISO 8601 such as '2024-05-01', got {text!r}.") from error
    read = read_calendar(_texts(pa.chunked_array([[text]])))
    return moment, int(read.nanos[0]) % 1000


def _numpy_moment(value: np.datetime64) -> tuple[dt.datetime, int]:
    micros = value.astype("M8[us]")
    return micros.item(), int((value.astype("M8[ns]") - micros).astype(np.int64))


def _filled(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    ok = pc.is_valid(column).to_numpy()
    if column.null_count:
        column = pc.fill_null(column, 0)
    values = column.to_numpy()
    if values.dtype == np.uint64 and np.any(values >= 2**63):
        return values, ok
    return values.astype(np.int64, copy=False), ok


def _from_moments(column: pa.ChunkedArray) -> Parsed:
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    unit: str = column.type.unit
    values, ok = _filled(column.cast(pa.int64()))
    if unit == "s":
        ok = ok & (np.abs(values) < 2**63 // 1000)
        return Parsed(np.where(ok, values, 0) * 1000, ok, "ms")
    for coarse in ("ms", "us"):
        step = UNITS[unit] // UNITS[coarse]
        if step <= 1 or not np.any(values % step):
            return Parsed(values // max(step, 1), ok, coarse)
    return Parsed(values, ok, unit)


def _from_floats(column: pa.ChunkedArray) -> Parsed:
    values = pc.fill_null(column, float("nan")).to_numpy()
    ok = np.isfinite(values)
    values = np.where(ok, values, 0.0)
    if np.all(values == np.floor(values)) and np.all(np.abs(values) < 2**53):
        return Parsed(values.astype(np.int64), ok, None)
    return Parsed(values, ok, None)


def _check_whole(column: pa.ChunkedArray, argument: str) -> None:
    """Refuse floats that have lost their last digits and are equal: which came first would be lost."""
    numbers = column.drop_null().to_numpy()
    limit = whole_below(numbers.dtype)
    large = np.sort(numbers[np.isfinite(numbers) & (np.abs(numbers) >= numbers.dtype.type(limit))])
    same = large[1:][large[1:] == large[:-1]]
    if len(same):
        raise ValueError(
            f"`{argument}` holds {int(same[0])} in several rows, as {numbers.dtype}. From {limit:,} on that type "
            "cannot hold every whole number, so that different times may have become one and their order would be "
            "lost. Give the column as integers (in pandas `Int64`, which has room for gaps) or as text."
        )


def _from_decimals(column: pa.ChunkedArray, argument: str) -> Parsed:
    try:
        return Parsed(*_filled(column.cast(pa.int64())), None)
    except pa.ArrowInvalid:  # fractions, or too large
        parsed = _from_floats(column.cast(pa.float64()))
    distinct = column.unique().drop_null()
    _check_apart(distinct.cast(pa.float64()).to_numpy(), distinct.cast(pa.string()), argument)
    return parsed


def _texts(column: pa.ChunkedArray) -> pl.Series:
    import polars as pl

    return pl.Series("t", column.cast(pa.large_string())).str.strip_chars()


def _from_strings(column: pa.ChunkedArray, day_first: bool | None, argument: str) -> Parsed:
    import polars as pl

    texts = _texts(column)
    whole = texts.cast(pl.Int64, strict=False)
    given = texts.is_not_null() & (texts != "")
    if whole.null_count() == len(texts) - int(given.sum()):
        return Parsed(whole.fill_null(0).to_numpy(), whole.is_not_null().to_numpy(), None)
    # Each distinct text is read once: a log of years has a few hundred days.
    coded = pc.dictionary_encode(pa.chunked_array([texts.to_arrow()]))
    coded = coded.unify_dictionaries().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0)
    distinct = pl.Series("t", coded.dictionary)
    codes = pc.fill_null(coded.indices.cast(pa.int64()), len(distinct)).to_numpy(zero_copy_only=False)
    rows = np.bincount(codes, minlength=len(distinct) + 1)[:-1]
    number = distinct.cast(pl.Float64, strict=False)
    is_number = number.is_finite().fill_null(False).to_numpy()
    read = read_calendar(distinct)
    dates = is_date(read)
    if not is_number.any() and not dates.any():
        shown = [text[:60] for text in distinct.to_list() if text][:3]
        raise ValueError(
            f"`{argument}` holds nothing that can be read as a time, such as {shown}. Readable are numbers, "
            f"{READABLE}."
        )
    if rows[dates].sum() > rows[is_number].sum():
        values, ok, unit = ticks(read, distinct, day_first, argument)
    else:
        values, ok, unit = *_from_number_texts(distinct, number, argument), None
    return Parsed(np.append(values, values.dtype.type(0))[codes], np.append(ok, False)[codes], unit)


def _from_number_texts(distinct: pl.Series, number: pl.Series, argument: str) -> tuple[np.ndarray, np.ndarray]:
    import polars as pl

    n_numbers = int(number.is_finite().sum())
    for kind in (pl.Int64, pl.UInt64):
        whole = distinct.cast(kind, strict=False)
        if int(whole.is_not_null().sum()) == n_numbers:
            return whole.fill_null(0).to_numpy(), whole.is_not_null().to_numpy()
    parsed = _from_floats(pa.chunked_array([number.to_arrow()]))
    finite = number.is_finite().fill_null(False)
    _check_apart(number.filter(finite).to_numpy(), distinct.filter(finite).to_arrow(), argument)
    return parsed.values, parsed.ok


def _check_apart(values: np.ndarray, texts: pa.Array | pa.ChunkedArray, argument: str) -> None:
    """Refuse numbers that differ as written and fall together as float64: their order would be lost."""
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    for place in same.tolist():
        one, two = (texts[int(order[place + k])].as_py() for k in (0, 1))
        if Fraction(one) != Fraction(two):
            raise ValueError(
                f"`{argument}` holds {one} and {two}, which a 64-bit float cannot tell apart: their order would be "
                "lost. Give whole numbers of a shorter unit (nanoseconds, say) instead."
            )
