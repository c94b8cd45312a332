"""Rows for training on every click: each user's training sequence cut into windows, anew for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.sequences import Sequences
from .seqrec_windows import LengthBatches

TARGETS_PER_ROW = ("all", "last")
WindowKey = tuple[int, int, int]
"""User, flat position of a window's first item, and of the end behind its last target."""


@dataclass(frozen=True)
class Cut:
    """One epoch's windows.

    Attributes:
        user: `(n,)` whose window it is.
        start: `(n,)` flat position of its first item.
        stop: `(n,)` flat position behind its last target.
        targets: `(n,)` targets that are trained.
        tokens: `(n,)` tokens of its rows, about.
    """

    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def key(self, row: int) -> WindowKey:
        """What `ClickWindows` gives a window for."""
        return int(self.user[row]), int(self.start[row]), int(self.stop[row])


class ClickWindows(Dataset):
    """Training sequences as windows of at most `max_history` items, and the target behind each of them.

    Neighbouring windows share an item, the target of one and the first item of the next, so that in an epoch every
    item but a user's first is a target exactly once. A user with more targets than fit into one window gets a first
    window of random length; seed and epoch decide it (our choice).

    Args:
        sequences: the flat sequences; their training part is used.
        max_history: items of a row at most.
        targets_per_row: `"all"`: a target behind every item of the row; `"last"`: one target per row, every prefix of
            at most `max_history` items a row of its own.
        tokens: `(n_items,)` tokens of each item in a row, about; 1 by default.
        empty: `(n_items,)` bool, items with neither text nor image: no targets, and no history by themselves.
        seed: of the cuts.

    Raises:
        ValueError: an unknown `targets_per_row`, or a `max_history` below 1.
    """

    def __init__(
        self,
        sequences: Sequences,
        max_history: int,
        targets_per_row: str = "all",
        *,
        tokens: np.ndarray | None = None,
        empty: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        if targets_per_row not in TARGETS_PER_ROW:
            raise ValueError(f"`targets_per_row` must be one of {TARGETS_PER_ROW}, got {targets_per_row!r}.")
        if max_history < 1:
            raise ValueError(f"`max_history` must be at least 1, got {max_history}.")
        self.max_history, self.targets_per_row, self.seed = max_history, targets_per_row, seed
        self.items, self.offsets = sequences.training_part()
        self.empty = np.zeros(sequences.n_items, dtype=bool) if empty is None else empty
        starts, stops = self.offsets[:-1], self.offsets[1:]
        self._users = np.flatnonzero(stops - starts >= 2)
        self._starts, self._stops = starts[self._users], stops[self._users]
        items = self.items
        sizes = np.ones(len(items), dtype=np.int64) if tokens is None else tokens[items].astype(np.int64)
        self._tokens = np.concatenate([[0], np.cumsum(sizes)])
        filled = ~self.empty[items]
        self._filled = np.concatenate([[0], np.cumsum(filled)])
        # For every place the first one from there on whose item has something to show.
        places = np.where(filled, np.arange(len(items)), len(items))
        self._next_filled = np.append(np.minimum.accumulate(places[::-1])[::-1], len(items))
        first = self._every(0)
        self._first_cut = _with_targets(first)
        self._kept = len(self._first_cut) / max(len(first), 1)

    def __len__(self) -> int:
        """Windows of an epoch that hold a target; where they vary, about."""
        if self.targets_per_row == "last":
            return len(self._first_cut)
        targets = self._stops - self._starts - 1
        # The mean of ceil((n - r) / h) over r = 1..h is (n - 1) / h.
        rows = np.where(targets <= self.max_history, 1.0, 1 + (targets - 1) / self.max_history)
        # Of an epoch's windows as many are left out as of the first one's.
        return max(round(float(rows.sum()) * self._kept), min(len(self._first_cut), 1))

    @property
    def n_targets(self) -> int:
        """Targets of the first epoch."""
        return int(self._first_cut.targets.sum())

    def target_counts(self) -> np.ndarray:
        """How often each item is a target in an epoch, about: `(n_items,)` int64."""
        later = np.ones(len(self.items), dtype=bool)
        later[self.offsets[:-1][np.diff(self.offsets) > 0]] = False
        later &= ~self.empty[self.items]
        return np.bincount(self.items[later], minlength=len(self.empty)).astype(np.int64)

    def __getitem__(self, window: int | WindowKey) -> dict[str, np.ndarray]:
        """A window, by its key or as the number of one of the first epoch's.

        Returns:
            `items` `(n,)`: catalogue indices of the row, oldest first; `targets` `(k,)`: what came after each of its
            last `k` items, -1 where that is not trained; `past`: everything before the row.
        """
        user, start, stop = window if isinstance(window, tuple) else self._first_cut.key(window)
        items = self.items
        clicks = stop - start - 1 if self.targets_per_row == "all" else 1
        places = np.arange(stop - clicks, stop)
        trained = ~self.empty[items[places]] & (self._next_filled[start] < places)
        return {
            "items": items[start : stop - 1],
            "targets": np.where(trained, items[places], -1),
            "past": items[self.offsets[user] : start],
        }

    def cut(self, epoch: int) -> Cut:
        """The windows of an epoch; those without a target are left out."""
        return _with_targets(self._every(epoch))

    def _every(self, epoch: int) -> Cut:
        user, start, stop = self._last() if self.targets_per_row == "last" else self._all(epoch)
        first = np.minimum(self._next_filled[start] + 1, stop)
        first = np.maximum(first, stop - 1) if self.targets_per_row == "last" else first
        return Cut(
            self._users[user],
            start,
            stop,
            self._filled[stop] - self._filled[first],
            self._tokens[stop - 1] - self._tokens[start],
        )

    def _all(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        targets, longest = self._stops - self._starts - 1, self.max_history
        drawn = np.random.default_rng([self.seed, epoch]).integers(1, longest, size=len(targets), endpoint=True)
        first = np.where(targets <= longest, targets, drawn)
        count = 1 + -(-(targets - first) // longest)
        user = np.repeat(np.arange(len(targets)), count)
        number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        end = np.minimum(first[user] + number * longest, targets[user])
        begin = np.where(number == 0, 0, first[user] + (number - 1) * longest)
        return user, self._starts[user] + begin, self._starts[user] + end + 1

    def _last(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = self._stops - self._starts - 1
        user = np.repeat(np.arange(len(count)), count)
        target = self._starts[user] + 1 + np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        return user, np.maximum(self._starts[user], target - self.max_history), target + 1


def _with_targets(cut: Cut) -> Cut:
    some = cut.targets > 0
    return cut if some.all() else Cut(*(getattr(cut, name)[some] for name in Cut.__dataclass_fields__))


class WindowBatches(LengthBatches):
    """Batches of windows whose rows are of like length, with about equally many targets each; lists of `WindowKey`s.

    Several processes share every batch, so that together they take the steps of one process with larger batches.

    Args:
        windows: the windows.
        rows_per_batch: windows of a batch on average, of one process.
        seed: of the order.
        process: number of this process.
        n_processes: processes that share a batch.
    """

    def __init__(
        self, windows: ClickWindows, rows_per_batch: int, seed: int = 0, *, process: int = 0, n_processes: int = 1
    ) -> None:
        self.windows = windows
        lengths = np.ones(len(windows), dtype=np.int64)
        super().__init__(lengths, rows_per_batch * n_processes)
        self.seed, self.part, self.parts = seed, process, n_processes

    def __iter__(self) -> Iterator[list[WindowKey]]:  # type: ignore[override]
        cut = self.windows.cut(self.epoch)
        self.lengths, self.weights = cut.tokens, cut.targets
        batches = list(super().__iter__())
        for rows in batches:  # each process needs a row of every batch
            while len(rows) < self.parts:
                rows.append(max(batches, key=len).pop())
        for rows in batches:
            yield [cut.key(row) for row in rows[self.part :: self.parts]]


class WindowLoader(DataLoader):
    """A `DataLoader` over windows that passes the epoch on to its batches.

    Args:
        windows: the windows.
        batches: which of them stand together.
        collate: makes a batch of windows.
        options: of `DataLoader` (`num_workers`, ...).
    """

    def __init__(
        self, windows: ClickWindows, batches: WindowBatches, collate: Callable[[list[Any]], Any], **options: Any
    ) -> None:
        # A generator of its own: drawing worker seeds must not move the stream that dropout draws from.
        generator = torch.Generator().manual_seed(batches.seed)
        super().__init__(windows, batch_sampler=batches, collate_fn=collate, generator=generator, **options)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; called by the trainer."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
