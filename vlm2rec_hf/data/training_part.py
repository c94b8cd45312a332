"""What a head is trained on: the training split, and on request the validation items of most users."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from .sequences import TRAIN, VALIDATION, Examples, Sequences


def choose_users(examples: Examples, n: int | None, seed: int) -> Examples:
    """`n` of the examples' users drawn at random (all for None), in order.

    Raises:
        ValueError: more than there are.
    """
    if n is None:
        return examples
    users = np.unique(examples.user)
    if n > len(users):
        raise ValueError(f"`validation_users` must be at most the {len(users)} users with validation items, got {n}.")
    chosen = np.sort(np.random.default_rng(seed).choice(users, n, replace=False))
    return examples.take(np.flatnonzero(np.isin(examples.user, chosen)))


def with_validation_trained(sequences: Sequences, held_out: Iterable[int]) -> Sequences:
    """The sequences with the validation interactions of all users but some as a part of what is trained on.

    Cold items, which the training split does not hold, stay out of it: trained on, they would not be cold.

    Args:
        sequences: the flat sequences.
        held_out: the users whose validation interactions are not trained on.
    """
    others = np.ones(sequences.n_users, dtype=bool)
    others[np.fromiter(held_out, dtype=np.int64)] = False
    train = sequences.split == TRAIN
    known = np.bincount(sequences.items[train], minlength=sequences.n_items) > 0
    more = (sequences.split == VALIDATION) & known[sequences.items] & np.repeat(others, np.diff(sequences.offsets))
    return replace(sequences, trained=train | more)
