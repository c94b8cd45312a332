"""Which in-batch candidates may serve as negatives of which user.

In-batch negatives are other users' targets, so some of them are false: the same item wanted by two users of the
batch, or an item the user already interacted with. Both are recognised by item id and masked (our choice; the paper
only
says "in-batch candidates").
"""

from __future__ import annotations

import torch
from torch import Tensor


def negative_mask(
    target_ids: Tensor,
    candidate_ids: Tensor,
    positive: Tensor,
    history_ids: Tensor | None = None,
    candidate_valid: Tensor | None = None,
    past: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mark the candidates that are true negatives of each user.

    Candidate `j` is a negative of user `u` unless it is the user's target (by item id, in whichever column it
    stands), or an item of the user's history, or marked invalid. The history test sorts the candidates once and looks
    each history item up, so memory grows with `B * (C + H)`, never with `B * C * H`.

    Args:
        target_ids: `(B,)` long, item id of each user's target.
        candidate_ids: `(C,)` long, item id of each candidate; ids may repeat.
        positive: `(B,)` long, column of each user's target among the candidates.
        history_ids: `(B, H)` long, items to spare; negative values are padding.
        candidate_valid: `(C,)` bool, False for columns that are no candidates at all (padding after a gather).
        past: more items to spare that several users share: `(R, P)` long, padded with negative values, and `(B,)`
            long, which of the `R` rows is each user's.

    Returns:
        `(B, C)` bool, True where candidate `j` is a negative of user `u`.

    Raises:
        ValueError: shapes or types that do not fit together, or (CPU tensors only, see `check_positives`) a `positive`
            that does not point at the target.
    """
    _check_shapes(target_ids, candidate_ids, positive, history_ids, candidate_valid)
    if not target_ids.is_cuda:
        check_positives(target_ids, candidate_ids, positive)
    negatives = candidate_ids[None, :] != target_ids[:, None]
    negatives.scatter_(1, positive[:, None], False)
    if history_ids is not None and history_ids.numel() and candidate_ids.numel():
        negatives &= ~seen_candidates(candidate_ids, history_ids)
    if past is not None and past[0].numel() and candidate_ids.numel():
        negatives &= ~seen_candidates(candidate_ids, past[0])[past[1]]
    if candidate_valid is not None:
        negatives &= candidate_valid[None, :]
    return negatives


def seen_candidates(candidate_ids: Tensor, history_ids: Tensor) -> Tensor:
    """Mark the candidates that stand in each user's history: `(C,)` and `(B, H)` long -> `(B, C)` bool."""
    n_users, n_candidates = len(history_ids), len(candidate_ids)
    ids = candidate_ids.sort().values
    # Each distinct id is represented by its first place in sorted order; nothing here needs to know how many distinct
    # ids there are, so a GPU is never made to wait for the CPU.
    representative = torch.searchsorted(ids, candidate_ids.contiguous())
    place = torch.searchsorted(ids, history_ids.contiguous()).clamp_(max=n_candidates - 1)
    is_candidate = (ids[place] == history_ids) & (history_ids >= 0)
    # Misses are written to one spare column at the end, which is then dropped by the look-up.
    seen = torch.zeros(n_users, n_candidates + 1, dtype=torch.bool, device=candidate_ids.device)
    seen.scatter_(1, torch.where(is_candidate, place, n_candidates), True)
    return seen[:, representative]


def check_positives(target_ids: Tensor, candidate_ids: Tensor, positive: Tensor) -> None:
    """Check that column `positive[u]` holds user `u`'s target; a wrong offset after a gather is caught here.

    On a GPU this waits for the device, so `negative_mask` leaves it out there and `VLM2RecLoss` calls it once.

    Args:
        target_ids: `(B,)` long.
        candidate_ids: `(C,)` long.
        positive: `(B,)` long.

    Raises:
        ValueError: shapes that do not fit, a column out of range, or a column that holds another item.
    """
    _check_shapes(target_ids, candidate_ids, positive, None, None)
    if not len(positive):
        return
    low, high = int(positive.min()), int(positive.max())
    if low < 0 or high >= len(candidate_ids):
        raise ValueError(
            f"`positive` must hold columns of the {len(candidate_ids)} candidates, got values from {low} to {high}."
        )
    wrong = (candidate_ids[positive] != target_ids).nonzero().flatten()
    if len(wrong):
        user = int(wrong[0])
        raise ValueError(
            f"`positive` must point at each user's target: user {user} wants item {int(target_ids[user])}, but column "
            f"{int(positive[user])} holds item {int(candidate_ids[positive[user]])}. After a gather across processes "
            "add this process's offset (see `gather_candidates`)."
        )


def _check_shapes(
    target_ids: Tensor,
    candidate_ids: Tensor,
    positive: Tensor,
    history_ids: Tensor | None,
    candidate_valid: Tensor | None,
) -> None:
    n_users = len(target_ids)
    for name, ids in (("target_ids", target_ids), ("candidate_ids", candidate_ids), ("positive", positive)):
        if ids.dim() != 1 or ids.dtype != torch.long:
            raise ValueError(
                f"`{name}` must be a one-dimensional long tensor, got {ids.dtype} of shape {tuple(ids.shape)}."
            )
    if len(positive) != n_users:
        raise ValueError(f"`positive` must hold one column per user ({n_users}), got {len(positive)}.")
    if history_ids is not None and (
        history_ids.dim() != 2 or len(history_ids) != n_users or history_ids.dtype != torch.long
    ):
        raise ValueError(
            f"`history_ids` must be a long tensor of shape ({n_users}, H) padded with -1, "
            f"got {history_ids.dtype} of shape {tuple(history_ids.shape)}."
        )
    if candidate_valid is not None and (
        candidate_valid.shape != candidate_ids.shape or candidate_valid.dtype != torch.bool
    ):
        raise ValueError(
            f"`candidate_valid` must be a bool tensor of shape ({len(candidate_ids)},), "
            f"got {candidate_valid.dtype} of shape {tuple(candidate_valid.shape)}."
        )
