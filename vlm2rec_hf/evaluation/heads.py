"""Rank a sequential head over its whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .ranking import Ranking, rank_targets
from .scorers import VectorScorer

if TYPE_CHECKING:
    from ..data.sequences import Examples
    from ..modeling.modeling_seqrec import HeadModel


def rank_head(
    head: HeadModel, examples: Examples, *, k: int = 20, exclude_seen: bool = True, batch_size: int = 128
) -> Ranking:
    """Rank every example's target over the whole catalogue by a head's scores.

    Args:
        head: the head, over the catalogue of `examples`.
        examples: who to rank for; histories are cut to `max_length`, seen items are all earlier ones.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out.
        batch_size: of the encoder.

    Raises:
        ValueError: the head's catalogue holds other items than the examples', or in another order.
    """
    return rank_targets(score_by_head(head, examples, batch_size), examples, k=k, exclude_seen=exclude_seen)


def score_by_head(head: HeadModel, examples: Examples, batch_size: int = 128) -> VectorScorer:
    """A head's scores of every example; see `rank_head`."""
    if head.catalogue is not None:
        check_same_items("examples", [str(item) for item in examples.sequences.item_ids], head.catalogue.ids)
    users = head.encode_histories(list(examples.histories()), batch_size)
    with torch.no_grad():
        return VectorScorer(users.float(), head.item_vectors().float(), device=users.device)


def check_same_items(argument: str, theirs: list[str], ours: list[str]) -> None:
    """Hold a dataset's item ids against those of a head's catalogue, in order.

    Args:
        argument: name of the argument that `theirs` come from.
        theirs: the ids at hand.
        ours: the ids of the head's catalogue.

    Raises:
        ValueError: they differ; names the first place.
    """
    if theirs == ours:
        return
    place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        difference = f"{len(theirs)} items, the head's catalogue {len(ours)}"
    else:
        difference = f"{theirs[place]!r} at place {place}, the head's catalogue {ours[place]!r}"
    raise ValueError(
        f"`{argument}` has {difference}; a head ranks the catalogue it was trained on, in its order. Use the dataset "
        "it was trained on (same filters), or train a head on this one."
    )
