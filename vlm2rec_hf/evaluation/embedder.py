"""Rank an embedder's views, and its score, on the examples of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..columns import SCORED, VIEWS
from .encoding_inputs import ChosenRows, PreparedHistories, check_ranked, first_of_equals
from .metrics import ranking_metrics
from .modality import effective_rank, evaluate_views, margins, modality_gap, weak_modality_share
from .score_options import ScoreOptions
from .score_vectors import item_score_vectors, rank_scored, user_score_vectors
from .scorers import VectorScorer
from .sharing import encoded_by_all, rows_by_all

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.modeling_vlm2rec import Encoding, VLM2RecEmbedder
    from .ranking import Ranking


@dataclass(frozen=True)
class EmbedderEvaluation:
    """Result of `evaluate_embedder`.

    Attributes:
        rankings: view -> ranks and top items of every example: `text`, `image` and `both` by bare cosine, and `scored`
            where there are score options.
        users: vectors of the examples' histories.
        items: vectors of the catalogue.
        modality: diagnostics of both modalities: mean full-catalogue margins, share of users whose image (text) is the
            weaker one, effective rank of each view's item vectors, modality gap.
        score_options: of the view `scored`; the bare cosine where there is none.
    """

    rankings: dict[str, Ranking]
    users: Encoding
    items: Encoding
    modality: dict[str, float]
    score_options: ScoreOptions = field(default_factory=ScoreOptions)

    def metrics(self, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
        """Means over users, named like `text_hit@10`, `both_ndcg@20`."""
        return {
            f"{view}_{name}": value
            for view, ranking in self.rankings.items()
            for name, value in ranking_metrics(ranking.ranks, ks).items()
        }


def evaluate_embedder(
    model: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    examples: Examples,
    *,
    k: int = 20,
    exclude_seen: bool = True,
    batch_size: int | None = None,
    vision_cache: Any | None = None,
    show_progress: bool = False,
    across_processes: bool = False,
    score_options: ScoreOptions | None = None,
    **options: Any,
) -> EmbedderEvaluation:
    """Encode the whole catalogue and the examples' histories, and rank every view over the full catalogue.

    Args:
        model: the embedder.
        catalogue: the prepared items, in the order of `examples.sequences.item_ids`. Items with neither text nor
            image get zero vectors.
        examples: who to rank for; histories are cut to `examples.max_history` and the processor's `max_history`.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out of the candidates.
        batch_size: rows per pass of the encoder at most; see `VLM2RecEmbedder.encode_items`.
        vision_cache: cache of vision features; see `VLM2RecEmbedder.encode_items`.
        show_progress: draw progress bars.
        across_processes: share the encoding out among the processes of the default group; all of them have to call
            this, and all get the whole result.
        score_options: how the view `scored` is ranked; by default as the embedder's config says. Options of the bare
            cosine add no view.
        options: further options of `encode_items` (`max_tokens`, `packing`, `workers`).

    Raises:
        ValueError: a catalogue of other items than the examples' (or in another order), features of another vision
            tower, no examples, or score options that the embedder has no parts for.
    """
    check_ranked(catalogue, examples)
    scoring = ScoreOptions.of(model.config, score_options)
    options = {"batch_size": batch_size, "vision_cache": vision_cache, "show_progress": show_progress, **options}
    if across_processes:
        items = encoded_by_all(len(catalogue), lambda rows: encode_catalogue(model, catalogue, rows, **options))
        items = _tied(items, catalogue, rows_by_all(len(catalogue), catalogue.image_keys))
    else:
        items = encode_catalogue(model, catalogue, **options)
    users = users_for(model, catalogue, examples, across_processes=across_processes, **options)
    rankings = evaluate_views(
        {view: users.view(view) for view in VIEWS},
        {view: items.view(view) for view in VIEWS},
        examples,
        k=k,
        exclude_seen=exclude_seen,
    )
    if not scoring.is_bare:
        rankings[SCORED] = rank_scored(users, items, examples, scoring, k=k, exclude_seen=exclude_seen)
    text = margins(users.text, items.text, examples, exclude_seen=exclude_seen)
    image = margins(users.image, items.image, examples, exclude_seen=exclude_seen)
    weak = weak_modality_share(text, image)
    modality = {
        "margin_text": _mean(text),
        "margin_image": _mean(image),
        "weak_text_share": weak["text"],
        "weak_image_share": weak["image"],
        "effective_rank_text": effective_rank(items.text),
        "effective_rank_image": effective_rank(items.image),
        "effective_rank_both": effective_rank(items.both),
        "modality_gap": modality_gap(items.text, items.image),
    }
    return EmbedderEvaluation(rankings, users, items, modality, scoring)


def users_for(
    model: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    examples: Examples,
    *,
    across_processes: bool = False,
    **options: Any,
) -> Encoding:
    """As `encode_users`, on request with the examples shared out among the processes of the default group."""
    if not across_processes:
        return encode_users(model, catalogue, examples, **options)
    return encoded_by_all(len(examples), lambda rows: encode_users(model, catalogue, examples.take(rows), **options))


def score_by_embedder(evaluation: EmbedderEvaluation, counts: np.ndarray, users: Encoding) -> VectorScorer:
    """The embedder's score by its `ScoreOptions`; the cosine of both modalities where it has none.

    Args:
        evaluation: holds the items and the options.
        counts: `(n_items,)` how often each item occurs in training.
        users: whom to score for.
    """
    options = evaluation.score_options
    return VectorScorer(user_score_vectors(users, options), item_score_vectors(evaluation.items, options, counts))


def encode_catalogue(
    model: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    rows: Sequence[int] | np.ndarray | None = None,
    *,
    vision_cache: Any | None = None,
    **options: Any,
) -> Encoding:
    """Vectors of every item of the catalogue, or of those in `rows`; zero for items with neither text nor image.

    Args:
        model: the embedder.
        catalogue: the prepared items.
        rows: which of them; all by default.
        vision_cache: prepares the raw items in place of the catalogue; see `VLM2RecEmbedder.encode_items`.
        options: further options of `encode_items`.

    Raises:
        ValueError: the catalogue holds features of another vision tower.
    """
    catalogue.check_features(model)
    chosen = list(range(len(catalogue))) if rows is None else [int(row) for row in rows]
    usable = [place for place, row in enumerate(chosen) if not catalogue.is_empty(row)]
    source = ChosenRows(catalogue if vision_cache is None else catalogue.items, [chosen[place] for place in usable])
    encoded = model.encode_items(source, catalogue.processor, vision_cache=vision_cache, **options)
    return _spread(encoded, usable, len(chosen))


def encode_users(
    model: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    examples: Examples,
    *,
    vision_cache: Any | None = None,
    **options: Any,
) -> Encoding:
    """Vectors of every example's history (`PreparedHistories`); zero where no item of it has a text or image.

    Args:
        model: the embedder.
        catalogue: the prepared items.
        examples: whose histories.
        vision_cache: prepares the raw items in place of the catalogue; see `VLM2RecEmbedder.encode_items`.
        options: further options of `encode_histories`.

    Raises:
        ValueError: a catalogue of other items than the examples' (or in another order), or with features of another
            vision tower.
    """
    catalogue.check_items(examples.sequences.item_ids)
    catalogue.check_features(model)
    prepare = None
    if vision_cache is not None:

        def prepare(rows: list[int]) -> Any:
            return vision_cache.prepare(model, catalogue.processor, ChosenRows(catalogue.items, rows))

    histories = PreparedHistories(catalogue, examples.histories(), examples.max_history, prepare)
    encoded = model.encode_histories(histories.readable(), catalogue.processor, **options)
    return _spread(encoded, histories.known, len(histories))


def _tied(items: Encoding, catalogue: PreparedCatalogue, keys: torch.Tensor) -> Encoding:
    """Give equal items one vector in each view: two processes may have encoded them, in passes of other shapes.

    Within one process `encode_items` runs equal rows once.
    """
    texts = [catalogue.tokens(row) for row in range(len(catalogue))]
    nothing = [None] * len(texts)
    tied = {}
    for view, contents in (("text", (texts,)), ("image", (nothing, keys)), ("both", (texts, keys))):
        distinct, copies = first_of_equals(*contents)
        tied[view] = items.view(view)[distinct[copies]]
    return replace(items, **tied)


def _spread(encoded: Encoding, rows: Sequence[int], count: int) -> Encoding:
    """Put vectors in their places among `count`, zeros elsewhere."""
    if len(rows) == count:
        return encoded

    def place(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(count, *values.shape[1:], dtype=values.dtype)
        out[list(rows)] = values
        return out

    parts = {field.name: getattr(encoded, field.name) for field in fields(encoded)}
    return replace(encoded, **{name: place(values) for name, values in parts.items() if values is not None})


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
