"""The score options of a trained embedder: its temperature, and the choice on validation after training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..evaluation.choosing_scores import METRIC, ScoreTrial, best_trial, try_score_options
from ..evaluation.embedder import evaluate_embedder
from ..evaluation.score_options import ScoreOptions
from ..files import whole_file

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

SCORE_TABLE = "score_options.json"
logger = logging.get_logger(__name__)


def note_trained_score(embedder: VLM2RecEmbedder, temperature: float, cross_terms: bool) -> None:
    """Keep in the config what the loss compares, beside whatever options are there.

    Args:
        embedder: the embedder.
        temperature: the last value of the loss's.
        cross_terms: of the loss. False is kept, so that validation shows the view `scored`; an embedder's own False
            stays.

    Raises:
        ValueError: no cross terms with internal fusion.
    """
    own = ScoreOptions.of(embedder.config)
    trained = replace(own, temperature=temperature, cross_terms=own.cross_terms and cross_terms)
    if trained != own:
        ScoreOptions.of(embedder.config, trained)
        embedder.config.score_options = trained.to_dict()


def choose_on_validation(
    embedder: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    examples: Examples,
    temperature: float,
    **options: Any,
) -> list[ScoreTrial]:
    """Choose the embedder's score options and keep them in its config.

    Args:
        embedder: the embedder, trained.
        catalogue: the prepared items.
        examples: of the validation split.
        temperature: the last value of the loss's.
        options: of `evaluate_embedder`, which encodes once.

    Returns:
        All that was tried.
    """
    found = evaluate_embedder(embedder, catalogue, examples, score_options=ScoreOptions(), **options)
    trials = try_score_options(found.users, found.items, examples, temperature=temperature)
    best = best_trial(trials)
    embedder.config.score_options = best.options.to_dict()
    bare = trials[0].value
    logger.info(f"Score options by validation: {best.options}, {METRIC} {best.value:.4f} (bare {bare:.4f}).")
    return trials


def write_score_table(folder: str | Path, trials: Sequence[ScoreTrial], n_examples: int) -> Path:
    """Write what was chosen and all that was tried, as `score_options.json`.

    Args:
        folder: of the training run.
        trials: what was tried.
        n_examples: validation examples that the numbers are means over.
    """
    path = Path(folder) / SCORE_TABLE
    values = {
        "metric": METRIC,
        "examples": n_examples,
        "chosen": best_trial(trials).to_dict(),
        "tried": [trial.to_dict() for trial in trials],
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return path
