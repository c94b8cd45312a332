"""From histories of raw item ids to ranked raw item ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .catalogue_seqrec import HeadCatalogue

SCORES_AT_ONCE = 2**25


@dataclass
class Recommendation:
    """The items recommended after one history.

    Attributes:
        item_ids: raw ids, best first.
        scores: inner products (`source` "model") or training counts ("popularity"), one per item.
        titles: one title or None per item.
        source: `"model"`, or `"popularity"` where the history was empty (after leaving out unknown ids).
        n_unknown: ids of the history that were left out.
    """

    item_ids: list[str]
    scores: list[float]
    titles: list[str | None]
    source: str
    n_unknown: int = 0


@torch.no_grad()
def recommend(
    model: Any,
    catalogue: HeadCatalogue,
    histories: Sequence[Sequence[str]],
    k: int,
    exclude_seen: bool,
    candidates: Sequence[str] | None,
    on_unknown: str,
) -> list[Recommendation]:
    """Rank a head's catalogue (or `candidates` of it) after each history; see `SequentialRecommender.recommend`."""
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if isinstance(histories, str):
        raise ValueError(f"`histories` must be a list of lists of item ids, got the text {histories!r}.")
    rows, unknown = [], []
    for history in histories:
        known, n_unknown = catalogue.look_up(history, on_unknown)
        rows.append(known)
        unknown.append(n_unknown)
    allowed = None
    if candidates is not None:
        chosen, _ = catalogue.look_up(candidates, on_unknown, "candidates")
        allowed = torch.tensor(sorted(set(chosen)), dtype=torch.int64)
    found: list[Recommendation | None] = [None] * len(rows)
    popular = catalogue.popularity.double()
    for i in (i for i, row in enumerate(rows) if not row):
        places, scores = _best(popular[None], [[]], k, exclude_seen, allowed)[0]
        found[i] = _named(catalogue, places, scores, "popularity", unknown[i])
    known_rows = [i for i, row in enumerate(rows) if row]
    at_once = max(1, min(1024, SCORES_AT_ONCE // max(len(catalogue), 1)))
    items: Tensor = model.item_vectors() if known_rows else popular
    for start in range(0, len(known_rows), at_once):
        part = known_rows[start : start + at_once]
        users = model.encode_histories([rows[i] for i in part])
        scores_of_all = (users @ items.T).float().cpu()
        best = _best(scores_of_all, [rows[i] for i in part], k, exclude_seen, allowed)
        for i, (places, scores) in zip(part, best, strict=True):
            found[i] = _named(catalogue, places, scores, "model", unknown[i])
    return [one for one in found if one is not None]


def _best(
    scores: Tensor, seen: Sequence[Sequence[int]], k: int, exclude_seen: bool, allowed: Tensor | None
) -> list[tuple[list[int], list[float]]]:
    """Places and scores of the best items per row; equal scores by lower place."""
    scores = scores.clone()
    if exclude_seen:
        row = torch.tensor([i for i, items in enumerate(seen) for _ in items], dtype=torch.int64)
        column = torch.tensor([item for items in seen for item in items], dtype=torch.int64)
        scores[row, column] = -torch.inf
    if allowed is not None:
        scores = scores[:, allowed]
    width = min(k, scores.shape[1])
    found: list[tuple[list[int], list[float]]] = []
    for values in scores:
        if width == 0:
            found.append(([], []))
            continue
        # `topk` picks arbitrarily among equal scores; of those at the border the lowest places are taken.
        border = values.topk(width).values[-1]
        above, at = (values > border).nonzero()[:, 0], (values == border).nonzero()[:, 0]
        columns = torch.cat([above, at[: width - len(above)]]).sort().values
        columns = columns[torch.sort(values[columns], descending=True, stable=True).indices]
        columns = columns[values[columns] > -torch.inf]
        places = columns if allowed is None else allowed[columns]
        found.append((places.tolist(), values[columns].tolist()))
    return found


def _named(
    catalogue: HeadCatalogue, places: list[int], scores: list[float], source: str, n_unknown: int
) -> Recommendation:
    return Recommendation(
        [catalogue.ids[place] for place in places],
        [float(score) for score in scores],
        [catalogue.titles[place] for place in places],
        source,
        n_unknown,
    )
