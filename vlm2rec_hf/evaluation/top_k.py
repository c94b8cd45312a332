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
        # Ties lose against earlier blocks, whose indices are lower, so only strictly better groups matter.
        n_better = int((highest > self.scores[:, -1:]).sum(dim=1).max())
        if n_better == 0:
            return
        _, chosen = top_columns(highest, min(n_better, k), sort=False)
        values = groups.gather(1, chosen[:, :, None].expand(-1, -1, GROUP)).view(n_rows, -1)
        columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP, device=block.device)).view(n_rows, -1)
        values = torch.cat([self.scores, values], dim=1)
        items = torch.cat([self.items, columns + first_item], dim=1)
        self.scores, picked = top_columns(values, k)
        self.items = items.gather(1, picked).masked_fill_(self.scores == -torch.inf, -1)


def count_at_least(block: torch.Tensor, threshold: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """How many values of each row are >= that row's threshold.

    Summing bytes as 64-bit words (eight lanes, at most eight ones each) is about ten times faster than
    `(block >= threshold).sum(1)` on CPU.

    Args:
        block: `(b, w)`, `w` a multiple of 64.
        threshold: `(b, 1)`.
        mask: optional contiguous bool buffer `(b, w)` to write the comparison into.

    Returns:
        `(b,)` int64.
    """
    found = torch.ge(block, threshold) if mask is None else torch.ge(block, threshold, out=mask)
    lanes = found.view(torch.int64).view(len(block), 8, -1).sum(dim=1)
    return lanes.view(torch.uint8).sum(dim=1, dtype=torch.int64)
