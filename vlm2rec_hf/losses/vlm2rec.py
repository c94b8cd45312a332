"""The training objectives of VLM2Rec and of the baselines beside it, behind one module."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..columns import VIEWS
from .crtr import STOP_GRADIENTS, crtr, crtr_candidates
from .diagnostics import Summed, margin_diagnostics, mask_diagnostics, masked_sum, means_of
from .info_nce import info_nce, mean_of_sum, unimodal_info_nce
from .masks import check_positives, negative_mask
from .schedules import Schedule
from .similarity import ViewSimilarities, ViewVectors, view_similarities
from .wpcl import (
    DETACHES,
    MARGINS,
    PENALTIES,
    SCOPES,
    ModalityMargins,
    WPCLOutput,
    check_choice,
    margin_gap,
    modality_margins,
    wpcl,
)

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": ("info_nce",),
    "sft+unimodal": ("info_nce", "info_nce_text", "info_nce_image"),
    "modality_dropout": ("info_nce",),
    "wpcl": ("wpcl",),
    "crtr": ("info_nce", "crtr"),
    "wpcl+crtr": ("wpcl", "crtr"),
    "wpcl+unimodal": ("wpcl", "info_nce_text", "info_nce_image"),
    "wpcl+crtr+unimodal": ("wpcl", "crtr", "info_nce_text", "info_nce_image"),
    "text_only": ("info_nce_text",),
    "image_only": ("info_nce_image",),
}
"""Objective -> names of its terms. `modality_dropout` is `sft` on vectors from which the trainer dropped a view."""

DEFAULT_OBJECTIVE = "wpcl+crtr+unimodal"
"""What the study chose; see docs/background/results.md."""

_VIEWS_OF_TERM: dict[str, tuple[str, ...]] = {
    "info_nce": ("both",),
    "info_nce_text": ("text",),
    "info_nce_image": ("image",),
    "wpcl": VIEWS,
    "crtr": ("text", "image"),
}

CITATION = """@misc{kim2026vlm2rec,
  title = {VLM2Rec: Resolving Modality Collapse in Vision-Language Model Embedders for Multimodal Sequential \
Recommendation},
  author = {Kim, Junyoung and Kim, Woojoo and Lim, Jaehyung and Kim, Dongha and Yu, Hwanjo},
  year = {2026},
  eprint = {2603.17450},
  archivePrefix = {arXiv},
  primaryClass = {cs.IR},
}"""


@dataclass(frozen=True)
class LossOutput:
    """Result of one forward pass of `VLM2RecLoss`.

    Attributes:
        terms: name -> scalar, already weighted; their sum is the loss.
        diagnostics: name -> detached scalar.
    """

    terms: dict[str, Tensor]
    diagnostics: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of the terms."""
        return torch.stack(list(self.terms.values())).sum() if len(self.terms) > 1 else next(iter(self.terms.values()))


@dataclass(frozen=True)
class _Batch:
    """What the terms of one forward pass share."""

    views: ViewSimilarities
    positive: Tensor
    negatives: Tensor
    temperature: float
    log_q: Tensor | None


class VLM2RecLoss(nn.Module):
    """Contrastive losses that keep both modalities useful, and their baselines.

    Numbers may be schedules (`Schedule.parse`), evaluated at `forward(progress=...)`. Defaults are our choice, by
    the validation split of the study (docs/background/results.md).

    Args:
        objective: one of `OBJECTIVES`.
        temperature: `tau` of every InfoNCE, divides.
        wpcl_lambda: strength of the weak-modality penalty.
        crtr_beta: weight of CRTR.
        crtr_temperature: `tau_r`, divides.
        margin: `"mean"`, `"hardest"`, `"logmeanexp"` or `"logprob"` (see `modality_margins`).
        penalty: `"exp"` or `"linear"` (see `wpcl`).
        detach: `"strong"` or `"both"` (see `wpcl`).
        scope: `"user"` or `"pair"` (see `wpcl`).
        crtr_stop_gradient: `"none"` or `"strong"` (see `crtr`).
        unimodal_weight: weight `w` of each single view in objectives with `unimodal`; the fused view's term has
            `1 - 2w`. At most 0.5.
        cross_terms: the fused view compares sums of text and image vectors, as in the paper; False: text with text and
            image with image alone (see `view_similarities`).
        sync_counts: average each term over the users of all processes instead of this process's own. Matters when
            processes skip different numbers of users. A collective: every process has to call the loss.

    Raises:
        ValueError: an unknown switch, or a number out of range.
    """

    def __init__(
        self,
        objective: str = DEFAULT_OBJECTIVE,
        *,
        temperature: float | str | Schedule = 0.05,
        wpcl_lambda: float | str | Schedule = 0.5,
        crtr_beta: float | str | Schedule = 0.05,
        crtr_temperature: float | str | Schedule = 0.1,
        margin: str = "logprob",
        penalty: str = "exp",
        detach: str = "strong",
        scope: str = "user",
        crtr_stop_gradient: str = "strong",
        unimodal_weight: float | str | Schedule = 1 / 3,
        cross_terms: bool = True,
        sync_counts: bool = False,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, tuple(OBJECTIVES))
        check_choice("margin", margin, MARGINS)
        check_choice("penalty", penalty, PENALTIES)
        check_choice("detach", detach, DETACHES)
        check_choice("scope", scope, SCOPES)
        check_choice("crtr_stop_gradient", crtr_stop_gradient, STOP_GRADIENTS)
        self.objective, self.margin, self.penalty, self.detach, self.scope = objective, margin, penalty, detach, scope
        self.crtr_stop_gradient = crtr_stop_gradient
        self.cross_terms, self.sync_counts = cross_terms, sync_counts
        self.temperature = _schedule("temperature", temperature, above=0.0)
        self.wpcl_lambda = _schedule("wpcl_lambda", wpcl_lambda, at_least=0.0)
        self.crtr_beta = _schedule("crtr_beta", crtr_beta, at_least=0.0)
        self.crtr_temperature = _schedule("crtr_temperature", crtr_temperature, above=0.0)
        self.unimodal_weight = _schedule("unimodal_weight", unimodal_weight, at_least=0.0, at_most=0.5)

        self._term_names = OBJECTIVES[objective]
        self._views_with_gradient = {view for name in self._term_names for view in _VIEWS_OF_TERM[name]}
        self._positives_checked = False

    def forward(
        self,
        users: ViewVectors,
        candidates: ViewVectors,
        target_ids: Tensor,
        candidate_ids: Tensor,
        positive: Tensor,
        history_ids: Tensor | None = None,
        progress: float = 0.0,
        candidate_valid: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        block: int | None = None,
        candidate_log_q: Tensor | None = None,
    ) -> LossOutput:
        """Compute the terms of the objective.

        Args:
            users: views of `B` users.
            candidates: views of `C` candidate items, the targets among them (after a gather: of all processes).
            target_ids: `(B,)` long, item ids of the targets.
            candidate_ids: `(C,)` long, item ids of the candidates.
            positive: `(B,)` long, column of each user's target.
            history_ids: `(B, H)` long, items that are no negatives of the user; padded with -1.
            progress: share of training done, in [0, 1], for schedules.
            candidate_valid: `(C,)` bool, False for columns to ignore.
            past: more items that are no negatives, shared by users: see `negative_mask`.
            block: users whose `(users, C)` matrices are held at once; they are computed again for the gradient, so
                memory grows with `block * C`. The result is the same. `None`: all.
            candidate_log_q: `(C,)` log of the probability that each item is drawn as a candidate, for the logQ
                correction of InfoNCE and WPCL (see `info_nce`). CRTR and the margins compare similarities as they
                are (our choice). `None`: no correction.

        Returns:
            Weighted terms and detached diagnostics (see docs/guides/losses.md for every name).

        Raises:
            ValueError: inputs that do not fit together.
        """
        if len(users) != len(target_ids) or len(candidates) != len(candidate_ids):
            raise ValueError(
                f"`target_ids` and `candidate_ids` must hold one id per row of `users` ({len(users)}) and "
                f"`candidates` ({len(candidates)}), got {len(target_ids)} and {len(candidate_ids)}."
            )
        # On a GPU this waits for the device, so there only the first batch is checked (on a CPU the mask checks all).
        if not self._positives_checked:
            check_positives(target_ids, candidate_ids, positive)
            self._positives_checked = True
        size = max(len(users), 1) if block is None else block
        parts = []
        for start in range(0, max(len(users), 1), size):
            rows = slice(start, start + size)
            given = (
                users.take(rows), candidates, target_ids[rows], candidate_ids, positive[rows],
                None if history_ids is None else history_ids[rows], candidate_valid,
                None if past is None else (past[0], past[1][rows]), progress, candidate_log_q,
            )  # fmt: skip
            alone = block is None or not torch.is_grad_enabled()
            parts.append(self._block(*given) if alone else checkpoint(self._block, *given, use_reentrant=False))
        weights = self._weights(progress)
        terms = {}
        for name in self._term_names:
            total = torch.stack([sums[name][0] for sums, _ in parts]).sum()
            count = torch.stack([sums[name][1] for sums, _ in parts]).sum()
            terms[name] = weights[name] * mean_of_sum(total, count, across_processes=self.sync_counts)
        with torch.no_grad():
            number = next(iter(terms.values())).new_full
            diagnostics = {
                **means_of([summed for _, summed in parts]),
                "temperature": number((), self.temperature(progress)),
                "lambda": number((), self.wpcl_lambda(progress) if "wpcl" in weights else 0.0),
                "beta": number((), weights.get("crtr", 0.0)),
            }
        return LossOutput(terms, diagnostics)

    def _block(
        self,
        users: ViewVectors,
        candidates: ViewVectors,
        target_ids: Tensor,
        candidate_ids: Tensor,
        positive: Tensor,
        history_ids: Tensor | None,
        candidate_valid: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        progress: float,
        candidate_log_q: Tensor | None,
    ) -> tuple[dict[str, Summed], dict[str, Summed]]:
        """Terms, not weighted, and diagnostics of some users, as sums and counts."""
        negatives = negative_mask(target_ids, candidate_ids, positive, history_ids, candidate_valid, past)
        views = view_similarities(users, candidates, self._views_with_gradient, self.cross_terms)
        batch = _Batch(views, positive, negatives, self.temperature(progress), candidate_log_q)
        penalised = self._penalise(batch, progress)
        margins = penalised.margins if self.scope == "user" else self._margins(batch, self.margin)
        sums = {}
        counted_anywhere = torch.zeros_like(target_ids, dtype=torch.bool)
        for name in self._term_names:
            per_user, counted = self._per_user(name, batch, penalised, margins, progress)
            sums[name] = masked_sum(per_user, counted)
            counted_anywhere = counted_anywhere | counted
        with torch.no_grad():
            mean_margins = margins if self.margin == "mean" else self._margins(batch, "mean")
            weighted = negatives if self.scope == "pair" else negatives.any(dim=1)
            diagnostics = {
                **margin_diagnostics(mean_margins, penalised.margins, penalised.gap, penalised.log_omega, weighted),
                **mask_diagnostics(negatives, candidate_valid, counted_anywhere),
            }
        return sums, diagnostics

    def _weights(self, progress: float) -> dict[str, float]:
        """Weight of each term of the objective."""
        weights = dict.fromkeys(self._term_names, 1.0)
        if "crtr" in weights:
            weights["crtr"] = self.crtr_beta(progress)
        if "unimodal" in self.objective:
            single = self.unimodal_weight(progress)
            weights |= {"info_nce_text": single, "info_nce_image": single}
            weights["wpcl" if "wpcl" in weights else "info_nce"] = 1 - 2 * single
        return weights

    def _per_user(
        self, name: str, batch: _Batch, penalised: WPCLOutput, margins: ModalityMargins, progress: float
    ) -> tuple[Tensor, Tensor]:
        """One term: `(B,)` losses and `(B,)` bool, the users to average over."""
        views, positive, negatives = batch.views, batch.positive, batch.negatives
        if name == "wpcl":
            return penalised.per_user, negatives.any(dim=1)
        if name == "info_nce":
            loss = info_nce(views.both, positive, negatives, batch.temperature, candidate_log_q=batch.log_q)
            return loss, negatives.any(dim=1)
        if name == "crtr":
            ranked = crtr_candidates(views, positive, negatives)
            tau_r = self.crtr_temperature(progress)
            return crtr(views.text, views.image, ranked, tau_r, self.crtr_stop_gradient, margins)
        modality = name.removeprefix("info_nce_")
        return unimodal_info_nce(views, modality, positive, negatives, batch.temperature, batch.log_q)

    def _penalise(self, batch: _Batch, progress: float) -> WPCLOutput:
        """WPCL if it is a term of the objective; otherwise the gap that it would see, at weight 1."""
        if "wpcl" in self._term_names:
            return wpcl(
                batch.views,
                batch.positive,
                batch.negatives,
                temperature=batch.temperature,
                strength=self.wpcl_lambda(progress),
                margin=self.margin,
                penalty=self.penalty,
                detach=self.detach,
                scope=self.scope,
                candidate_log_q=batch.log_q,
            )
        margins = self._margins(batch, self.margin, self.scope)
        gap = margin_gap(margins)
        return WPCLOutput(torch.zeros_like(gap), margins, gap, torch.zeros_like(gap))

    @staticmethod
    @torch.no_grad()
    def _margins(batch: _Batch, margin: str, scope: str = "user") -> ModalityMargins:
        """Margins without a graph."""
        return modality_margins(
            batch.views,
            batch.positive,
            batch.negatives,
            temperature=batch.temperature,
            margin=margin,
            scope=scope,
        )

    def get_config_dict(self) -> dict[str, float | str | bool]:
        """Constructor arguments in JSON types: `VLM2RecLoss(**loss.get_config_dict())` is the same loss."""
        return {
            "objective": self.objective,
            "temperature": _plain(self.temperature),
            "wpcl_lambda": _plain(self.wpcl_lambda),
            "crtr_beta": _plain(self.crtr_beta),
            "crtr_temperature": _plain(self.crtr_temperature),
            "margin": self.margin,
            "penalty": self.penalty,
            "detach": self.detach,
            "scope": self.scope,
            "crtr_stop_gradient": self.crtr_stop_gradient,
            "unimodal_weight": _plain(self.unimodal_weight),
            "cross_terms": self.cross_terms,
            "sync_counts": self.sync_counts,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return CITATION

    def extra_repr(self) -> str:
        """Constructor arguments, for `print`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.get_config_dict().items())


def _schedule(
    name: str,
    value: float | str | Schedule,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> Schedule:
    try:
        schedule = Schedule.parse(value)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error
    if not (schedule.lowest > above and schedule.lowest >= at_least and schedule.highest <= at_most):
        bounds = [f"above {above:g}"] if above > -math.inf else [f"at least {at_least:g}"]
        bounds += [f"at most {at_most:g}"] if at_most < math.inf else []
        raise ValueError(f"`{name}` must be {' and '.join(bounds)} throughout training, got {str(value)!r}.")
    return schedule


def _plain(schedule: Schedule) -> float | str:
    return schedule.start if schedule.kind == "constant" else str(schedule)
