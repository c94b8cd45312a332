"""Rank a `PixRecModel` by the similarity of its towers, over the full catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .encoding_inputs import ChosenRows, PreparedHistories, check_ranked, first_of_equals
from .metrics import ranking_metrics
from .ranking import Ranking, rank_targets
from .scorers import VectorScorer
from .sharing import rows_by_all

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.modeling_pixrec import PixRecModel
    from ..modeling.processing_pixrec import PixRecProcessor


@dataclass(frozen=True)
class PixRecEvaluation:
    """Result of `evaluate_pixrec`.

    Attributes:
        ranking: ranks and top items of every example.
        users: `(n, p)` v_U of the examples' histories, zero where no item of one has a text or an image.
        items: `(n_items, p)` v_T of the catalogue, zero for items with neither text nor image.
    """

    ranking: Ranking
    users: Tensor
    items: Tensor

    def metrics(self, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
        """Means over users, named like `hit@10`, `ndcg@20`."""
        return ranking_metrics(self.ranking.ranks, ks)


def evaluate_pixrec(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    examples: Examples,
    *,
    k: int = 20,
    exclude_seen: bool = True,
    batch_size: int = 64,
    show_progress: bool = False,
    across_processes: bool = False,
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
        across_processes: share the encoding out among the processes of the default group; all of them have to call
            this, and all get the whole result.

    Raises:
        ValueError: a catalogue of other items than the examples' (or in another order), features of another vision
            tower, or no examples.
    """
    check_ranked(catalogue, examples)
    catalogue.check_features(model)  # type: ignore[arg-type]
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": show_progress}
    items = encode_pixrec_catalogue(model, catalogue, across_processes=across_processes, **options)

    def encode_users(rows: np.ndarray) -> Tensor:
        some = examples.take(rows)
        histories = PreparedHistories(catalogue, some.histories(), some.max_history)
        vectors = torch.zeros(len(histories), model.config.projection_dim)
        encoded = model.encode_histories(histories.readable(), catalogue.processor, **options)  # type: ignore[arg-type]
        vectors[histories.known] = encoded
        return vectors

    users = rows_by_all(len(examples), encode_users, across_processes)
    ranking = rank_targets(VectorScorer(users, items, normalize=True), examples, k=k, exclude_seen=exclude_seen)
    return PixRecEvaluation(ranking, users, items)


def method_name(processor: PixRecProcessor) -> str:
    """What a PixRec model is called in reports: `pixrec`, or `pixrec-text` for the ablation without images."""
    return "pixrec" if processor.images else "pixrec-text"


def encode_pixrec_catalogue(
    model: PixRecModel, catalogue: PreparedCatalogue, *, across_processes: bool = False, **options: Any
) -> Tensor:
    """v_T of every item: `(n_items, p)`, zero for items with neither text nor image; `options` of `encode_items`.

    Equal items are encoded once, so that they tie whatever the batches and processes.
    """
    usable = np.array([i for i in range(len(catalogue)) if not catalogue.is_empty(i)], dtype=np.int64)
    distinct, copies = first_of_equals(
        [catalogue.tokens(i) for i in usable],
        rows_by_all(len(usable), lambda rows: catalogue.image_keys(usable[rows]), across_processes),
    )

    def encode(rows: np.ndarray) -> Tensor:
        chosen = ChosenRows(catalogue, usable[distinct[rows]].tolist())
        return model.encode_items(chosen, catalogue.processor, **options)  # type: ignore[arg-type]

    items = torch.zeros(len(catalogue), model.config.projection_dim)
    items[usable] = rows_by_all(len(distinct), encode, across_processes)[copies]
    return items
