"""What to watch during training: margins, weights and masks of a batch as detached scalars."""

from __future__ import annotations

import torch
from torch import Tensor

from .wpcl import ModalityMargins

_LARGEST_LOG = 60.0


def margin_diagnostics(
    mean_margins: ModalityMargins, margins: ModalityMargins, gap: Tensor, log_omega: Tensor, weighted: Tensor
) -> dict[str, Tensor]:
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
        mean weight of the negatives. A mean over nothing is NaN.
    """
    comparable = margins.comparable
    return {
        "margin_text": masked_mean(mean_margins.text, mean_margins.has_text),
        "margin_image": masked_mean(mean_margins.image, mean_margins.has_image),
        "gap": masked_mean(gap, comparable),
        "weak_image_share": masked_mean((margins.image < margins.text).float(), comparable),
        "comparable_share": masked_mean(comparable.float(), weighted),
        # Capped at e^60 so that a float32 mean stays finite; the loss itself works with log omega.
        "omega": masked_mean(log_omega.clamp(max=_LARGEST_LOG).exp(), weighted),
    }


def mask_diagnostics(negatives: Tensor, candidate_valid: Tensor | None, counted: Tensor) -> dict[str, Tensor]:
    """Summarise the negative mask.

    Args:
        negatives: `(B, C)` bool.
        candidate_valid: `(C,)` bool or None.
        counted: `(B,)` bool, users that take part in the loss.

    Returns:
        `n_negatives`: mean per user; `n_skipped_users`; `masked_false_negatives`: share of the other users' targets
        that were masked because the user wants or has seen them.
    """
    n_users, n_candidates = negatives.shape
    n_negatives = negatives.sum().float()
    n_valid = torch.full_like(n_negatives, n_candidates) if candidate_valid is None else candidate_valid.sum()
    n_others = n_users * (n_valid - 1)
    return {
        "n_negatives": n_negatives / max(n_users, 1),
        "n_skipped_users": (~counted).sum().float(),
        "masked_false_negatives": (n_others - n_negatives) / n_others.clamp(min=1),
    }


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; NaN if that is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()
