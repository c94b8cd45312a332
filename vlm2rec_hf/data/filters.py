"""What filters take out of a log of interactions, and the step they leave in the provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..columns import ITEM_ID, TIMESTAMP
from . import quarantine as q
from . import splits
from .interaction_log import POSITION, InteractionLog, k_core_rows
from .sequences import TRAIN
from .validation import count_oddities


def keep_core(log: InteractionLog, k: int) -> tuple[InteractionLog, np.ndarray, dict[str, Any]]:
    """The k-core; see `RecDataset.k_core`.

    Returns:
        The log, the places `(n,)` of the items that stay, and the step with its counts.

    Raises:
        ValueError: `k < 1`, or nothing left.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    n_items = len(log.item_ids)
    rows = k_core_rows(log.user, log.item, len(log.user_ids), n_items, k)
    if not rows.any():
        raise ValueError(f"`k` = {k} leaves no interaction of {len(log)}; choose a smaller one.")
    kept = log.keep(rows)
    items = np.flatnonzero(np.bincount(kept.item, minlength=n_items))
    step = {
        "step": "k_core",
        "k": k,
        "removed_users": len(log.user_ids) - len(kept.user_ids),
        "removed_items": n_items - len(items),
        "removed_interactions": len(log) - len(kept),
    }
    return kept.restrict_items(items), items, step


def recounted(
    log: InteractionLog, noted: dict[str, int], step: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Oddities as they are once rows went, and the step with what was noted before (without zeros).

    What only the input can tell, such as its order, is no longer said of what is left.
    """
    keys = [log.columns[name].to_numpy() for name in (TIMESTAMP, POSITION) if name in log.columns]
    before = {what: number for what, number in noted.items() if number}
    return count_oddities(log.user, log.item, keys, TIMESTAMP in log.columns), step | (
        {"noted_before": before} if before else {}
    )


def take_out_cold(
    log: InteractionLog, item_ids: np.ndarray, fraction: float, seed: int
) -> tuple[InteractionLog, pa.Table, dict[str, Any]]:
    """Hold items out of train; see `RecDataset.hold_out_cold_items`.

    Args:
        log: a split log.
        item_ids: `(n_items,)` raw ids.
        fraction: in (0, 1).
        seed: of the choice.

    Returns:
        The log without their train interactions, these for the quarantine, and `{fraction, seed, items}`.

    Raises:
        ValueError: `fraction` outside (0, 1), or an empty train split.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must lie between 0 and 1, got {fraction}.")
    cold = splits.cold_choice(item_ids, fraction, seed)
    out = cold[log.item] & (log.split == TRAIN)
    if not np.any((log.split == TRAIN) & ~out):
        raise ValueError(
            f"`fraction` = {fraction} with `seed` = {seed} would leave train empty; choose a smaller one."
        )
    moved = q.of_rows(log.rows(out), np.flatnonzero(out), table="interactions", reason="cold_hold_out", column=ITEM_ID)
    return log.keep(~out), moved, {"fraction": fraction, "seed": seed, "items": int(cold.sum())}
