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

    Whole groups of columns that might hold a better item are set aside, and taken in together once there are enough of
    them: after the first blocks they are few, and many small steps would cost more than the few values in them.

    Args:
        n_rows: rows of every block.
        k: how many items to keep.
        dtype: of the scores.
        device: of the scores.

    Attributes:
        scores: `(n_rows, k)` best scores so far, best first, -inf where there are fewer; whole after `finish`.
        items: `(n_rows, k)` their catalogue indices, -1 where there are fewer; whole after `finish`.
    """

    WAITING = 8
    """Groups per row, on average, that are set aside at most."""

    def __init__(self, n_rows: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.scores = torch.full((n_rows, k), -torch.inf, dtype=dtype, device=device)
        self.items = torch.full((n_rows, k), -1, dtype=torch.int64, device=device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._n_waiting = 0

    def update(self, block: torch.Tensor, first_item: int, highest: torch.Tensor | None = None) -> None:
        """Take in the scores of items `first_item, first_item + 1, ...`.

        Args:
            block: `(n_rows, w)`, `w` a multiple of `GROUP`; -inf for items that are no candidates.
            first_item: catalogue index of column 0, above every index seen before (but for -inf columns).
            highest: `group_maxima(block)`, where the caller has them already.
        """
        n_rows, k = self.scores.shape
        highest = group_maxima(block) if highest is None else highest
        # Ties lose against earlier blocks, whose indices are lower, so only strictly better groups matter.
        better = (highest > self.scores[:, -1:]).view(-1).nonzero().view(-1)
        if len(better) > k * n_rows:  # at the start: nearly all of them are better than nothing
            self.finish()
            _, chosen = top_columns(highest, k, sort=False)
            better = (chosen + torch.arange(n_rows, device=block.device)[:, None] * highest.shape[1]).view(-1)
        if len(better):
            row = better // highest.shape[1]
            first = (better - row * highest.shape[1]) * GROUP + first_item
            # Whole groups are copied: picking single values by index takes several times as long.
            self._waiting.append((row, first, block.view(-1, GROUP).index_select(0, better)))
            self._n_waiting += len(better)
        if self._n_waiting > self.WAITING * n_rows:
            self.finish()

    def finish(self) -> None:
        """Take in what was set aside; to be called after the last block."""
        if not self._waiting:
            return
        n_rows, k = self.scores.shape
        row, first, values = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._n_waiting = [], 0
        flat = (values > self.scores[:, -1].index_select(0, row)[:, None]).view(-1).nonzero().view(-1)
        if len(flat) == 0:
            return
        at = flat // GROUP
        row, order = row[at].sort(stable=True)  # each row's items stay in catalogue order, as ties need it
        at, flat = at[order], flat[order]
        counts = torch.bincount(row, minlength=n_rows)
        place = k + torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        shape = (n_rows, k + int(counts.max()))
        wide_scores = self.scores.new_full(shape, -torch.inf)
        wide_items = self.items.new_full(shape, -1)
        wide_scores[:, :k], wide_items[:, :k] = self.scores, self.items
        wide_scores[row, place], wide_items[row, place] = values.view(-1)[flat], first[at] + flat % GROUP
        self.scores, picked = top_columns(wide_scores, k)
        self.items = wide_items.gather(1, picked).masked_fill_(self.scores == -torch.inf, -1)


def group_maxima(block: torch.Tensor) -> torch.Tensor:
    """Highest value of every `GROUP` columns: `(b, w)` -> `(b, w / GROUP)`."""
    return block.view(len(block), -1, GROUP).amax(dim=2)


def count_at_least_(block: torch.Tensor, threshold: torch.Tensor, highest: torch.Tensor | None = None) -> torch.Tensor:
    """How many values of each row are >= that row's threshold; `block` is used up.

    A comparison in place gives ones and zeros in the block's own dtype, which PyTorch vectorises on CPU: with the sum
    five times faster than `(block >= threshold).sum(1)`, whose bool result is written one by one. With the groups'
    maxima, groups that stay below are not even looked into, unless too many do not: with a good model's targets as
    thresholds they are most.

    Args:
        block: `(b, w)` floating, `w` a multiple of `GROUP` where `highest` is given; overwritten.
        threshold: `(b, 1)`.
        highest: `group_maxima(block)`, where the caller has them already.

    Returns:
        `(b,)` int64.
    """
    if highest is not None:
        reached = (highest >= threshold).view(-1).nonzero().view(-1)
        if len(reached) < highest.numel() // 3:  # beyond, taking groups out costs more than it saves
            row = reached // highest.shape[1]
            values = block.view(-1, GROUP).index_select(0, reached)
            counts = values.ge_(threshold.index_select(0, row)).sum(dim=1)
            return torch.zeros(len(block), dtype=torch.int64, device=block.device).index_add_(0, row, counts.long())
    exact = None if block.shape[1] <= 2**24 else torch.float64  # float32 counts whole numbers up to 2**24
    return block.ge_(threshold).sum(dim=1, dtype=exact).to(torch.int64)
