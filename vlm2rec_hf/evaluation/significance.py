"""How sure: bootstrap intervals, paired permutation tests, Holm's correction.

Ranking metrics of one target take few distinct values, so resampling draws the *counts* of the distinct values
(multinomial, binomial) instead of every example: the same distribution, hundreds of times faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

Key = TypeVar("Key")
MAX_DISTINCT = 512
_CELLS = 2**22


class Interval(NamedTuple):
    """A mean and its percentile interval; all three are NaN for no values."""

    mean: float
    low: float
    high: float


class PermutationResult(NamedTuple):
    """Mean of `a - b`, two-sided p-value, and whether all sign patterns were enumerated."""

    difference: float
    p_value: float
    exact: bool


def _values(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be flat and finite, one value per example, got shape {array.shape}.")
    return array


def _group_index(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    """Index of each example's group, or None where every example is a group of its own."""
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"`groups` must have one value per example ({n}), got shape {array.shape}.")
    _, index = np.unique(array, return_inverse=True)
    return None if n == 0 or index.max() + 1 == n else index


def bootstrap_interval(
    per_user: ArrayLike, *, n: int = 2000, level: float = 0.95, seed: int = 0, groups: ArrayLike | None = None
) -> Interval:
    """Percentile bootstrap interval of the mean.

    Args:
        per_user: `(m,)` one value per example.
        n: resamples.
        level: coverage, e.g. 0.95.
        seed: of the resampling.
        groups: `(m,)` user of each example. Where a user has several examples, whole users are resampled, since their
            examples are not independent; the mean stays the mean over examples.

    Returns:
        Mean, low, high.

    Raises:
        ValueError: values that are not flat and finite, `n < 1`, or `level` outside (0, 1).
    """
    values = _values("per_user", per_user)
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(values.mean())
    index = _group_index(groups, len(values))
    if index is None:
        sums, weights = values, np.ones(len(values))
        distinct, counts = np.unique(values, return_counts=True)
        pairs = np.stack([distinct, np.ones(len(distinct))])
    else:
        sums, weights = np.bincount(index, weights=values), np.bincount(index).astype(np.float64)
        pairs, counts = np.unique(np.stack([sums, weights]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    if pairs.shape[1] == 1:
        return Interval(mean, mean, mean)
    means = []
    step = max(1, _CELLS // (pairs.shape[1] if pairs.shape[1] <= MAX_DISTINCT else len(sums)))
    for begin in range(0, n, step):
        size = min(step, n - begin)
        if pairs.shape[1] <= MAX_DISTINCT:
            drawn = generator.multinomial(len(sums), counts / len(sums), size=size)
            means.append((drawn @ pairs[0]) / (drawn @ pairs[1]))
        else:
            rows = generator.integers(len(sums), size=(size, len(sums)))
            means.append(sums[rows].sum(axis=1) / weights[rows].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(mean, float(low), float(high))


def paired_permutation_test(
    a: ArrayLike, b: ArrayLike, *, n: int = 10_000, seed: int = 0, groups: ArrayLike | None = None
) -> PermutationResult:
    """Two-sided sign-flip test that paired values differ in mean.

    Under the null hypothesis the sign of each pair's difference is a fair coin. All `2**m` patterns are enumerated
    (with `scipy.stats.permutation_test`) where there are at most `n` of them; otherwise `n` random ones are drawn and
    the p-value is `(1 + as extreme) / (1 + n)`, which is never 0.

    Args:
        a: `(m,)` values of one method.
        b: `(m,)` values of the other, example by example.
        n: random patterns, and the limit for enumeration.
        seed: of the patterns.
        groups: `(m,)` user of each example; all examples of a user flip together.

    Returns:
        Mean difference `a - b`, p-value, exact.

    Raises:
        ValueError: values that are not flat, finite and of one length, or empty, or `n < 1`.
    """
    first, second = _values("a", a), _values("b", b)
    if first.shape != second.shape or not len(first):
        raise ValueError(f"`a` and `b` must be paired and not empty, got lengths {len(first)} and {len(second)}.")
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    difference = first - second
    mean = float(difference.mean())
    index = _group_index(groups, len(difference))
    if index is not None:
        difference = np.bincount(index, weights=difference)
    difference = difference[difference != 0]  # a pair without difference is the same under either sign
    if not len(difference):
        return PermutationResult(mean, 1.0, True)
    if len(difference) < 60 and 2 ** len(difference) <= n:
        return PermutationResult(mean, _enumerated(difference), True)
    generator = np.random.default_rng(seed)
    size, counts = np.unique(np.abs(difference), return_counts=True)
    extreme, observed = 0, abs(difference.sum())
    limit = observed - 1e-9 * size.max()  # sums in another order differ in the last bits
    step = max(1, _CELLS // len(size))
    for begin in range(0, n, step):
        ups = generator.binomial(counts, 0.5, size=(min(step, n - begin), len(size)))
        extreme += int((np.abs((2 * ups - counts) @ size) >= limit).sum())
    return PermutationResult(mean, (1 + extreme) / (1 + n), False)


def _enumerated(difference: np.ndarray) -> float:
    from scipy.stats import permutation_test

    if len(difference) == 1:
        return 1.0  # both signs are as extreme as the observed one
    result = permutation_test(
        (difference, np.zeros_like(difference)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        alternative="two-sided",
    )
    return float(result.pvalue)


def holm(pvalues: Mapping[Key, float] | Iterable[float]) -> dict[Key, float] | np.ndarray:
    """Holm's step-down adjustment: reject what is below alpha, and the chance of any false rejection is below alpha.

    Args:
        pvalues: p-values, as a mapping or a flat list.

    Returns:
        Adjusted p-values in the same order: a dict for a mapping, else an array.

    Raises:
        ValueError: values outside [0, 1].
    """
    if isinstance(pvalues, Mapping):
        adjusted = _holm(np.asarray(list(pvalues.values()), dtype=np.float64))
        return {key: float(value) for key, value in zip(pvalues, adjusted, strict=True)}
    return _holm(np.asarray(list(pvalues), dtype=np.float64))


def _holm(values: np.ndarray) -> np.ndarray:
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`pvalues` must be flat and in [0, 1], got {values.tolist()}.")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = np.minimum(stepped, 1.0)
    return result
