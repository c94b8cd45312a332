"""Weights of views at query time: what users' vectors and the index are asked with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..columns import SCORED
from ..indexing.rows import IndexFacts
from ..indexing.scoring import Query


def parse_weights(text: str) -> dict[str, float]:
    """`text=1,image=0.5` as a mapping.

    Raises:
        ValueError: another form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(number) for name, number in pairs}
    except ValueError:
        raise ValueError(f"`view_weights` must look like text=1,image=0.5, got {text!r}.") from None


def checked_weights(weights: Mapping[str, float] | None, facts: IndexFacts, view: str) -> dict[str, float]:
    """View -> weight, of views that the index holds; without weights, the one view that ranks.

    Equal weights of text and image are the view `both` where the index has it, which an approximate index finds best.

    Raises:
        ValueError: unknown views, weights that are no numbers of at least 0, or an index without these views.
    """
    if weights is None:
        wanted = {view: 1.0}
    else:
        good = all(isinstance(w, (int, float)) and math.isfinite(w) and w >= 0 for w in weights.values())
        if not good or not set(weights) <= {"text", "image"} or not any(weights.values()):
            raise ValueError(
                f"`view_weights` must give text and image weights of at least 0, not both 0, got {dict(weights)!r}."
            )
        wanted = {name: float(weight) for name, weight in weights.items() if weight}
        if len(wanted) == 2 and not facts.summed:
            raise ValueError("`view_weights` of two views need an embedder that sums them (fusion='external').")
        if len(wanted) == 1:
            wanted = dict.fromkeys(wanted, 1.0)
        elif len(set(wanted.values())) == 1 and "both" in facts.views:
            wanted = {"both": 1.0}
    if wanted == {"both": 1.0} and "both" not in facts.views and facts.summed:
        wanted = {"text": 1.0, "image": 1.0}
    lost = [name for name in wanted if name not in facts.views]
    if lost == [SCORED]:
        raise ValueError(
            f"`index` holds the views {list(facts.views)}, not 'scored', by which the model's score options rank; "
            "name another `view`, or write the index again with all views."
        )
    if lost:
        raise ValueError(f"`view_weights`: the index holds the views {list(facts.views)}, not {lost[0]!r}.")
    return wanted


def bare_weights(weights: Mapping[str, float], facts: IndexFacts) -> dict[str, float]:
    """Weights by which items are likened to each other: in place of `scored`, whose prior is no likeness, `both`.

    Raises:
        ValueError: an index without the view `both` and without the parts of it.
    """
    return checked_weights(None, facts, "both") if SCORED in weights else dict(weights)


def make_query(
    users: Mapping[str, np.ndarray], weights: Mapping[str, float], facts: IndexFacts, argument: str = "histories"
) -> Query:
    """The question of some users: the cosine of weighted sums, or the inner product, as the view is compared.

    Args:
        users: view -> `(n, dim)`.
        weights: as `checked_weights` gives them.
        facts: of the index.
        argument: what the vectors are of, for errors.

    Raises:
        ValueError: vectors with NaN or infinite values, or of an encoder one that is zero.
    """
    if facts.metric_of(next(iter(weights))) == "inner":
        vectors: dict[str, Any] = {view: users[view] for view in weights}
        _check_finite(vectors, argument)
        if SCORED in vectors:
            _check_says_something(vectors[SCORED].any(axis=1), argument)
        return Query(vectors, None)
    total = np.asarray(sum(weight * users[view].astype(np.float64) for view, weight in weights.items()))
    _check_finite({"users": total}, argument)
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    _check_says_something(norms > 0, argument)
    return Query(
        {view: (weight * total / norms).astype(np.float32) for view, weight in weights.items()}, dict(weights)
    )


def _check_says_something(rows: np.ndarray, argument: str) -> None:
    if not rows.all():
        lacks = "of which no item that is read has" if argument == "histories" else "that does not have"
        raise ValueError(
            f"`{argument}` holds one {lacks} a text or an image of the views that count; name another item, or other "
            "`view_weights`."
        )


def _check_finite(vectors: Mapping[str, np.ndarray], argument: str) -> None:
    for matrix in vectors.values():
        bad = (~np.isfinite(matrix).all(axis=1)).nonzero()[0]
        if len(bad):
            raise ValueError(
                f"`{argument}` gives {len(bad)} vectors with NaN or infinite values, first in row {bad[0]}; the "
                "weights are damaged, or too large for their type."
            )
