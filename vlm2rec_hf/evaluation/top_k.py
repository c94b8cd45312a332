"""Exact top-k of score blocks with a fixed rule for ties: the lower catalogue index first."""

from __future__ import annotations

import torch

GROUP = 64
"""Columns per group: the top-k items lie within the k groups of highest maximum, so only those are looked into."""


def top_columns(values: torch.Tensor, k: int, sort: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` largest values of each row; of equal values the leftmost columns.

    `torch.topk` picks arbitrarily among equal values, which would make lists depend on block sizes.

    Args:
        values: `(b, w)` with `w >= k`, no NaN.
        k: how many.
        sort: best first (equal values by column); otherwise in column order.

    Returns:
        Values and columns, both `(b, k)`.
    """
    kth = values.topk(k, dim=1, sorted=True).values[:, -1:]
    greater = values > kth
    equal = values == kth
    need = k - greater.sum(dim=1, keepdim=True)
    keep = greater | (equal & (equal.cumsum(dim=1) <= need))
    columns = keep.nonzero()[:, 1].view(len(values), k)
    best = values.gather(1, columns)
    if not sort:
        return best, columns
    best, order = best.sort(dim=1, descending=True, stable=True)
    return best, columns.gather(1, order)


class RunningTop:
    """Top-k over item blocks that arrive in catalogue order.

    Args:
        n_rows: rows of every block.
        k: how many items to keep.
        dtype: of the scores.
        device: of the scores.
    """

    def __init__(self, n_rows: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.scores = torch.full((n_rows, k), -torch.inf, dtype=dtype, device=device)
        self.items = torch.full((n_rows, k), -1, dtype=torch.int64, device=device)

    def update(self, block: torch.Tensor, first_item: int) -> None:
        """Take in the scores of items `first_item, first_item + 1, ...`.

        Args:
            block: `(n_rows, w)`, `w` a multiple of `GROUP`; -inf for items that are no candidates.
            first_item: catalogue index of column 0, above every index seen before (but for -inf columns).
        """
        n_rows, k = self.scores.shape
        groups = block.view(n_rows, -1, GROUP)
        highest = groups.amax(dim=2)
        # Ties lose against earlier blocks, whose indices are lower, so only strictly better groups matter. After the
        # first blocks few rows have any, and only those are touched.
        n_better = (highest > self.scores[:, -1:]).sum(dim=1)
        rows = n_better.nonzero()[:, 0]
        if len(rows) == 0:
            return
        _, chosen = top_columns(highest[rows], min(int(n_better.max()), k), sort=False)
        values = groups[rows[:, None], chosen].view(len(rows), -1)
        columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP, device=block.device)).view(len(rows), -1)
        values = torch.cat([self.scores[rows], values], dim=1)
        items = torch.cat([self.items[rows], columns + first_item], dim=1)
        scores, picked = top_columns(values, k)
        self.scores[rows] = scores
        self.items[rows] = items.gather(1, picked).masked_fill_(scores == -torch.inf, -1)


def count_at_least_(block: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """How many values of each row are >= that row's threshold; `block` is used up.

    A comparison in place gives ones and zeros in the block's own dtype, which PyTorch vectorises on CPU: with the sum
    five times faster than `(block >= threshold).sum(1)`, whose bool result is written one by one.

    Args:
        block: `(b, w)` floating; overwritten.
        threshold: `(b, 1)`.

    Returns:
        `(b,)` int64.
    """
    exact = None if block.shape[1] <= 2**24 else torch.float64  # float32 counts whole numbers up to 2**24
    return block.ge_(threshold).sum(dim=1, dtype=exact).to(torch.int64)
