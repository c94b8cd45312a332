"""Python values as an Arrow array that keeps every digit: pandas' nanoseconds, and integers beyond 63 bits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def exact_array(values: Sequence[Any]) -> pa.Array:
    """`pa.array(values, from_pandas=True)`, but nothing is rounded.

    pyarrow takes a `pandas.Timestamp` among objects for microseconds, and gives up at integers of 64 bits.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError: values of several kinds.
    """
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
