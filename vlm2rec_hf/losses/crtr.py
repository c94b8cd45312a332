r"""Cross-modal relational topology regularisation (CRTR).

Both modalities should rank the candidates alike. With the soft ranking of modality `m` (text T, image V)

    q_u^m(j) = softmax_j( s(u^m, i_j^m) / tau_r )                   over the target and the negatives of u
    L_CRTR   = 1/2 mean_u [ KL(q_u^T || q_u^V) + KL(q_u^V || q_u^T) ]

"Bidirectional KL between the modalities' soft rankings of the in-batch candidates" is from the paper (arXiv
2603.17450); the temperature `tau_r`, the mask and the switch `stop_gradient` are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .info_nce import check_positive_number, positive_columns, scaled
from .similarity import ViewSimilarities
from .wpcl import ModalityMargins, check_choice

STOP_GRADIENTS = ("none", "strong")


def crtr_candidates(views: ViewSimilarities, positive: Tensor, negatives: Tensor) -> Tensor:
    """`(B, C)` bool: target and negatives that have both modalities, for users that have both."""
    ranked = negatives | positive_columns(positive, negatives)
    candidate_has = views.candidate_has_text & views.candidate_has_image
    return ranked & candidate_has[None, :] & (views.user_has_text & views.user_has_image)[:, None]


def crtr(
    sim_text: Tensor,
    sim_image: Tensor,
    valid: Tensor,
    temperature_r: float,
    stop_gradient: str = "none",
    margins: ModalityMargins | None = None,
) -> tuple[Tensor, Tensor]:
    """CRTR per user.

    Args:
        sim_text: `(B, C)` cosines of the text vectors.
        sim_image: `(B, C)` cosines of the image vectors.
        valid: `(B, C)` bool, the candidates ranked for each user, the target among them; only candidates with both
            modalities, and only for users with both (see `crtr_candidates`).
        temperature_r: `tau_r`, divides.
        stop_gradient: `"none"`: each modality moves towards the other; `"strong"`: the modality with the larger
            margin is a constant for that user, so a collapsed modality cannot drag the healthy one down. With exactly
            equal margins neither is stronger and both move. Users whose margins cannot be compared (the target lacks
            a modality) are left out.
        margins: per-user margins, needed by `"strong"`.

    Returns:
        `(B,)` losses in float32 (float64 stays), 0 without gradient for users left out; and `(B,)` bool, the users
        counted: at least two valid candidates, since a ranking of one candidate says nothing.

    Raises:
        ValueError: an unknown `stop_gradient`, missing or per-pair `margins` with `"strong"`, a `temperature_r` not
            above 0, or shapes that differ.
    """
    check_choice("stop_gradient", stop_gradient, STOP_GRADIENTS)
    check_positive_number("temperature_r", temperature_r)
    if not sim_text.shape == sim_image.shape == valid.shape:
        raise ValueError(
            "`sim_text`, `sim_image` and `valid` must have one shape (B, C), "
            f"got {tuple(sim_text.shape)}, {tuple(sim_image.shape)} and {tuple(valid.shape)}."
        )
    counted = valid.sum(dim=1) > 1
    log_text = _log_softmax(sim_text, valid, temperature_r)
    log_image = _log_softmax(sim_image, valid, temperature_r)
    if stop_gradient == "strong":
        if margins is None or margins.text.dim() != 1:
            raise ValueError(
                "`margins` must be per-user margins when `stop_gradient` is 'strong', "
                f"got {'None' if margins is None else tuple(margins.text.shape)}; use `modality_margins`."
            )
        counted = counted & margins.comparable
        log_text = torch.where((margins.text > margins.image)[:, None], log_text.detach(), log_text)
        log_image = torch.where((margins.image > margins.text)[:, None], log_image.detach(), log_image)
    # KL(T||V) + KL(V||T) = sum (q^T - q^V)(log q^T - log q^V): every summand is at least 0, also after rounding.
    divergence = (log_text.exp() - log_image.exp()) * (log_text - log_image)
    per_user = 0.5 * torch.where(valid, divergence, 0.0).sum(dim=1)
    return torch.where(counted, per_user, 0.0), counted


def _log_softmax(similarity: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """`log q` over the valid candidates, 0 elsewhere (there `q` is not 0; the caller masks)."""
    masked = ~valid & valid.any(dim=1, keepdim=True)  # an empty row stays unmasked, or it would be NaN
    log_q = scaled(similarity, temperature).masked_fill(masked, -torch.inf).log_softmax(dim=1)
    return log_q.masked_fill(masked, 0.0)
