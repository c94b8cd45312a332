"""Choose `ScoreOptions` on validation, from vectors that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .metrics import rank_metric
from .score_options import ScoreOptions, average_count
from .score_vectors import add_up, has_both, rank_scored

if TYPE_CHECKING:
    from ..data.sequences import Examples
    from ..modeling.modeling_vlm2rec import Encoding

PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CROSS_TERMS = (True, False)
VIEW_WEIGHTS = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (1.0, 0.25), (0.25, 1.0), (1.0, 0.0), (0.0, 1.0))
"""What is tried by default; weights of text and image."""
METRIC = "ndcg@10"


@dataclass(frozen=True)
class ScoreTrial:
    """Options that were tried: `options`, and the mean NDCG@10 over all examples, `value`."""

    options: ScoreOptions
    value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.options.to_dict(), METRIC: self.value}


def choose_score_options(
    users: Encoding | Mapping[str, Any],
    items: Encoding | Mapping[str, Any],
    examples: Examples,
    *,
    temperature: float = 0.05,
    priors: Sequence[float] = PRIORS,
    cross_terms: Sequence[bool] = CROSS_TERMS,
    view_weights: Sequence[tuple[float, float]] = VIEW_WEIGHTS,
    exclude_seen: bool = True,
) -> ScoreOptions:
    """The options with the best NDCG@10 over the full catalogue; nothing is encoded.

    Args:
        users: vectors of the examples' histories, such as `EmbedderEvaluation.users`.
        items: vectors of the catalogue, such as `EmbedderEvaluation.items`.
        examples: of the validation split; choosing on the test split would make its numbers worthless.
        temperature: `tau` that the embedder was trained with.
        priors: weights of the popularity prior to try.
        cross_terms: whether with cross terms, without, or both are tried.
        view_weights: weights of text and image to try.
        exclude_seen: leave items of the user's past out of the candidates.

    Returns:
        The best; among equals the first that was tried, so the bare cosine where nothing beats it.

    Raises:
        ValueError: no examples, nothing to try, or options out of range.
    """
    trials = try_score_options(
        users,
        items,
        examples,
        temperature=temperature,
        priors=priors,
        cross_terms=cross_terms,
        view_weights=view_weights,
        exclude_seen=exclude_seen,
    )
    return best_trial(trials).options


def try_score_options(
    users: Encoding | Mapping[str, Any],
    items: Encoding | Mapping[str, Any],
    examples: Examples,
    *,
    temperature: float = 0.05,
    priors: Sequence[float] = PRIORS,
    cross_terms: Sequence[bool] = CROSS_TERMS,
    view_weights: Sequence[tuple[float, float]] = VIEW_WEIGHTS,
    exclude_seen: bool = True,
) -> list[ScoreTrial]:
    """All options that `choose_score_options` looks at, with their NDCG@10, in the order in which they were tried.

    Three rounds (our choice): every prior with and without cross terms, at the first view weights; then every view
    weight at the best of these; then every prior at the best weights. With the defaults that is 12 + 6 + 5 rankings
    instead of 84. Vectors of internal fusion do not add up, and where no item has an image, or none a text, the rest
    changes nothing: there only the priors are tried. `new_item_count` is the
    average count throughout: mostly too few targets of validation are new for a choice.

    Args:
        users: see `choose_score_options`.
        items: see `choose_score_options`.
        examples: see `choose_score_options`.
        temperature: see `choose_score_options`.
        priors: see `choose_score_options`.
        cross_terms: see `choose_score_options`.
        view_weights: see `choose_score_options`.
        exclude_seen: see `choose_score_options`.

    Raises:
        ValueError: see `choose_score_options`.
    """
    for name, choices in (("priors", priors), ("cross_terms", cross_terms), ("view_weights", view_weights)):
        if not len(choices):
            raise ValueError(f"`{name}` is empty; name at least one value to try.")
    if len(examples) == 0:
        raise ValueError("`examples` is empty: there is nobody to choose the options on.")
    weights = [{"text": text, "image": image} for text, image in view_weights]
    if not (add_up(items) and has_both(items)):
        cross_terms, weights = (True,), [{"text": 1.0, "image": 1.0}]
    new_item_count = average_count(examples.sequences.train_counts())
    trials: list[ScoreTrial] = []

    def attempt(options: ScoreOptions) -> None:
        if all(options != trial.options for trial in trials):
            ranks = rank_scored(users, items, examples, options, k=1, exclude_seen=exclude_seen).ranks
            trials.append(ScoreTrial(options, float(rank_metric(METRIC, ranks).mean())))

    for with_cross_terms in cross_terms:
        for prior in priors:
            attempt(ScoreOptions(prior, with_cross_terms, weights[0], temperature, new_item_count))
    best = best_trial(trials).options
    for weight in weights:
        attempt(replace(best, view_weights=weight))
    best = best_trial(trials).options
    for prior in priors:
        attempt(replace(best, popularity_prior=prior))
    return trials


def best_trial(trials: Sequence[ScoreTrial]) -> ScoreTrial:
    """The trial with the largest value; among equals the first."""
    return max(trials, key=lambda trial: trial.value)
