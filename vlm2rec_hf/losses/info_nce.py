"""InfoNCE over in-batch candidates, with optional weights on the negatives, for the fused and the single views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .gather import average_over_processes
from .similarity import ViewSimilarities


def info_nce(
    similarity: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    candidate_log_q: Tensor | None = None,
) -> Tensor:
    """InfoNCE per user, `-log [ e^{s+/tau} / ( e^{s+/tau} + sum_j omega_j e^{s_j/tau} ) ]`.

    A user without a single negative has loss 0 and gradient 0. Without `log_weight` the result is bit-equal to
    `log_weight = 0`.

    With `candidate_log_q` the logit of every candidate, the target's too, is `s/tau - log q` (the logQ correction of
    sampled softmax; Yi et al., 2019): then `s/tau` learns `log p(i|u)` instead of `log p(i|u) - log q(i)`.

    Args:
        similarity: `(B, C)` cosine similarities.
        positive: `(B,)` long, column of each user's target.
        negatives: `(B, C)` bool, the candidates in the sum; the positive's own column never counts.
        temperature: `tau`, divides.
        log_weight: `log omega`, `(B,)` one weight per user or `(B, C)` one per negative.
        candidate_log_q: `(C,)` log of the probability that the item is drawn as a candidate, finite.

    Returns:
        `(B,)` losses in float32 (float64 stays).

    Raises:
        ValueError: a `temperature` that is not positive, or shapes that do not fit together.
    """
    check_positive_number("temperature", temperature)
    if similarity.shape != negatives.shape or positive.shape != similarity.shape[:1]:
        raise ValueError(
            "`similarity` and `negatives` must have one shape (B, C) and `positive` the shape (B,), "
            f"got {tuple(similarity.shape)}, {tuple(negatives.shape)} and {tuple(positive.shape)}."
        )
    logits = scaled(similarity, temperature)
    if candidate_log_q is not None:
        if candidate_log_q.shape != similarity.shape[1:]:
            raise ValueError(
                f"`candidate_log_q` must hold one number per candidate ({similarity.shape[1]}), "
                f"got shape {tuple(candidate_log_q.shape)}."
            )
        logits = logits - candidate_log_q.to(logits.dtype)
    is_positive = positive_columns(positive, negatives)
    negatives = negatives & ~is_positive
    if log_weight is not None:
        if log_weight.shape not in (similarity.shape, positive.shape):
            raise ValueError(
                f"`log_weight` must have the shape (B,) or (B, C) of `similarity` {tuple(similarity.shape)}, "
                f"got {tuple(log_weight.shape)}."
            )
        weighted = logits + (log_weight if log_weight.dim() == 2 else log_weight[:, None])
        logits = torch.where(negatives, weighted, logits)
    # The positive is always kept, so no row is empty and minus infinity gives no NaN, in the value or the gradient.
    logits = logits.masked_fill(~(negatives | is_positive), -torch.inf)
    return functional.cross_entropy(logits, positive, reduction="none")


def unimodal_info_nce(
    views: ViewSimilarities,
    modality: str,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    candidate_log_q: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of one modality alone, over the users, targets and negatives that have it.

    Args:
        views: similarities; the view named by `modality` is used.
        modality: `"text"` or `"image"`.
        positive: `(B,)` long.
        negatives: `(B, C)` bool.
        temperature: `tau`, divides.
        candidate_log_q: `(C,)`; see `info_nce`.

    Returns:
        `(B,)` losses, and `(B,)` bool: user and target have the modality and there is a negative that has it. The
        losses of the other users are 0 and have no gradient.

    Raises:
        ValueError: an unknown `modality`, or as `info_nce`.
    """
    similarity, user_has, candidate_has = modality_of(views, modality)
    usable = negatives & candidate_has[None, :]
    counted = user_has & candidate_has[positive] & usable.any(dim=1)
    loss = info_nce(similarity, positive, usable, temperature, candidate_log_q=candidate_log_q)
    return torch.where(counted, loss, 0.0), counted


def modality_of(views: ViewSimilarities, modality: str) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity `(B, C)`, user presence `(B,)` and candidate presence `(C,)` of `"text"` or `"image"`.

    Raises:
        ValueError: an unknown `modality`.
    """
    if modality == "text":
        return views.text, views.user_has_text, views.candidate_has_text
    if modality == "image":
        return views.image, views.user_has_image, views.candidate_has_image
    raise ValueError(f"`modality` must be 'text' or 'image', got {modality!r}.")


def mean_over_users(per_user: Tensor, counted: Tensor, across_processes: bool = False) -> Tensor:
    """Average `(B,)` losses over the users in `counted` `(B,)` bool; 0 if there are none.

    Args:
        per_user: `(B,)` losses.
        counted: `(B,)` bool.
        across_processes: see `mean_of_sum`.
    """
    return mean_of_sum(torch.where(counted, per_user, 0.0).sum(), counted.sum(), across_processes)


def mean_of_sum(total: Tensor, count: Tensor, across_processes: bool = False) -> Tensor:
    """A mean from its sum and the number of its summands; 0 if there are none.

    Args:
        total: scalar.
        count: scalar.
        across_processes: divide by the mean number of counted users per process instead of this process's own.
            The average of the processes' results, which is what data-parallel training follows, is then the mean over
            all users. A collective: every process has to take part.
    """
    count = count.to(total.dtype)
    if across_processes:
        count = average_over_processes(count)
    return total / torch.where(count > 0, count, 1.0)


def scaled(similarity: Tensor, temperature: float) -> Tensor:
    """`s / tau` in float32 (float64 stays)."""
    return (similarity if similarity.dtype == torch.float64 else similarity.float()) / temperature


def positive_columns(positive: Tensor, like: Tensor) -> Tensor:
    """`(B, C)` bool with the shape of `like`, True at each user's positive."""
    return torch.zeros_like(like, dtype=torch.bool).scatter_(1, positive[:, None], True)


def check_positive_number(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a number above 0."""
    if not value > 0:
        raise ValueError(f"`{name}` must be above 0, got {value!r}.")
