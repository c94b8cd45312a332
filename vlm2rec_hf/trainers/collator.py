"""From (history, target) examples to the batches of the contrastive trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples


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


@dataclass(frozen=True)
class Chunk:
    """Catalogue indices of some users' histories and some items of a batch: what is embedded in one forward pass.

    It is what travels from the data loader's workers instead of pixels; `ContrastiveCollator.lay_out` makes tensors.
    """

    histories: list[list[int]]
    items: list[int]


@dataclass
class ContrastiveCollator:
    """Lays out the histories and the distinct targets of a batch.

    Attributes:
        catalogue: the prepared items.
        max_history: most recent items of a history that are encoded.
        mini_batch_size: users per forward pass with gradient caching; `None`: the whole batch is laid out at once.
    """

    catalogue: PreparedCatalogue
    max_history: int = 10
    mini_batch_size: int | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate.

        Returns:
            `users`, `items` and `images` (see `lay_out`; an item that is the target of several users is encoded
            once), or with a `mini_batch_size` the `chunks` that `lay_out` turns into these, one at a time;
            `target_row` `(B,)`: row of each user's target among the items, `target_ids` `(B,)` and `seen_ids`
            `(B, S)` catalogue indices, padded with -1.
        """
        targets = torch.tensor([example["target"] for example in examples])
        distinct, target_row = torch.unique(targets, return_inverse=True)
        facts = {"target_row": target_row, "target_ids": targets, "seen_ids": padded_seen(examples)}
        whole = Chunk(
            [[int(i) for i in example["history"][-self.max_history :]] for example in examples], distinct.tolist()
        )
        if self.mini_batch_size is None:
            return {**self.lay_out(whole), **facts}
        return {"chunks": split(whole, self.mini_batch_size), **facts}

    def lay_out(self, chunk: Chunk) -> dict[str, Any]:
        """Read and lay out the items of a chunk, each distinct one once.

        Returns:
            `users` and `items` (left out where the chunk has none): rows, as `VLM2RecProcessor.collate` makes them,
            whose `image_index` points into `images`: pixels or features of the distinct images of both.
        """
        wanted = {i for history in chunk.histories for i in history} | set(chunk.items)
        items = {i: self.catalogue[i] for i in sorted(wanted)}
        groups = [([[items[i] for i in history] for history in chunk.histories], "user")]
        groups += [([[items[i]] for i in chunk.items], "item")] if chunk.items else []
        laid = self.catalogue.processor.collate_groups(groups)
        users, *targets = laid.pop("groups")
        return {"users": users, **({"items": targets[0]} if targets else {}), "images": laid}


def split(whole: Chunk, mini_batch_size: int) -> list[Chunk]:
    """Cut a batch into chunks of at most `mini_batch_size` users, with its (never more) items spread evenly over them.

    The number of chunks depends on the number of users alone, so processes with equal batches make equal calls.
    """
    count = -(-len(whole.histories) // mini_batch_size)
    return [
        Chunk([whole.histories[i] for i in users], [whole.items[i] for i in items])
        for users, items in zip(
            np.array_split(np.arange(len(whole.histories)), count),
            np.array_split(np.arange(len(whole.items)), count),
            strict=True,
        )
    ]
