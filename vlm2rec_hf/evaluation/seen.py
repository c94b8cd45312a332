"""Which items each example's user already interacted with: slices of one flat array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.sequences import Examples


@dataclass(frozen=True)
class SeenItems:
    """Row `i` has seen `items[starts[i]:stops[i]]`; rows may overlap in `items`, so sequences are shared, not copied.

    Attributes:
        starts: `(n,)` int64.
        stops: `(n,)` int64.
        items: flat catalogue indices; an item may occur more than once.
    """

    starts: np.ndarray
    stops: np.ndarray
    items: np.ndarray

    def __post_init__(self) -> None:
        if self.starts.shape != self.stops.shape or self.starts.ndim != 1:
            raise ValueError(
                f"`starts` and `stops` must be one-dimensional and of one length, "
                f"got shapes {self.starts.shape} and {self.stops.shape}."
            )
        bad = (self.starts < 0) | (self.stops < self.starts) | (self.stops > len(self.items))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"`starts`/`stops` must be slices of `items` (length {len(self.items)}), "
                f"got [{self.starts[row]}, {self.stops[row]}) in row {row}."
            )

    @classmethod
    def from_examples(cls, examples: Examples) -> SeenItems:
        """Everything each user interacted with before the target, not cut to `max_history`."""
        starts = examples.sequences.offsets[examples.user]
        return cls(starts.astype(np.int64), examples.position.astype(np.int64), examples.sequences.items)

    @classmethod
    def from_lists(cls, lists: Sequence[ArrayLike]) -> SeenItems:
        """One list of catalogue indices per example.

        Raises:
            ValueError: values that are not integers.
        """
        arrays = [np.asarray(row) for row in lists]
        for index, row in enumerate(arrays):
            if row.ndim != 1 or (len(row) and not np.issubdtype(row.dtype, np.integer)):
                raise ValueError(
                    f"`seen` must hold one flat list of catalogue indices per example, "
                    f"got shape {row.shape}, dtype {row.dtype} in row {index}."
                )
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in arrays])]).astype(np.int64)
        items = np.concatenate(arrays).astype(np.int64) if offsets[-1] else np.zeros(0, dtype=np.int64)
        return cls(offsets[:-1], offsets[1:], items)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> np.ndarray:
        """Catalogue indices seen in one row."""
        return self.items[self.starts[index] : self.stops[index]]

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All `(position in rows, item)` pairs of some rows, flattened, as two int64 arrays of one length."""
        lengths = self.stops[rows] - self.starts[rows]
        position = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
        before = np.cumsum(lengths) - lengths
        flat = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(self.starts[rows] - before, lengths)
        return position, self.items[flat].astype(np.int64)


def resolve_targets(
    examples: Examples | ArrayLike, seen: SeenItems | Sequence[ArrayLike] | None, need_seen: bool, n_items: int
) -> tuple[np.ndarray, SeenItems | None]:
    """Check and unify the two ways of saying what is ranked.

    Args:
        examples: `Examples`, or `(n,)` integer catalogue indices of the targets.
        seen: what each row's user has seen; taken from `Examples` when None.
        need_seen: whether seen items matter to the caller.
        n_items: size of the catalogue.

    Returns:
        Targets `(n,)` int64, and the seen items (None when not needed).

    Raises:
        ValueError: targets outside the catalogue, or seen items needed but absent, or of another length.
    """
    if isinstance(examples, Examples):
        targets = examples.targets.astype(np.int64)
        if need_seen and seen is None:
            seen = SeenItems.from_examples(examples)
    else:
        targets = np.asarray(examples)
        if targets.ndim != 1 or (len(targets) and not np.issubdtype(targets.dtype, np.integer)):
            raise ValueError(
                f"`examples` must be `Examples` or a flat integer array of targets, "
                f"got shape {targets.shape}, dtype {targets.dtype}."
            )
        targets = targets.astype(np.int64)
    if len(targets) and (targets.min() < 0 or targets.max() >= n_items):
        raise ValueError(
            f"targets in `examples` must be catalogue indices in [0, {n_items}), "
            f"got values in [{targets.min()}, {targets.max()}]; is the scorer of the same catalogue?"
        )
    if not need_seen:
        return targets, None
    if seen is None:
        raise ValueError(
            "`seen` is None but seen items are to be left out and `examples` holds only targets; "
            "pass `seen`, pass `Examples`, or set `exclude_seen=False`."
        )
    if not isinstance(seen, SeenItems):
        seen = SeenItems.from_lists(seen)
    if len(seen) != len(targets):
        raise ValueError(f"`seen` must have one row per target ({len(targets)}), got {len(seen)}.")
    if len(seen.items) and (seen.items.min() < 0 or seen.items.max() >= n_items):
        raise ValueError(
            f"`seen` must hold catalogue indices in [0, {n_items}), "
            f"got values in [{seen.items.min()}, {seen.items.max()}]."
        )
    return targets, seen
