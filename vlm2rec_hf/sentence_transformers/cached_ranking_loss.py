"""`VLM2RecRankingLoss` with gradient caching."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import CachedLossMixin, RandContext
from torch import Tensor

from ..losses.vlm2rec import CITATION, DEFAULT_OBJECTIVE
from .ranking_loss import PARTS, RankingBatch, VLM2RecRankingLoss
from .sentence_features import slice_features

GRADIENT_CACHE_CITATION = """@inproceedings{gao2021gradcache,
  title = {Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup},
  author = {Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie},
  booktitle = {Proceedings of the 6th Workshop on Representation Learning for NLP},
  year = {2021},
  eprint = {2101.06983},
  archivePrefix = {arXiv},
}"""


class CachedVLM2RecRankingLoss(CachedLossMixin, VLM2RecRankingLoss):
    """`VLM2RecRankingLoss` with gradient caching: large batches in the memory of small ones.

    Every column is embedded twice, `mini_batch_size` rows at a time, first without a graph and then again to hand
    the cached gradients on (GradCache, arXiv 2101.06983). Loss and gradients are those of `VLM2RecRankingLoss`.

    Args:
        model: see `VLM2RecRankingLoss`.
        objective: see `VLM2RecRankingLoss`.
        mini_batch_size: rows of one column and modality embedded at a time.
        show_progress_bar: draw one bar per column and modality.
        options: further arguments of `VLM2RecRankingLoss`.

    Raises:
        ValueError: a `mini_batch_size` below 1, or what `VLM2RecRankingLoss` refuses.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: str = DEFAULT_OBJECTIVE,
        *,
        mini_batch_size: int = 32,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, objective, **options)
        if mini_batch_size < 1:
            raise ValueError(f"`mini_batch_size` must be at least 1, got {mini_batch_size!r}.")
        self.mini_batch_size = mini_batch_size
        self.show_progress_bar = show_progress_bar

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms; the gradient of their sum reaches the model when it is propagated back."""
        columns = list(sentence_features)
        batch = self._batch(columns, labels)
        parts = [PARTS[view](column) for column in columns for view in self.views]
        # The mixin hands what it is given as labels on to `calculate_loss`, untouched.
        loss = self.forward_cached(parts, batch)  # type: ignore[arg-type]
        terms = dict(batch.terms)
        name = next(iter(terms))
        terms[name] = terms[name] + (loss - loss.detach())  # adds 0, and the hook that re-embeds
        return terms

    def calculate_loss(  # type: ignore[override]
        self, reps: list[list[Tensor]], labels: RankingBatch, *, with_backward: bool = False
    ) -> Tensor:
        """The loss over the whole batch from the vectors of each mini-batch of each column and modality."""
        whole = iter([torch.cat(mini_batches) for mini_batches in reps])
        vectors = [{view: next(whole) for view in self.views} for _ in labels.has_text]
        total = torch.stack(list(self._terms(vectors, labels).values())).sum()
        if with_backward:
            # A modality nobody has takes no part in the terms, but the cache wants a gradient for every vector.
            total = total + 0.0 * sum(vector.sum() for column in vectors for vector in column.values())
            total.backward()
            total = total.detach()
        return total

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Tensor],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Embed some rows of one modality of one column; the mixin's own slicing does not know image rows."""
        rows = slice_features(sentence_feature, begin, end, self.image_token_id)
        with nullcontext() if random_state is None else random_state, nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*rows.values()) if copy_random_state else None
            return self.model(rows)["sentence_embedding"], state

    def get_config_dict(self) -> dict[str, Any]:
        """Constructor arguments besides the model, in JSON types."""
        return {**super().get_config_dict(), "mini_batch_size": self.mini_batch_size}

    @property
    def citation(self) -> str:
        """BibTeX for the model card."""
        return f"{CITATION}\n\n{GRADIENT_CACHE_CITATION}"
