"""Dates and times written as text: what they say, to the nanosecond, and which of day and month comes first."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

# Three numbers, then maybe a clock time, then maybe a zone. More than nine decimals only where they are zero: a tick
# shorter than a nanosecond cannot be kept, and must not be cut off.
_PATTERN = (
    r"^(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})"
    r"(?:[T ,]\s?(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9})0*)?)?\s?([AaPp][Mm])?\s?"
    r"(?:[Zz]|UTC|GMT|([+-])(\d{2}):?(\d{2})?)?)?$"
)
READABLE = "ISO 8601 (2024-05-01T12:00:00.25+02:00), 2024/05/01, and 1/5/2024 or 1.5.2024 with or without a clock time"
_BLOCK = 1_000_000
_MAX_SECONDS = (2**63 - 1) // 10**9


@dataclass(frozen=True)
class CalendarText:
    """What a column of texts says, one entry per text.

    Attributes:
        year, first, second: `(n,)` int64; year 0 where a text is no date. Where `by_year`, month and day; else the two
            numbers before the year, in the order of the text.
        by_year: `(n,)` bool, whether the year comes first.
        clock: `(n,)` int64 seconds since midnight UTC (the zone is taken off; without one it counts as UTC).
        nanos: `(n,)` int64, the fraction of the second.
    """

    year: np.ndarray
    first: np.ndarray
    second: np.ndarray
    by_year: np.ndarray
    clock: np.ndarray
    nanos: np.ndarray


def read_calendar(texts: pl.Series) -> CalendarText:
    """Read texts in blocks, so that the pieces of millions of them are never there at once."""
    blocks = [_read_block(texts.slice(start, _BLOCK)) for start in range(0, max(len(texts), 1), _BLOCK)]
    return CalendarText(*(np.concatenate([getattr(b, name) for b in blocks]) for name in CalendarText.__annotations__))


def _read_block(texts: pl.Series) -> CalendarText:
    import polars as pl

    pieces = texts.str.extract_groups(_PATTERN).struct.unnest()
    names = ["a", "b", "c", "hour", "minute", "second", "fraction", "half", "sign", "zone_hour", "zone_minute"]
    pieces.columns = names
    lengths = pieces.select(pl.col("a", "c").str.len_bytes().fill_null(0))
    a_length, c_length = (lengths[name].to_numpy() for name in ("a", "c"))
    by_year, year_last = (a_length == 4) & (c_length <= 2), (a_length <= 2) & (c_length == 4)
    nanos = pieces["fraction"].str.pad_end(9, "0").cast(pl.Int64).fill_null(0).to_numpy()
    number = {
        name: pieces[name].cast(pl.Int64).fill_null(0).to_numpy()
        for name in names
        if name not in ("fraction", "half", "sign")
    }
    half = pieces["half"].is_not_null().to_numpy()
    afternoon = pieces["half"].str.to_lowercase().eq("pm").fill_null(False).to_numpy()
    hour = np.where(half, number["hour"] % 12 + 12 * afternoon, number["hour"])
    zone = np.where(pieces["sign"].eq("-").fill_null(False).to_numpy(), -1, 1) * (
        3600 * number["zone_hour"] + 60 * number["zone_minute"]
    )
    fits = (hour <= 23) & (number["minute"] <= 59) & (number["second"] <= 59) & (np.abs(zone) < 86_400)
    fits &= (number["zone_minute"] <= 59) & (~half | ((number["hour"] >= 1) & (number["hour"] <= 12)))
    year = np.where(by_year, number["a"], np.where(year_last, number["c"], 0)) * fits
    first = np.where(by_year, number["b"], number["a"])
    second = np.where(by_year, number["c"], number["b"])
    return CalendarText(
        year, first, second, by_year, hour * 3600 + number["minute"] * 60 + number["second"] - zone, nanos
    )


def is_date(read: CalendarText) -> np.ndarray:
    """Which texts are a date under some reading: `(n,)` bool."""
    as_month, as_day = _valid(read)
    return as_month | as_day


def ticks(
    read: CalendarText, texts: pl.Series, day_first: bool | None, argument: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """The moments as whole ticks since 1970 in the longest of ms, us and ns that loses nothing.

    Args:
        read: what the texts say.
        texts: `(n,)` the texts, for the message.
        day_first: how to read `3/4/2024`; None: as the other texts settle it.
        argument: name of the column in messages.

    Returns:
        values `(n,)` int64 (0 where not ok), ok `(n,)` bool, unit.

    Raises:
        ValueError: a date could be read in two ways, and no text settles which.
    """
    month_valid, day_valid = _valid(read)
    if day_first is None:
        day_first = _settle(read, texts, month_valid & ~read.by_year, day_valid & ~read.by_year, argument)
    wanted, other = (day_valid, month_valid) if day_first else (month_valid, day_valid)
    # With nothing open each text has one reading; `None` takes whichever it is.
    by_day = day_valid & ~month_valid if day_first is None else np.full(len(wanted), day_first)
    by_day &= ~read.by_year
    ok = (month_valid | day_valid) if day_first is None else wanted
    month, day = np.where(by_day, read.second, read.first), np.where(by_day, read.first, read.second)
    seconds = np.where(ok, _days(read.year, month, day)[0] * 86_400 + read.clock, 0)
    nanos = np.where(ok, read.nanos, 0)
    for unit, per_second in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        step = 10**9 // per_second
        if unit == "ns" or not np.any(nanos % step):
            break
    if unit == "ns":
        # 64 bits of nanoseconds reach from 1678 to 2261.
        ok = ok & (np.abs(seconds) < _MAX_SECONDS)
        seconds, nanos = np.where(ok, seconds, 0), np.where(ok, nanos, 0)
    return seconds * per_second + nanos // step, ok, unit


def _valid(read: CalendarText) -> tuple[np.ndarray, np.ndarray]:
    """Which texts are dates with the month before the day, and with the day before the month."""
    month_first = _days(read.year, read.first, read.second)[1]
    day_first = _days(read.year, read.second, read.first)[1]
    return month_first, np.where(read.by_year, month_first, day_first)


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970, and which dates there are."""
    ok = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(ok, (year - 1970) * 12 + month - 1, 0)
    starts = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    ends = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    days = starts + np.where(ok, day - 1, 0)
    return days, ok & (days < ends)


def _settle(
    read: CalendarText, texts: pl.Series, month_valid: np.ndarray, day_valid: np.ndarray, argument: str
) -> bool | None:
    unclear = np.flatnonzero(month_valid & day_valid & (read.first != read.second))
    if not len(unclear):
        return None
    only_day, only_month = np.flatnonzero(day_valid & ~month_valid), np.flatnonzero(month_valid & ~day_valid)
    if bool(len(only_day)) != bool(len(only_month)):
        return bool(len(only_day))

    row = int(unclear[0])
    names = [calendar.month_name[int(month)] for month in (read.second[row], read.first[row])]
    said = "and no other row settles which"
    if len(only_day):
        said = (
            f"and the other rows settle it in both ways ({texts[int(only_day[0])]!r}, {texts[int(only_month[0])]!r})"
        )
    raise ValueError(
        f"`{argument}` holds {texts[row]!r}, which is {read.first[row]} {names[0]} {read.year[row]} (day first) or "
        f"{read.second[row]} {names[1]} {read.year[row]} (month first), {said}. Say it with `day_first`: True for "
        "the first reading, False for the second."
    )
