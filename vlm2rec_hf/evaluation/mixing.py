"""Two rankers as one: their scores added, the weight chosen on the validation split."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch

from ..data.sequences import Examples, spread_rows
from .metrics import rank_metric
from .ranking import rank_targets
from .scorers import BlockScorer

BLOCK_SCORES = 2**21
UNIT_ROWS = 1000
WEIGHTS = tuple(step / 20 for step in range(21))
"""Weights tried by default: 0, 0.05, ... 1."""


class MixedScorer:
    """`(1 - weight) * a / unit(a) + weight * b / unit(b)`, where `unit` is a scorer's typical spread within a user.

    Scores of two rankers have no common unit: cosines lie within [-1, 1], counts go into the thousands, EASE's grow
    with the history. `score_unit` gives each one, the same for all users, so that who has more to say about a user
    weighs more, too (our choice; standardising each user's scores is worth less: see the log). A user for whom a
    ranker says the same of every item is ranked by the other one.

    Args:
        a: a scorer of the same examples as `b`.
        b: the other one.
        weight: of `b`, from 0 (only `a`) to 1 (only `b`).

    Raises:
        ValueError: a weight outside [0, 1], or scorers of other items or other numbers of examples.
    """

    def __init__(self, a: BlockScorer, b: BlockScorer, weight: float) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"`weight` must lie between 0 and 1, got {weight}.")
        _check_alike(a, b)
        self.a, self.b, self.weight = a, b, float(weight)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.a.n_items

    def __len__(self) -> int:
        return len(self.a)

    def scores(self, rows: slice) -> np.ndarray:
        """The weighted sum: `(b, n_items)` float64."""
        first, second = self.units
        return _mixed(_centred(self.a, rows) / first, _centred(self.b, rows) / second, self.weight)

    @cached_property
    def units(self) -> tuple[float, float]:
        """`score_unit` of both."""
        return score_unit(self.a), score_unit(self.b)


class _Block:
    """Scores at hand, as a `BlockScorer`."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        self.n_items = matrix.shape[1]

    def __len__(self) -> int:
        return len(self.matrix)

    def scores(self, rows: slice) -> np.ndarray:
        return self.matrix[rows]


def score_unit(scorer: BlockScorer) -> float:
    """Root of the mean variance of a user's scores, over up to 1,000 users evenly spread; infinity where all tie.

    Args:
        scorer: any scorer, on any device.
    """
    rows = spread_rows(len(scorer), UNIT_ROWS).tolist()
    variances = [float(_centred(scorer, slice(row, row + 1)).var()) for row in rows]
    return float(np.sqrt(np.mean(variances))) if any(variances) else np.inf


def _centred(scorer: BlockScorer, rows: slice) -> np.ndarray:
    """`(b, n_items)` float64 with mean 0 in each row; a row of equal scores is 0."""
    given = scorer.scores(rows)
    raw = given.detach().cpu().double().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    scores = raw.astype(np.float64)  # a copy: a scorer may hand out what it keeps
    size = np.abs(scores).max(axis=1, initial=0.0)[:, None]
    scores -= scores.mean(axis=1, keepdims=True)
    # What is left of equal scores is rounding, and must not be blown up where all users tie.
    scores[np.abs(scores).max(axis=1, initial=0.0) <= 1e-12 * size[:, 0]] = 0.0
    return scores


def mix_curve(
    a: BlockScorer,
    b: BlockScorer,
    examples: Examples,
    *,
    weights: Iterable[float] = WEIGHTS,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
) -> dict[float, float]:
    """What each weight of a mix is worth: every block is scored once and ranked with every weight.

    Args:
        a: a scorer of `examples`.
        b: the other one.
        examples: of the validation split; both scorers must not have seen their targets.
        weights: of `b`.
        metric: a mean of ranks, such as `"hit@10"`.
        exclude_seen: leave items of the user's past out of the candidates.

    Returns:
        Weight -> mean of the metric over `examples`.

    Raises:
        ValueError: no weights, one outside [0, 1], no examples, or scorers that do not fit each other or these.
    """
    tried = list(dict.fromkeys(float(weight) for weight in weights))
    if not tried or not all(0 <= weight <= 1 for weight in tried):
        raise ValueError(f"`weights` must be numbers between 0 and 1, at least one, got {tried}.")
    _check_alike(a, b)
    if not len(examples) or len(a) != len(examples):
        raise ValueError(f"`examples` must be what the scorers score ({len(a)}), at least one, got {len(examples)}.")
    sums = dict.fromkeys(tried, 0.0)
    units = score_unit(a), score_unit(b)
    size = max(1, BLOCK_SCORES // max(a.n_items, 1))
    for begin in range(0, len(examples), size):
        rows = slice(begin, min(begin + size, len(examples)))
        part = examples.take(np.arange(rows.start, rows.stop))
        of_a, of_b = _centred(a, rows) / units[0], _centred(b, rows) / units[1]
        for weight in tried:
            ranks = rank_targets(_Block(_mixed(of_a, of_b, weight)), part, k=1, exclude_seen=exclude_seen).ranks
            sums[weight] += float(rank_metric(metric, ranks).sum())
    return {weight: total / len(examples) for weight, total in sums.items()}


def choose_mix(
    a: BlockScorer,
    b: BlockScorer,
    examples: Examples,
    *,
    weights: Iterable[float] = WEIGHTS,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
) -> float:
    """The weight of `b` that is best on the validation split; of equally good ones the first.

    Args and errors are those of `mix_curve`.
    """
    curve = mix_curve(a, b, examples, weights=weights, metric=metric, exclude_seen=exclude_seen)
    return max(curve, key=lambda weight: curve[weight])


def _mixed(of_a: np.ndarray, of_b: np.ndarray, weight: float) -> np.ndarray:
    return (1.0 - weight) * of_a + weight * of_b


def _check_alike(a: BlockScorer, b: BlockScorer) -> None:
    if a.n_items != b.n_items or len(a) != len(b):
        raise ValueError(
            f"`a` and `b` must score the same examples and items, got {len(a)} examples of {a.n_items} items and "
            f"{len(b)} of {b.n_items}."
        )
