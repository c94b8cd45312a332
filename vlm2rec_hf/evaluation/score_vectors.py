"""The one place where views, options and counts become vectors whose inner product is the score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .scorers import VectorScorer, as_matrix, normalize_rows

if TYPE_CHECKING:
    from ..data.sequences import Examples
    from ..modeling.modeling_vlm2rec import Encoding
    from .ranking import Ranking
    from .score_options import ScoreOptions


def user_score_vectors(views: Encoding | Mapping[str, Any], options: ScoreOptions) -> torch.Tensor:
    """Users' side of the score: `score(u, i) = user_score_vectors[u] . item_score_vectors[i]`.

    Args:
        views: the users, encoded; or view -> `(n, d)`, of `options.views` at least.
        options: how to score; see `ScoreOptions` for the equation.

    Returns:
        `(n, width)` float32 on the CPU: `c_u` of length 1, and, with a prior, a last column of ones. `width` is `d`,
        without cross terms `2 d`, and one more with a prior. A user with nothing to encode is a row of zeros, so that
        all items tie, as without options.

    Raises:
        ValueError: a view that is not there, NaN or infinite values, or views that do not add up (internal fusion)
            where the options need that.
    """
    content = _content(views, options)
    if not options.popularity_prior:
        return content
    return torch.cat([content, _known(content)], dim=1)


def item_score_vectors(
    views: Encoding | Mapping[str, Any], options: ScoreOptions, counts: ArrayLike | None = None
) -> torch.Tensor:
    """Items' side of the score; see `user_score_vectors`.

    Args:
        views: the items, encoded; or view -> `(n_items, d)`, of `options.views` at least.
        options: how to score.
        counts: `(n_items,)` how often each item occurs in training (`Sequences.train_counts`); 0 for new items, which
            are taken to have `options.new_item_count`. Not needed where `options.popularity_prior` is 0.

    Returns:
        `(n_items, width)` float32 on the CPU: `c_i` of length 1, and, with a prior, a last column
        `temperature * popularity_prior * log(1 + count)`. An item with nothing to encode is a row of zeros: it never
        wins through its prior.

    Raises:
        ValueError: as `user_score_vectors`; or no counts, too few, or negative ones.
    """
    content = _content(views, options)
    if not options.popularity_prior:
        return content
    if counts is None:
        raise ValueError(
            "`counts` are required with a popularity prior: how often each item occurs in training, such as "
            "`dataset.sequences().train_counts()`."
        )
    prior = options.prior(counts)
    if len(prior) != len(content):
        raise ValueError(f"`counts` must hold one number of at least 0 per item ({len(content)}), got {len(prior)}.")
    return torch.cat([content, _known(content) * torch.from_numpy(prior.astype(np.float32))[:, None]], dim=1)


def rank_scored(
    users: Encoding | Mapping[str, Any],
    items: Encoding | Mapping[str, Any],
    examples: Examples,
    options: ScoreOptions,
    *,
    k: int = 20,
    exclude_seen: bool = True,
) -> Ranking:
    """Rank every example's target by the score, over the full catalogue.

    Args:
        users: one row per example.
        items: the catalogue, in the examples' order.
        examples: whose targets; the counts of the prior are those of their training interactions.
        options: how to score.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out of the candidates.

    Raises:
        ValueError: see `item_score_vectors` and `rank_targets`.
    """
    from .ranking import rank_targets

    counts = examples.sequences.train_counts()
    scorer = VectorScorer(user_score_vectors(users, options), item_score_vectors(items, options, counts))
    return rank_targets(scorer, examples, k=k, exclude_seen=exclude_seen)


def add_up(views: Encoding | Mapping[str, Any]) -> bool:
    """Whether text and image vectors add up to those of `both`, as with external fusion."""
    text, image, both = (_view(views, name) for name in ("text", "image", "both"))
    return bool(torch.allclose(text + image, both, atol=1e-4))


def has_both(views: Encoding | Mapping[str, Any]) -> bool:
    """Whether any text vector and any image vector is more than zeros."""
    return all(bool(_view(views, name).any()) for name in ("text", "image"))


def _content(views: Encoding | Mapping[str, Any], options: ScoreOptions) -> torch.Tensor:
    """`c`: rows of length 1, or of zeros, by the very steps by which an evaluation takes the cosine."""
    if not options.needs_parts:
        return normalize_rows(_view(views, "both"))
    if _has(views, "both") and not add_up(views):
        raise ValueError(
            "`views` do not add up (text and image to both), which options without cross terms or with view weights "
            "need; internal fusion has only the prior."
        )
    text, image = (_view(views, name) * options.view_weights[name] ** 0.5 for name in ("text", "image"))
    return normalize_rows(text + image if options.cross_terms else torch.cat([text, image], dim=1))


def _known(content: torch.Tensor) -> torch.Tensor:
    """`(n, 1)`: 1 where there is anything to compare, else 0."""
    return content.any(dim=1, keepdim=True).float()


def _has(views: Encoding | Mapping[str, Any], name: str) -> bool:
    return not isinstance(views, Mapping) or name in views


def _view(views: Encoding | Mapping[str, Any], name: str) -> torch.Tensor:
    if not isinstance(views, Mapping):
        return as_matrix(name, views.view(name))
    if name not in views:
        raise ValueError(f"`views` must hold {name!r} for these options, got {sorted(views)}.")
    return as_matrix(name, views[name])
