"""The view `scored` of an index: vectors whose plain inner product is an embedder's score by its `ScoreOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..columns import SCORED
from ..evaluation.score_options import ScoreOptions
from ..evaluation.score_vectors import item_score_vectors, user_score_vectors
from ..loading import LoadedModel


def scoring_of(loaded: LoadedModel, chosen: ScoreOptions | None = None) -> ScoreOptions:
    """How a model scores: an embedder's options, or those `chosen` in their place; the bare cosine of other models."""
    return ScoreOptions.of(loaded.model.config, chosen) if loaded.model_type == "vlm2rec" else ScoreOptions()


def with_scored_users(views: Mapping[str, np.ndarray], options: ScoreOptions) -> dict[str, np.ndarray]:
    """Users' views, and `scored` where there are score options; a zero row stays zero.

    Args:
        views: view -> `(n, dim)`, of `options.views` at least.
        options: how to score.
    """
    if options.is_bare:
        return dict(views)
    return {**views, SCORED: user_score_vectors({view: views[view] for view in options.views}, options).numpy()}


def with_scored_items(views: Mapping[str, Any], options: ScoreOptions, counts: ArrayLike) -> dict[str, np.ndarray]:
    """Items' views, and `scored` where there are score options and the views that it is made of; zero stays zero.

    Args:
        views: view -> `(n, dim)`.
        options: how to score.
        counts: `(n,)` how often each item occurs in training; 0 for new items.
    """
    found = {view: np.asarray(matrix) for view, matrix in views.items()}
    if not options.is_bare and set(options.views) <= found.keys():
        needed = {view: found[view] for view in options.views}
        found[SCORED] = item_score_vectors(needed, options, counts).numpy()
    return found
