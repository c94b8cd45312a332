"""From (history, target) examples to the batches of the contrastive trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from ..data.sequences import Examples
    from ..modeling.prepared_catalogue import PreparedCatalogue


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


@dataclass
class ContrastiveCollator:
    """Lays out the histories and the distinct targets of a batch.

    Attributes:
        catalogue: the prepared items.
        max_history: most recent items of a history that are encoded.
    """

    catalogue: PreparedCatalogue
    max_history: int = 10

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate.

        Returns:
            `users` and `items` (inputs of `VLM2RecEmbedder.forward`; an item that is the target of several users is
            encoded once), `target_row` `(B,)`: row of each user's target among `items`, `target_ids` `(B,)` and
            `seen_ids` `(B, S)` catalogue indices, padded with -1.
        """
        histories = [example["history"][-self.max_history :] for example in examples]
        targets = torch.tensor([example["target"] for example in examples])
        distinct, target_row = torch.unique(targets, return_inverse=True)
        # One read per distinct item of the batch, however often it occurs.
        wanted = {int(i) for history in histories for i in history} | set(distinct.tolist())
        items = {i: self.catalogue[i] for i in sorted(wanted)}
        processor = self.catalogue.processor
        longest = max(max(len(example["seen"]) for example in examples), 1)
        seen = torch.full((len(examples), longest), -1)
        for row, example in enumerate(examples):
            seen[row, : len(example["seen"])] = torch.as_tensor(example["seen"], dtype=torch.long)
        return {
            "users": dict(processor.collate([[items[int(i)] for i in history] for history in histories], "user")),
            "items": dict(processor.collate([[items[i]] for i in distinct.tolist()], "item")),
            "target_row": target_row,
            "target_ids": targets,
            "seen_ids": seen,
        }
