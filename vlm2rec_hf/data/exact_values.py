"""Python values as an Arrow array that keeps every digit: pandas' nanoseconds, and integers beyond 63 bits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .text import is_nothing


def exact_array(values: Sequence[Any]) -> pa.Array:
    """`pa.array(values, from_pandas=True)`, but nothing is rounded.

    pyarrow takes a `pandas.Timestamp` among objects for microseconds, times behind a date for dates, numbers behind
    one for days since 1970, and gives up at integers of 64 bits. A date among times is its midnight.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError: values of several kinds.
    """
    if any(issubclass(kind, (dt.date, np.datetime64)) for kind in set(map(type, values))):
        values = _moments(values)
    if any(isinstance(v, dt.datetime) and v == v and getattr(v, "nanosecond", 0) for v in values):
        return pa.array(values, pa.timestamp("ns"), from_pandas=True)
    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:
        if all(v is None or (isinstance(v, int) and 0 <= v < 2**64) for v in values):
            return pa.array(values, pa.uint64())
        if not all(v is None or isinstance(v, (int, float, str)) for v in values):
            raise
        # Text keeps integers of any length apart.
        return pa.array([None if v is None or v != v else str(v) for v in values])


def whole_below(kind: np.dtype[Any]) -> int:
    """The number below which floats of a type hold every whole number: 2**53 for 64 bits, 2**24 for 32."""
    return int(2 ** (np.finfo(kind).nmant + 1))


def _moments(values: Sequence[Any]) -> Sequence[Any]:
    """Dates, times and nothing else; the dates as times where there are times.

    Raises:
        pyarrow.ArrowTypeError: other values are among them, or numpy's times among Python's.
    """
    known = [value for value in values if not is_nothing(value)]
    of_numpy = sum(isinstance(value, np.datetime64) for value in known)
    if of_numpy not in (0, len(known)) or not all(isinstance(value, (dt.date, np.datetime64)) for value in known):
        raise pa.ArrowTypeError("dates and times among values of other kinds")
    times = sum(isinstance(value, dt.datetime) for value in known)
    if times in (0, len(known)):
        return values
    return [
        value
        if is_nothing(value) or isinstance(value, dt.datetime)
        else dt.datetime(value.year, value.month, value.day)
        for value in values
    ]
