"""User sequences as flat arrays, and the (history, target) examples cut from them.

This is the one shape in which interactions reach training and evaluation: a CSR layout (`offsets` into one flat
`items` array), small enough for tens of millions of interactions and cheap to memory-map or share between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .html_tables import html_table

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SHOWN_EXAMPLES = 5


@dataclass(frozen=True)
class Sequences:
    """Every user's interactions in time order.

    Attributes:
        user_ids: `(n_users,)` raw user ids (str).
        item_ids: `(n_items,)` raw item ids (str), in catalogue order.
        offsets: `(n_users + 1,)` int64; user `u` owns the flat positions `offsets[u]:offsets[u + 1]`.
        items: `(n_interactions,)` int32 catalogue index of each interaction.
        split: `(n_interactions,)` int8, one of `TRAIN`, `VALIDATION`, `TEST`; never decreasing within a user.
        trained: `(n_interactions,)` bool, what a model was trained on; None for the training split. Popularity, floors
            and slices count these.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    split: np.ndarray
    trained: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Sequences(users={self.n_users:,}, items={self.n_items:,}, interactions={len(self.items):,})"

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue (including items nobody interacted with)."""
        return len(self.item_ids)

    @property
    def in_training(self) -> np.ndarray:
        """Which interactions are trained on: `(n_interactions,)` bool."""
        return self.split == TRAIN if self.trained is None else self.trained

    def training_part(self) -> tuple[np.ndarray, np.ndarray]:
        """What is trained on alone, as `items` and `offsets` `(n_users + 1,)` of its own: a copy."""
        trained = self.in_training
        return self.items[trained], np.concatenate([[0], np.cumsum(trained)])[self.offsets]

    def train_counts(self) -> np.ndarray:
        """How often each item occurs in what is trained on: `(n_items,)` int64."""
        return np.bincount(self.items[self.in_training], minlength=self.n_items).astype(np.int64)


@dataclass(frozen=True)
class Examples:
    """(history, target) pairs of one split; histories are slices of the flat sequence, nothing is copied.

    Attributes:
        sequences: where the slices point into.
        user: `(n,)` int64 index of the user of each example.
        position: `(n,)` int64 flat position of the target.
        max_history: longest history, in items; the most recent ones are kept.
    """

    sequences: Sequences
    user: np.ndarray
    position: np.ndarray
    max_history: int

    def __len__(self) -> int:
        return len(self.position)

    def __repr__(self) -> str:
        users = len(np.unique(self.user))
        return (
            f"Examples({len(self):,} histories with targets of {users:,} users, "
            f"items={self.sequences.n_items:,}, max_history={self.max_history})"
        )

    def _repr_html_(self) -> str:
        names = self.sequences.item_ids
        shown = range(min(len(self), SHOWN_EXAMPLES))
        rows = [
            (self.user_ids[i], ", ".join(map(str, names[self.history(i)])), names[self.targets_at(i)]) for i in shown
        ]
        return html_table(f"{self!r}, the first {len(rows)}", ("user", "history", "target"), rows)

    @property
    def targets(self) -> np.ndarray:
        """Catalogue index of each example's target: `(n,)` int32."""
        return self.sequences.items[self.position]

    def targets_at(self, index: int) -> int:
        """Catalogue index of one example's target."""
        return int(self.sequences.items[self.position[index]])

    @property
    def user_ids(self) -> np.ndarray:
        """Raw user id of each example: `(n,)`."""
        return self.sequences.user_ids[self.user]

    def history(self, index: int) -> np.ndarray:
        """Catalogue indices of the history, oldest first, at most `max_history` of them."""
        stop = int(self.position[index])
        start = max(int(self.sequences.offsets[self.user[index]]), stop - self.max_history)
        return self.sequences.items[start:stop]

    def seen(self, index: int) -> np.ndarray:
        """Catalogue indices of *everything* the user interacted with before the target (not cut)."""
        return self.sequences.items[self.sequences.offsets[self.user[index]] : int(self.position[index])]

    def take(self, rows: np.ndarray) -> Examples:
        """The examples at `rows`, in that order."""
        return Examples(self.sequences, self.user[rows], self.position[rows], self.max_history)

    def spread(self, count: int | None) -> Examples:
        """At most `count` examples, evenly spread over these, the first and the last among them; all for `None`."""
        if count is None or count >= len(self):
            return self
        return self.take(spread_rows(len(self), count))

    def histories(self) -> Iterator[np.ndarray]:
        """Every example's history in order."""
        return (self.history(i) for i in range(len(self)))


def spread_rows(n: int, count: int) -> np.ndarray:
    """At most `count` of the indices below `n`, evenly spread, the ends among them: `(min(n, count),)` int64."""
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)


def make_examples(
    sequences: Sequences, split: str, max_history: int = 10, targets: str = "all", min_history: int = 1
) -> Examples:
    """Cut the examples of one split.

    Args:
        sequences: the flat sequences.
        split: `"train"`, `"validation"` or `"test"`.
        max_history: keep at most this many items of history.
        targets: `"all"`: every interaction of the split is a target once; `"first"`: only each user's first one
            (a temporal split's usual protocol); `"last"`: only each user's last one.
        min_history: skip targets with a shorter history.

    Raises:
        ValueError: an unknown `split` or `targets`, or `max_history < 1`.
    """
    if split not in SPLIT_CODES:
        raise ValueError(f"`split` must be one of {sorted(SPLIT_CODES)}, got {split!r}.")
    if targets not in ("all", "first", "last"):
        raise ValueError(f"`targets` must be 'all', 'first' or 'last', got {targets!r}.")
    if max_history < 1:
        raise ValueError(f"`max_history` must be at least 1, got {max_history}.")
    position = np.flatnonzero(sequences.split == SPLIT_CODES[split]).astype(np.int64)
    user = np.searchsorted(sequences.offsets, position, side="right") - 1
    if targets != "all" and len(position):
        change = user[1:] != user[:-1]
        edge = np.concatenate([[True], change] if targets == "first" else [change, [True]])
        position, user = position[edge], user[edge]
    keep = position - sequences.offsets[user] >= min_history
    return Examples(sequences, user[keep].astype(np.int64), position[keep], max_history)
