"""The objective of PixRec (arXiv 2601.06458): next-item generation, item-item and user-item contrastive terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .info_nce import check_positive_number, info_nce, mean_over_users
from .masks import negative_mask
from .similarity import products


@dataclass(frozen=True)
class PixRecLossOutput:
    """What `PixRecLoss` returns.

    Attributes:
        terms: name -> weighted term; they sum to `total`.
        diagnostics: name -> detached number: the unweighted terms, and the mean number of negatives of an example.
    """

    terms: dict[str, Tensor]
    diagnostics: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()


class PixRecLoss:
    """`(1 - alpha - beta) * L_gen + alpha * L_item_item + beta * L_user_item`.

    L_gen is the mean negative log-likelihood of the target's text tokens. L_item_item contrasts v_{T|U} (the target
    behind its history) with v_T (the target alone), L_user_item contrasts v_U with v_T; both are symmetric InfoNCE
    with cosine similarity over the batch (in float32, also under autocast), where the same item is never a negative
    and, for users, neither is an item of the history (masks and symmetry are our choice).

    Args:
        alpha: weight of the item-item term.
        beta: weight of the user-item term; its sign is free. A negative one drives users away from what they choose.
        temperature: tau, divides the cosine similarities.
        generation_weight: weight of the generation term, `1 - alpha - beta` by default.
        symmetric: also contrast from the second side to the first, and take the mean.
        sync_counts: take means over the tokens and users of all processes (a collective), as training does.

    Raises:
        ValueError: a number that is not finite, or a `temperature` that is not positive.
    """

    def __init__(
        self,
        alpha: float = 0.125,
        beta: float = 0.125,
        temperature: float = 0.5,
        generation_weight: float | None = None,
        symmetric: bool = True,
        sync_counts: bool = False,
    ) -> None:
        check_positive_number("temperature", temperature)
        generation_weight = 1.0 - alpha - beta if generation_weight is None else generation_weight
        for name, value in (("alpha", alpha), ("beta", beta), ("generation_weight", generation_weight)):
            if not math.isfinite(value):
                raise ValueError(f"`{name}` must be a finite number, got {value!r}.")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.generation_weight, self.symmetric = generation_weight, symmetric
        self.sync_counts = sync_counts

    def get_config_dict(self) -> dict[str, float | bool]:
        """The settings, as plain data."""
        names = ("alpha", "beta", "temperature", "generation_weight", "symmetric", "sync_counts")
        return {name: getattr(self, name) for name in names}

    def __call__(
        self,
        users: Tensor,
        targets: Tensor,
        items: Tensor,
        token_nll: Tensor,
        *,
        target_ids: Tensor,
        history_ids: Tensor | None = None,
    ) -> PixRecLossOutput:
        """Compare the vectors of a batch.

        Args:
            users: `(B, p)` unit vectors v_U.
            targets: `(B, p)` unit vectors v_{T|U}.
            items: `(B, p)` unit vectors v_T of each example's target.
            token_nll: `(n_tokens,)` nats of the targets' text tokens; none gives a term of 0.
            target_ids: `(B,)` long, item id of each target.
            history_ids: `(B, H)` long, what each user has seen (spared as negatives of the user), padded with -1.
        """
        own = torch.arange(len(target_ids), device=target_ids.device)
        other = negative_mask(target_ids, target_ids, own)
        unseen = negative_mask(target_ids, target_ids, own, history_ids)
        generation = self._mean(token_nll, torch.ones_like(token_nll, dtype=torch.bool))
        item_item = self._contrast(targets, items, own, other)
        user_item = self._contrast(users, items, own, unseen)
        return PixRecLossOutput(
            terms={
                "generation": self.generation_weight * generation,
                "item_item": self.alpha * item_item,
                "user_item": self.beta * user_item,
            },
            diagnostics={
                "generation_nll": generation.detach(),
                "item_item_nce": item_item.detach(),
                "user_item_nce": user_item.detach(),
                "negatives": unseen.sum(1).float().mean(),
            },
        )

    def _contrast(self, first: Tensor, second: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
        """(Symmetric) InfoNCE of the pairs `(first[i], second[i])`; the mean over rows that have a negative."""
        similarity = products(first, second)
        losses = [self._mean(info_nce(similarity, own, negatives, self.temperature), negatives.any(1))]
        if self.symmetric:
            back = info_nce(similarity.T, own, negatives.T, self.temperature)
            losses.append(self._mean(back, negatives.any(0)))
        return torch.stack(losses).mean()

    def _mean(self, values: Tensor, counted: Tensor) -> Tensor:
        return mean_over_users(values, counted, self.sync_counts)
