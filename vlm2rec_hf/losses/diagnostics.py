"""What to watch during training: margins, weights and masks of a batch as detached scalars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .wpcl import ModalityMargins

_LARGEST_LOG = 60.0


Summed = tuple[Tensor, Tensor]
"""A sum and the number of its summands: means over blocks of users are made of these."""


def margin_diagnostics(
    mean_margins: ModalityMargins, margins: ModalityMargins, gap: Tensor, log_omega: Tensor, weighted: Tensor
) -> dict[str, Summed]:
    """Summarise how balanced the modalities are.

    Args:
        mean_margins: per-user margins of the form `"mean"`, in units of cosine whatever form the loss uses, so that
            runs with different switches can be compared.
        margins: the margins that decide which modality is weak, `(B,)` or `(B, C)`.
        gap: like `margins`.
        log_omega: like `margins`.
        weighted: bool like `margins`, where a weight takes part in the loss.

    Returns:
        `margin_text`, `margin_image`: means over the users for whom they are defined; `gap`, `weak_image_share`: means
        over comparable users (pairs); `comparable_share`: how many of the weighted users (pairs) these are; `omega`:
        mean weight of the negatives. Each as a sum and a count.
    """
    comparable = margins.comparable
    return {
        "margin_text": masked_sum(mean_margins.text, mean_margins.has_text),
        "margin_image": masked_sum(mean_margins.image, mean_margins.has_image),
        "gap": masked_sum(gap, comparable),
        "weak_image_share": masked_sum((margins.image < margins.text).float(), comparable),
        "comparable_share": masked_sum(comparable.float(), weighted),
        # Capped at e^60 so that a float32 mean stays finite; the loss itself works with log omega.
        "omega": masked_sum(log_omega.clamp(max=_LARGEST_LOG).exp(), weighted),
    }


def mask_diagnostics(negatives: Tensor, candidate_valid: Tensor | None, counted: Tensor) -> dict[str, Summed]:
    """Summarise the negative mask.

    Args:
        negatives: `(B, C)` bool.
        candidate_valid: `(C,)` bool or None.
        counted: `(B,)` bool, users that take part in the loss.

    Returns:
        `n_negatives`: mean per user; `n_skipped_users`; `masked_false_negatives`: share of the other users' targets
        that were masked because the user wants or has seen them. Each as a sum and a count.
    """
    n_users, n_candidates = negatives.shape
    n_negatives = negatives.sum().float()
    n_valid = torch.full_like(n_negatives, n_candidates) if candidate_valid is None else candidate_valid.sum()
    n_others = n_users * (n_valid - 1)
    users = torch.full_like(n_negatives, n_users)
    return {
        "n_negatives": (n_negatives, users),
        "n_skipped_users": ((~counted).sum().float(), torch.zeros_like(users)),
        "masked_false_negatives": (n_others - n_negatives, n_others),
    }


def means_of(blocks: Sequence[dict[str, Summed]]) -> dict[str, Tensor]:
    """Means over several blocks of users; NaN for a margin's mean over nothing."""
    means = {}
    for name in blocks[0]:
        total = torch.stack([block[name][0] for block in blocks]).sum()
        count = torch.stack([block[name][1] for block in blocks]).sum()
        if name == "n_skipped_users":
            means[name] = total
        else:
            means[name] = total / (count.clamp(min=1) if name in ("n_negatives", "masked_false_negatives") else count)
    return means


def masked_sum(values: Tensor, mask: Tensor) -> Summed:
    """Sum of `values` where `mask`, and how many there are."""
    return torch.where(mask, values, 0.0).sum(), mask.sum()
