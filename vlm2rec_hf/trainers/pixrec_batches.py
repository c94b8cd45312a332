"""Batches of PixRec: which examples stand together, and how they are laid out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.processing_pixrec import PixRecProcessor


class ExampleDataset(Dataset):
    """`Examples` as a map-style dataset of plain dicts.

    Each element holds `history` (catalogue indices, oldest first), `target` (catalogue index) and `seen` (everything
    before the target, at most `max_seen` most recent: what must not serve as a negative).
    """

    def __init__(self, examples: Examples, max_seen: int = 200) -> None:
        self.examples = examples
        self.max_seen = max_seen

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "history": self.examples.history(index),
            "target": self.examples.targets_at(index),
            "seen": self.examples.seen(index)[-self.max_seen :],
        }


def trainable_examples(examples: Examples, catalogue: PreparedCatalogue) -> Examples:
    """Leave out targets with neither text nor image: there is no vector to come close to, or to keep away from."""
    empty = [index for index in range(len(catalogue)) if catalogue.is_empty(index)]
    return examples.take(np.flatnonzero(~np.isin(examples.targets, empty))) if empty else examples


def padded_seen(examples: Sequence[dict[str, Any]]) -> Tensor:
    """What the users of a batch have seen: `(B, S)` catalogue indices, padded with -1."""
    longest = max(max(len(example["seen"]) for example in examples), 1)
    seen = torch.full((len(examples), longest), -1)
    for row, example in enumerate(examples):
        seen[row, : len(example["seen"])] = torch.as_tensor(example["seen"], dtype=torch.long)
    return seen


class DistinctTargetSampler(Sampler[int]):
    """A random order in which each run of `batch_size` examples has distinct targets, as far as the data allow.

    Examples whose target already stands in the batch wait for the next one. At an epoch's end, where only examples of
    a few items are left, targets repeat; the loss masks those by id.

    Args:
        targets: `(n,)` item of each example.
        batch_size: examples that are contrasted with each other.
        seed: with the epoch it decides the order, so that a resumed run sees the same batches.
    """

    def __init__(self, targets: np.ndarray, batch_size: int, seed: int) -> None:
        self.targets, self.batch_size, self.seed = np.asarray(targets), batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.targets)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; the trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.targets))
        stream = iter(order.tolist())
        waiting: dict[int, deque[int]] = {}  # target -> examples that wait, in the order in which they came
        left = len(order)
        while left:
            batch: list[int] = []
            used: set[int] = set()
            # A target waits once per batch at most, so a pass over the waiting targets costs one batch.
            for target in list(waiting)[: self.batch_size]:
                queue = waiting.pop(target)
                batch.append(queue.popleft())
                used.add(target)
                if queue:
                    waiting[target] = queue  # to the end: others come first next time
            while len(batch) < self.batch_size and (example := next(stream, None)) is not None:
                target = int(self.targets[example])
                if target in used:
                    waiting.setdefault(target, deque()).append(example)
                else:
                    used.add(target)
                    batch.append(example)
            while len(batch) < self.batch_size and waiting:
                for target in list(waiting)[: self.batch_size - len(batch)]:
                    batch.append(waiting[target].popleft())
                    if not waiting[target]:
                        del waiting[target]
            left -= len(batch)
            yield from batch


class SamplerEpochs(TrainerCallback):
    """Tells the sampler itself which epoch begins.

    With several processes the libraries do not reach it behind a loader that skips the first batches, so a run resumed
    within a later epoch would see another order than the run it continues (accelerate 1.15, transformers 5.23).
    """

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: DataLoader | None = None, **kwargs: Any
    ) -> None:
        """Set the epoch: so many whole ones are done."""
        batches: Any = train_dataloader
        while (inner := getattr(batches, "batch_sampler", None)) is not None:
            batches = inner
        sampler: Any = getattr(batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))


@dataclass
class PixRecCollator:
    """Lays out histories with their targets, and the distinct targets alone.

    Attributes:
        catalogue: the prepared items.
        max_history: most recent items of a history.
    """

    catalogue: PreparedCatalogue
    max_history: int = 5

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate.

        Args:
            examples: elements of an `ExampleDataset`.

        Returns:
            Inputs of `PixRecModel.forward` (`items`: the distinct targets alone) beside `target_row` `(B,)`: row of
            each example's target among `items`, `target_ids` `(B,)` and `seen_ids` `(B, S)` catalogue indices, padded
            with -1.
        """
        histories = [example["history"][-self.max_history :] for example in examples]
        targets = torch.tensor([example["target"] for example in examples])
        distinct, target_row = torch.unique(targets, return_inverse=True)
        # One read per distinct item of the batch, however often it occurs.
        wanted = {int(i) for history in histories for i in history} | set(distinct.tolist())
        items = {i: self.catalogue[i] for i in sorted(wanted)}
        processor: PixRecProcessor = self.catalogue.processor  # type: ignore[assignment]
        sequences = processor.collate_sequences(
            [[items[int(i)] for i in history] for history in histories], [items[i] for i in targets.tolist()]
        )
        return {
            **sequences,
            "items": dict(processor.collate([[items[i]] for i in distinct.tolist()], "item")),
            "target_row": target_row,
            "target_ids": targets,
            "seen_ids": padded_seen(examples),
        }
