"""User sequences cut into windows and put into batches of similar length, once per epoch each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.sequences import Sequences
from ..modeling.modeling_seqrec import PADDING


class Windows(Dataset):
    """Slices of what is trained on, as rows for a causal encoder or for masked training.

    Args:
        sequences: the flat sequences; rows hold what is `in_training`, each user's in order, and nothing else.
        max_length: longest row.
        which: `"last"`: each user's most recent row; `"all"`: the earlier ones too, cut from the end without overlap.
        shifted: rows have the next item of each place as its label (causal encoders); otherwise the items themselves
            are the labels (masked training).

    Raises:
        ValueError: an unknown `which`, or no user with two training interactions.
    """

    def __init__(self, sequences: Sequences, max_length: int, which: str = "last", shifted: bool = True) -> None:
        if which not in ("last", "all"):
            raise ValueError(f"`windows` must be 'last' or 'all', got {which!r}.")
        self.items, edges = sequences.training_part()
        self.shifted, first, stops = shifted, edges[:-1], edges[1:]
        usable = stops - first >= 2
        if not usable.any():
            raise ValueError(
                "`train_dataset` has no user with two training interactions: there is nothing to predict."
            )
        first, stop = first[usable], stops[usable] - int(shifted)
        count = -(-(stop - first) // max_length) if which == "all" else np.ones(len(first), dtype=np.int64)
        user = np.repeat(np.arange(len(first)), count)
        number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        self.stop = stop[user] - number * max_length
        self.start = np.maximum(first[user], self.stop - max_length)
        if not shifted:  # a row of one item, masked, would leave nothing to see
            long = self.stop - self.start >= 2
            self.start, self.stop = self.start[long], self.stop[long]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        """`(n,)` entries of each row."""
        return self.stop - self.start

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """One batch: `input_ids` and `labels`, both `(b, t)` int64 with `PADDING` on the right."""
        start, stop = self.start[rows], self.stop[rows]
        width = int((stop - start).max())
        places = start[:, None] + np.arange(width)
        outside = places >= stop[:, None]
        places = np.minimum(places, len(self.items) - 1)
        inputs = np.where(outside, PADDING, self.items[places])
        if not self.shifted:
            return {"input_ids": torch.from_numpy(inputs.astype(np.int64))}
        labels = np.where(outside, PADDING, self.items[np.minimum(places + 1, len(self.items) - 1)])
        return {
            "input_ids": torch.from_numpy(inputs.astype(np.int64)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
        }


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length and of nearly equal numbers of entries, in random order.

    Little padding is computed that way, and the mean loss of each batch weighs every entry of the epoch nearly alike.
    Rows of equal length change partners every epoch. The batches depend on seed and epoch alone.

    Args:
        lengths: `(n,)` entries of each row.
        rows_per_batch: rows of a batch on average over the epoch; batches of short rows hold more.
        seed: of the order.
        bucketed: False puts rows of any length together (for comparison).
        process: number of this process.
        n_processes: processes that share an epoch; each gets as many batches.

    Raises:
        ValueError: fewer rows than processes.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        rows_per_batch: int,
        seed: int = 0,
        *,
        bucketed: bool = True,
        process: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.lengths, self.seed, self.bucketed = lengths, seed, bucketed
        self.weights: np.ndarray | None = None  # what batches hold equal numbers of, in place of entries
        self.process, self.n_processes = process, n_processes
        if len(lengths) < n_processes:
            raise ValueError(f"`lengths` has {len(lengths)} rows, too few for {n_processes} processes; use fewer.")
        per_process = max(1, round(len(lengths) / rows_per_batch / n_processes))
        self.n_batches = min(per_process, len(lengths) // n_processes) * n_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches // self.n_processes

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        if self.bucketed:
            order = order[np.argsort(self.lengths[order], kind="stable")]
        sizes = (self.lengths if self.weights is None else self.weights)[order].astype(np.float64)
        middle = np.cumsum(sizes) - sizes / 2
        batch = np.minimum((middle / sizes.sum() * self.n_batches).astype(np.int64), self.n_batches - 1)
        groups = list(np.split(order, np.flatnonzero(np.diff(batch)) + 1))
        # A row longer than a batch's share may leave a batch without rows; the largest one is split to fill it. In an
        # epoch of fewer rows than batches, rows come twice.
        while len(groups) < self.n_batches:
            largest = int(np.argmax([len(group) for group in groups]))
            group = groups.pop(largest)
            groups += [group[: len(group) // 2], group[len(group) // 2 :]] if len(group) > 1 else [group, group]
        for place in rng.permutation(self.n_batches)[self.process :: self.n_processes]:
            yield groups[place].tolist()


class EpochLoader(DataLoader):
    """A `DataLoader` over windows that passes the epoch on to its batches."""

    def __init__(self, windows: Windows, batches: LengthBatches, workers: int = 0) -> None:
        # A generator of its own: drawing worker seeds must not move the stream that dropout draws from.
        super().__init__(
            windows,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=workers,
            generator=torch.Generator().manual_seed(batches.seed),
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; called by the trainer."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _as_it_is(batch: Any) -> Any:
    return batch
