"""Validation during training: the same ranking as the final evaluation, on the validation split."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm2rec_hf.data.dataset import RecDataset
    from vlm2rec_hf.data.sequences import Examples
    from vlm2rec_hf.modeling.modeling_vlm2rec import VLM2RecEmbedder
    from vlm2rec_hf.modeling.prepared_catalogue import PreparedCatalogue


def rank_validation(
    model: VLM2RecEmbedder,
    dataset: RecDataset,
    catalogue: PreparedCatalogue,
    *,
    max_history: int = 10,
    users: int | None = None,
    batch_size: int = 64,
    across_processes: bool = False,
) -> dict[str, float]:
    """Rank the validation split over the full catalogue in all views.

    Args:
        model: the embedder.
        dataset: its validation split is used.
        catalogue: the dataset's prepared items.
        max_history: longest history encoded.
        users: rank only this many examples, evenly spread over the split.
        batch_size: of the encoder.
        across_processes: see `evaluate_embedder`.

    Returns:
        `text_hit@10`, ..., plus `margin_text`, `margin_image` and the other modality diagnostics.

    Raises:
        ValueError: the dataset has no validation split.
    """
    from vlm2rec_hf.evaluation.embedder import evaluate_embedder

    examples = validation_examples(dataset, max_history, users)
    found = evaluate_embedder(model, catalogue, examples, batch_size=batch_size, across_processes=across_processes)
    return {**found.metrics(), **found.modality}


def validation_examples(dataset: RecDataset, max_history: int, users: int | None = None) -> Examples:
    """The validation split's examples, or only `users` of them, evenly spread.

    Raises:
        ValueError: the dataset has no validation split.
    """
    examples = dataset.examples("validation", max_history=max_history)
    if len(examples) == 0:
        raise ValueError(
            "`eval_dataset` has no validation split; call `leave_one_out()` or `temporal_split(...)` on it first."
        )
    return examples.spread(users)
