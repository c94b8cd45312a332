"""How likely each item is drawn as an in-batch candidate, for the logQ correction."""

from __future__ import annotations

import numpy as np
import torch


def candidate_log_q(target_counts: np.ndarray, targets_per_batch: float) -> torch.Tensor:
    """Log of the probability that an item is among the distinct targets of a batch.

    With `p_i` the item's share of all targets and `N` targets per batch, `q_i = 1 - (1 - p_i)^N`: the expected count
    of an item among distinct draws, as in sampled softmax (Jean et al., 2015).

    Args:
        target_counts: `(n_items,)` how often each item is a target in an epoch.
        targets_per_batch: `N`, of all processes where candidates are gathered.

    Returns:
        `(n_items,)` float32, finite: an item that is never a target gets the smallest number of the others (it is
        never a candidate either).

    Raises:
        ValueError: no targets at all.
    """
    counts = np.asarray(target_counts, dtype=np.float64)
    if not counts.sum() > 0:
        raise ValueError("`target_counts` are all 0: there is no target to draw.")
    share = np.where(counts > 0, counts, counts[counts > 0].min()) / counts.sum()
    with np.errstate(divide="ignore"):  # a single item is in every batch: log 0 is right there
        log_q = np.log(-np.expm1(max(targets_per_batch, 1.0) * np.log1p(-share)))
    return torch.from_numpy(log_q.astype(np.float32))
