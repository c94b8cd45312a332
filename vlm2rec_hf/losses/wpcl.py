r"""Weak-modality penalised contrastive learning (WPCL).

For user `u` with target `i+`, negatives `N_u` and modality `m` (text T, image V), `s` = cosine:

    D_u^m   = s(u^m, i+^m) - mean_{j in N_u} s(u^m, i_j^m)          margin of a modality
    gap_u   = relu( stopgrad(D_u^strong) - D_u^weak )               weak = the modality with the smaller margin
    omega_u = exp(lambda * gap_u)                                   penalty
    L_WPCL  = - mean_u log [ e^{s(u,i+)/tau} / ( e^{s(u,i+)/tau} + omega_u sum_{j in N_u} e^{s(u,j)/tau} ) ]

(`margin="mean"`; the default of `VLM2RecLoss` is the target's log-probability in the view: see `modality_margins`.)
As d L / d log omega_u = 1 - p_+, the weak margin receives the extra gradient lambda * (1 - p_+), and the strong margin
none. That the stronger margin is frozen and the negative term amplified is from the paper (arXiv 2603.17450); the form
of margin and weight is our choice, hence the switches `margin`, `penalty`, `detach` and `scope`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .info_nce import check_positive_number, info_nce, modality_of, scaled
from .similarity import ViewSimilarities

MARGINS = ("mean", "hardest", "logmeanexp", "logprob")
PENALTIES = ("exp", "linear")
DETACHES = ("strong", "both")
SCOPES = ("user", "pair")


@dataclass(frozen=True)
class ModalityMargins:
    """How well each modality alone separates the target from the negatives.

    Shapes are `(B,)` per user, or `(B, C)` per negative with `scope="pair"`. Undefined margins hold 0.

    Attributes:
        text: text margin.
        image: image margin.
        has_text: bool, whether the text margin is defined: user, target and at least one negative (for a pair: this
            negative) have text.
        has_image: bool, the same for images.
    """

    text: Tensor
    image: Tensor
    has_text: Tensor
    has_image: Tensor

    @property
    def comparable(self) -> Tensor:
        """Bool, both margins are defined; elsewhere no modality can be called weak."""
        return self.has_text & self.has_image

    def detach(self) -> ModalityMargins:
        """The same numbers, detached."""
        return ModalityMargins(self.text.detach(), self.image.detach(), self.has_text, self.has_image)


@dataclass(frozen=True)
class WPCLOutput:
    """Per-user WPCL and its intermediate values (detached).

    Attributes:
        per_user: `(B,)` loss.
        margins: the margins compared.
        gap: `(B,)` or, per pair, `(B, C)`; 0 where the margins are not comparable.
        log_omega: like `gap`; 0 means weight 1.
    """

    per_user: Tensor
    margins: ModalityMargins
    gap: Tensor
    log_omega: Tensor


def wpcl(
    views: ViewSimilarities,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    strength: float,
    margin: str = "mean",
    penalty: str = "exp",
    detach: str = "strong",
    scope: str = "user",
    candidate_log_q: Tensor | None = None,
) -> WPCLOutput:
    """WPCL per user. `strength=0` is InfoNCE on the fused similarity, bit for bit.

    Args:
        views: similarities of `B` users and `C` candidates.
        positive: `(B,)` long, column of each user's target.
        negatives: `(B, C)` bool.
        temperature: `tau`, divides; also used by the margins `logmeanexp` and `logprob`.
        strength: `lambda`, at least 0.
        margin: see `modality_margins`.
        penalty: `"exp"`: `omega = exp(lambda * gap)`; `"linear"`: `omega = 1 + lambda * gap`.
        detach: `"strong"`: only the stronger margin is frozen; `"both"`: the weight is a constant (for the ablation:
            nothing is then rebalanced).
        scope: `"user"`: one weight per user; `"pair"`: one per negative, from margins against that negative alone.
        candidate_log_q: `(C,)`; see `info_nce`. Margins compare similarities as they are (our choice).

    Raises:
        ValueError: an unknown switch, a `temperature` not above 0 or a negative `strength`.
    """
    margins = modality_margins(views, positive, negatives, temperature=temperature, margin=margin, scope=scope)
    gap = margin_gap(margins, detach)
    log_weight = log_omega(gap, strength, penalty)
    loss = info_nce(views.both, positive, negatives, temperature, log_weight, candidate_log_q)
    return WPCLOutput(loss, margins.detach(), gap.detach(), log_weight.detach())


def margin_gap(margins: ModalityMargins, detach: str = "strong") -> Tensor:
    """`relu(stopgrad(D^strong) - D^weak)`; 0 without gradient where a modality is missing.

    Raises:
        ValueError: an unknown `detach`.
    """
    check_choice("detach", detach, DETACHES)
    strong = torch.maximum(margins.text, margins.image).detach()
    weak = torch.minimum(margins.text, margins.image)
    gap = torch.where(margins.comparable, torch.relu(strong - weak), 0.0)
    return gap.detach() if detach == "both" else gap


def log_omega(gap: Tensor, strength: float, penalty: str = "exp") -> Tensor:
    """`log omega` of the negatives' weight, same shape as `gap`.

    Raises:
        ValueError: an unknown `penalty` or a negative `strength`.
    """
    check_choice("penalty", penalty, PENALTIES)
    if not strength >= 0:
        raise ValueError(f"`strength` (lambda) must be at least 0, got {strength!r}.")
    return strength * gap if penalty == "exp" else torch.log1p(strength * gap)


def modality_margins(
    views: ViewSimilarities,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    margin: str = "mean",
    scope: str = "user",
) -> ModalityMargins:
    """Margin of each modality, over the negatives that have this modality (our choice).

    `margin` is one of

    - `"mean"`: `s+ - mean_j s_j`, in units of cosine;
    - `"hardest"`: `s+ - max_j s_j`, cosine;
    - `"logmeanexp"`: `s+ - tau * log mean_j e^{s_j/tau}`, cosine, between the two above;
    - `"logprob"`: `log [ e^{s+/tau} / ( e^{s+/tau} + sum_j e^{s_j/tau} ) ]`, in nats, so about `1/tau` times larger:
      lower `lambda` accordingly.

    Args:
        views: similarities.
        positive: `(B,)` long.
        negatives: `(B, C)` bool.
        temperature: `tau`, read by `logmeanexp` and `logprob`.
        margin: the form.
        scope: `"user"`: one margin per user; `"pair"`: one per negative, as if it were the only one (the first three
            forms then coincide in `s+ - s_j`, and `logprob` is `log sigmoid((s+ - s_j) / tau)`).

    Returns:
        Margins `(B,)`, or `(B, C)` with `scope="pair"`.

    Raises:
        ValueError: an unknown `margin` or `scope`, or a `temperature` not above 0.
    """
    check_choice("margin", margin, MARGINS)
    check_choice("scope", scope, SCOPES)
    check_positive_number("temperature", temperature)
    values, defined = [], []
    for modality in ("text", "image"):
        similarity, user_has, candidate_has = modality_of(views, modality)
        usable = negatives & candidate_has[None, :]
        has_both_ends = user_has & candidate_has[positive]
        if scope == "pair":
            value = _pair_margin(similarity, positive, temperature, margin)
            exists = usable & has_both_ends[:, None]
        else:
            value = _user_margin(similarity, positive, usable, temperature, margin)
            exists = has_both_ends & usable.any(dim=1)
        values.append(torch.where(exists, value, 0.0))
        defined.append(exists)
    return ModalityMargins(values[0], values[1], defined[0], defined[1])


def _user_margin(similarity: Tensor, positive: Tensor, usable: Tensor, temperature: float, margin: str) -> Tensor:
    """`(B,)` margins; rows without a usable negative hold a finite number that the caller discards."""
    if margin == "logprob":
        return -info_nce(similarity, positive, usable, temperature)
    target = similarity.gather(1, positive[:, None]).squeeze(1)
    count = usable.sum(dim=1)
    if margin == "mean":
        return target - torch.where(usable, similarity, 0.0).sum(dim=1) / count.clamp(min=1)
    masked = ~usable & (count > 0)[:, None]  # an empty row stays unmasked: minus infinity throughout would give NaN
    if margin == "hardest":
        return target - similarity.masked_fill(masked, -torch.inf).amax(dim=1)
    logits = scaled(similarity, temperature).masked_fill(masked, -torch.inf)
    return target - temperature * (logits.logsumexp(dim=1) - count.clamp(min=1).to(logits.dtype).log())


def _pair_margin(similarity: Tensor, positive: Tensor, temperature: float, margin: str) -> Tensor:
    """`(B, C)` margins of the target against each candidate alone."""
    difference = similarity.gather(1, positive[:, None]) - similarity
    return torch.nn.functional.logsigmoid(difference / temperature) if margin == "logprob" else difference


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
