"""Who sees what when: split codes from the order of events, and items held out as cold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from .sequences import TEST, TRAIN, VALIDATION
from .timestamps import cutoff


def leave_one_out_codes(offsets: np.ndarray) -> np.ndarray:
    """The last interaction of each user is test, the one before validation, the rest train.

    Users with fewer than three interactions are train only: they would have no history to train on.

    Args:
        offsets: `(n_users + 1,)` int64.

    Returns:
        `(n,)` int8 codes.
    """
    split = np.full(int(offsets[-1]), TRAIN, dtype=np.int8)
    long_enough = np.diff(offsets) >= 3
    split[offsets[1:][long_enough] - 1] = TEST
    split[offsets[1:][long_enough] - 2] = VALIDATION
    return split


def temporal_codes(timestamp: np.ndarray, validation_from: int | float | None, test_from: int | float) -> np.ndarray:
    """Split by global time: from `test_from` on test, from `validation_from` on validation, before it train.

    Args:
        timestamp: `(n,)` numbers.
        validation_from: None for no validation split.
        test_from: first moment of the test period.

    Returns:
        `(n,)` int8 codes; no later event ever changes an earlier event's code.
    """
    split = np.full(len(timestamp), TRAIN, dtype=np.int8)
    if validation_from is not None:
        split[timestamp >= validation_from] = VALIDATION
    split[timestamp >= test_from] = TEST
    return split


def cutoffs(
    timestamp: np.ndarray,
    unit: str | None,
    validation_from: Any,
    test_from: Any,
    quantiles: tuple[float, float] | None,
) -> tuple[int | float | None, int | float]:
    """The two moments of a temporal split in the ticks of the data; see `RecDataset.temporal_split`.

    Raises:
        ValueError: both or neither way given, values out of range, or moments out of order.
    """
    if (quantiles is None) == (test_from is None):
        raise ValueError(
            "Give either `test_from` (with or without `validation_from`) or `quantiles`; got `test_from` = "
            f"{test_from!r} and `quantiles` = {quantiles!r}."
        )
    if quantiles is not None:
        if len(quantiles) != 2 or not 0 < quantiles[0] <= quantiles[1] < 1 or validation_from is not None:
            raise ValueError(
                "`quantiles` must be two rising shares between 0 and 1 such as (0.8, 0.9), without `validation_from`; "
                f"got {quantiles}."
            )
        first, last = quantile_cutoffs(timestamp, quantiles)
        return first, last
    start = None if validation_from is None else cutoff(validation_from, unit, "validation_from")
    end = cutoff(test_from, unit, "test_from")
    if start is not None and start > end:
        raise ValueError(f"`validation_from` ({start}) must not lie after `test_from` ({end}).")
    return start, end


def quantile_cutoffs(timestamp: np.ndarray, quantiles: tuple[float, ...]) -> list[int | float]:
    """The timestamps before which the given shares of all interactions lie."""
    places = [min(int(q * len(timestamp)), len(timestamp) - 1) for q in quantiles]
    return np.partition(timestamp, places)[places].tolist()


def cold_choice(item_ids: Iterable[str], fraction: float, seed: int) -> np.ndarray:
    """Which items are held out: `(n_items,)` bool.

    Each item decides by a hash of its id and the seed alone, so that the choice depends on no interaction, on no
    other item and on no order; the share therefore meets `fraction` only on average.
    """
    limit = int(fraction * 2**64)
    key = f"cold:{seed}:".encode()
    return np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(key + str(item).encode(), digest_size=8).digest(), "big") < limit
            for item in item_ids
        ),
        dtype=bool,
    )
