"""DMESR's alignment: the descriptions of one item agree, those of different items do not."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from .info_nce import check_positive_number, scaled
from .similarity import products, unit_rows

TARGETS = ("hard", "soft")


def alignment_loss(
    vectors: Tensor,
    present: Tensor,
    same: Tensor | None = None,
    *,
    temperature: float = 0.1,
    targets: str = "hard",
    soft_temperature: float = 0.1,
) -> Tensor:
    r"""Symmetric InfoNCE between every two kinds of description, over the items that have both (our choice of form).

    For kinds `a, b` and unit vectors, `p_ij = softmax_j(<a_i, b_j> / tau)` over the items with both kinds, and
    `l(a, b) = - mean_i sum_j q_ij log p_ij`; the loss is the mean over the pairs of `(l(a, b) + l(b, a)) / 2`.
    With `targets="hard"`, `q` is the identity. With `"soft"`, items that resemble each other are not pushed apart as
    hard: `q_ij = softmax_j((<a_i, a_j> + <b_i, b_j>) / (2 tau_q))` without gradient. Items whose description of one of
    the two kinds is the same are no candidates for each other: nothing could tell them apart.

    Args:
        vectors: `(n, k, d)` of `n` items in `k` kinds; not normalised.
        present: `(n, k)` bool: whether the item has that kind.
        same: `(n, k)` integers, equal within a kind where two items have the same description of it; None where all
            descriptions differ.
        temperature: `tau`, divides.
        targets: `"hard"` or `"soft"`.
        soft_temperature: `tau_q`, divides.

    Returns:
        Scalar in float32 (float64 stays). 0, connected to the graph, where no pair has two items.

    Raises:
        ValueError: shapes that do not fit, an unknown `targets`, or a temperature that is not positive.
    """
    if vectors.ndim != 3 or present.shape != vectors.shape[:2]:
        raise ValueError(
            f"`vectors` and `present` must be (n, k, d) and (n, k), got {tuple(vectors.shape)} and "
            f"{tuple(present.shape)}."
        )
    if same is not None and same.shape != present.shape:
        raise ValueError(f"`same` must be {tuple(present.shape)} as `present`, got {tuple(same.shape)}.")
    if targets not in TARGETS:
        raise ValueError(f"`targets` must be one of {TARGETS}, got {targets!r}.")
    check_positive_number("temperature", temperature)
    check_positive_number("soft_temperature", soft_temperature)
    losses = []
    for a, b in combinations(range(vectors.shape[1]), 2):
        both = present[:, a] & present[:, b]
        if int(both.sum()) < 2:
            continue
        first, second = unit_rows(vectors[both, a]), unit_rows(vectors[both, b])
        alike = None if same is None else _alike(same[both, a]) | _alike(same[both, b])
        wanted = None
        if targets == "soft":
            wanted = _soft(first.detach(), second.detach(), alike, soft_temperature)
        scores = scaled(products(first, second), temperature)
        losses += [_cross_entropy(scores, alike, wanted), _cross_entropy(scores.T, alike, wanted)]
    if not losses:
        return scaled(vectors, 1.0).sum() * 0.0
    return torch.stack(losses).mean()


def _alike(groups: Tensor) -> Tensor:
    """`(n, n)` bool, True between different items of one group."""
    equal = groups[:, None] == groups[None, :]
    return equal.fill_diagonal_(False)


def _soft(first: Tensor, second: Tensor, alike: Tensor | None, temperature: float) -> Tensor:
    scores = scaled(products(first, first) + products(second, second), 2.0 * temperature)
    return _masked(scores, alike).softmax(dim=1)


def _masked(scores: Tensor, alike: Tensor | None) -> Tensor:
    return scores if alike is None else scores.masked_fill(alike, -torch.inf)


def _cross_entropy(scores: Tensor, alike: Tensor | None, wanted: Tensor | None) -> Tensor:
    logs = _masked(scores, alike).log_softmax(dim=1)
    if wanted is None:
        return -logs.diagonal().mean()
    # A candidate that is masked has no share in what is wanted, but 0 * inf would be NaN.
    return -(wanted * logs.masked_fill(wanted == 0, 0.0)).sum(dim=1).mean()
