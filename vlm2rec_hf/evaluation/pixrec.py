"""Rank a `PixRecModel` by the similarity of its towers, over the full catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlm2rec_hf.evaluation.embedder import METRICS
from vlm2rec_hf.evaluation.ranking import Ranking, rank_targets
from vlm2rec_hf.evaluation.scorers import VectorScorer

if TYPE_CHECKING:
    from vlm2rec_hf.data.sequences import Examples
    from vlm2rec_hf.modeling.modeling_pixrec import PixRecModel
    from vlm2rec_hf.modeling.prepared_catalogue import PreparedCatalogue


@dataclass(frozen=True)
class PixRecEvaluation:
    """What `evaluate_pixrec` found.

    Attributes:
        ranking: ranks and top items of every example.
        users: `(n, p)` v_U of the examples' histories.
        items: `(n_items, p)` v_T of the catalogue, zero for items with neither text nor picture.
    """

    ranking: Ranking
    users: Tensor
    items: Tensor

    def metrics(self, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
        """Means over users, named like `hit@10`, `ndcg@20`."""
        return ranking_metrics(self.ranking, ks)


def ranking_metrics(ranking: Ranking, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
    """Means over users of one ranking, named like `hit@10`, `ndcg@20`."""
    return {f"{name}@{k}": float(metric(ranking.ranks, k).mean()) for name, metric in METRICS.items() for k in ks}


def evaluate_pixrec(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    examples: Examples,
    *,
    k: int = 20,
    exclude_seen: bool = True,
    batch_size: int = 64,
    show_progress: bool = False,
) -> PixRecEvaluation:
    """Encode the catalogue and the examples' histories, and rank by cosine similarity of v_U and v_T.

    Args:
        model: the model.
        catalogue: the prepared items, in the order of `examples.sequences.item_ids`.
        examples: who to rank for; histories are cut to `examples.max_history` and the processor's `max_history`.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out of the candidates.
        batch_size: rows per forward pass.
        show_progress: draw progress bars.

    Raises:
        ValueError: a catalogue of another size than the examples', or no examples.
    """
    if len(catalogue) != examples.sequences.n_items:
        raise ValueError(
            f"`catalogue` holds {len(catalogue)} items, but `examples` were cut from a catalogue of "
            f"{examples.sequences.n_items}; prepare the items of the same dataset."
        )
    if len(examples) == 0:
        raise ValueError("`examples` is empty: no user of this split has a history and a target.")
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": show_progress}
    usable = [i for i in range(len(catalogue)) if not catalogue.is_empty(i)]
    items = torch.zeros(len(catalogue), model.config.projection_dim)
    items[usable] = model.encode_items(_Rows(catalogue, usable), catalogue.processor, **options)  # type: ignore[arg-type]
    users = model.encode_histories(_Histories(catalogue, examples), catalogue.processor, **options)  # type: ignore[arg-type]
    ranking = rank_targets(VectorScorer(users, items, normalize=True), examples, k=k, exclude_seen=exclude_seen)
    return PixRecEvaluation(ranking, users, items)


class _Rows(Sequence):
    """Some items of a catalogue, read lazily."""

    def __init__(self, catalogue: PreparedCatalogue, rows: Sequence[int]) -> None:
        self._catalogue, self._rows = catalogue, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._catalogue[self._rows[index]]


class _Histories(Sequence):
    """The examples' histories as prepared items, each item of the catalogue prepared once."""

    def __init__(self, catalogue: PreparedCatalogue, examples: Examples) -> None:
        self._examples = examples
        used = np.unique(np.concatenate([np.zeros(0, np.int64), *examples.histories()]))
        self._prepared = {int(i): catalogue[int(i)] for i in used}

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        return [self._prepared[int(i)] for i in self._examples.history(index)]
