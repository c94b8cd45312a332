"""From windows of user sequences to the batches of `VLM2RecTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.processing_vlm2rec import Row

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue

USER, ITEM = 0, 1
"""Whose rows: a window's, or an item's alone."""
ROLES = ("user", "item")
ROW_VIEWS = ("text", "image")
"""Views that have rows of their own; internal fusion's single row stands in the place of the text."""
LIKE = 0.75
"""Rows shorter than this part of the longest row of a pass go into another one (our choice)."""
Example = tuple[int, int, tuple[int, ...]]
"""`USER` or `ITEM`, its number in the batch, and the catalogue indices of its items."""


@dataclass
class ContrastiveCollator:
    """Lays out the rows of a batch's windows and of its distinct targets.

    Attributes:
        catalogue: the prepared items.
        pass_tokens: padded tokens of one pass of the language model, at most; rows of a pass are of like length.
            `None`: one pass per view.
        cache_tokens: with gradient caching, tokens of a chunk's rows, about; `None`: the batch is laid out at once.
        item_tokens: `(n_items,)` tokens of each item in a row, about; needed with `cache_tokens`.
        views: rows of these views are laid out.
    """

    catalogue: PreparedCatalogue
    pass_tokens: int | None = None
    cache_tokens: int | None = None
    item_tokens: np.ndarray | None = None
    views: tuple[str, ...] = ROW_VIEWS

    def __call__(self, windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate.

        Args:
            windows: `R` windows as `ClickWindows` gives them.

        Returns:
            What `lay_out` makes of the rows of the windows and of the `C` distinct targets, or with `cache_tokens`
            the `chunks` that it takes one at a time; and of the `Q` clicks that have a target: `query_row`,
            `query_click` `(Q,)`, the window and the item in it; `target_row` `(Q,)`, which of the distinct targets
            comes next; `item_ids` `(C,)`; `window_ids` `(R, W)`, the items of each window with its last target, and
            `past_ids` `(R, P)`, what came before it: catalogue indices, padded with -1.
        """
        rows, clicks, targets = [], [], []
        for row, window in enumerate(windows):
            first = len(window["items"]) - len(window["targets"])
            trained = np.flatnonzero(window["targets"] >= 0)
            rows += [row] * len(trained)
            clicks += (trained + first).tolist()
            targets += window["targets"][trained].tolist()
        distinct, target_row = torch.unique(torch.tensor(targets, dtype=torch.long), return_inverse=True)
        examples: list[Example] = [(USER, i, _indices(window["items"])) for i, window in enumerate(windows)]
        examples += [(ITEM, i, (item,)) for i, item in enumerate(distinct.tolist())]
        facts = {
            "query_row": torch.tensor(rows, dtype=torch.long),
            "query_click": torch.tensor(clicks, dtype=torch.long),
            "target_row": target_row,
            "item_ids": distinct,
            "window_ids": _padded([np.append(window["items"], window["targets"][-1:]) for window in windows]),
            "past_ids": _padded([window["past"] for window in windows]),
        }
        if self.cache_tokens is None:
            return {**self.lay_out(examples), **facts}
        return {"chunks": self._chunks(examples, self.cache_tokens), **facts}

    def lay_out(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Read and lay out the items of some examples, each distinct one once.

        Returns:
            `groups` and `images`: the passes (`VLM2RecProcessor.collate_passes`); `owners` `(n, 4)` long: for every
            vector that comes out of them, in order, its view, whose it is, the example's number and the item's
            within it; `real_tokens` and `padded_tokens` of all passes.
        """
        items = {i: self.catalogue[i] for i in sorted({i for _, _, indices in examples for i in indices})}
        by_view: list[list[tuple[Row, Example]]] = [[] for _ in ROW_VIEWS]
        for example in examples:
            rows = self.catalogue.processor.rows([items[i] for i in example[2]], ROLES[example[0]])
            for view, row in enumerate(rows):
                if row.ids and ROW_VIEWS[view] in self.views:
                    by_view[view].append((row, example))
        passes: list[list[Row]] = []
        owners: list[tuple[int, int, int, int]] = []
        for view, made in enumerate(by_view):
            for part in self._passes(made):
                passes.append([row for row, _ in part])
                owners += [(view, who, number, item) for row, (who, number, _) in part for item in row.items]
        if not passes:  # every process runs its model in every step: a row that is nobody's
            passes.append([Row([self.catalogue.processor.end_id], [0])])
            owners.append((-1, -1, -1, -1))
        laid = self.catalogue.processor.collate_passes(passes)
        groups = laid.pop("groups")
        return {
            "groups": groups,
            "images": laid,
            "owners": torch.tensor(owners, dtype=torch.long).view(-1, 4),
            "real_tokens": sum(len(row.ids) for rows in passes for row in rows),
            "padded_tokens": sum(group["input_ids"].numel() for group in groups),
        }

    def _passes(self, rows: list[tuple[Row, Example]]) -> list[list[tuple[Row, Example]]]:
        """Rows cut into passes: of at most `pass_tokens` padded tokens each, and of like length."""
        if self.pass_tokens is None:
            return [rows] if rows else []
        parts: list[list[tuple[Row, Example]]] = []
        longest = 0
        for row in sorted(rows, key=lambda made: len(made[0].ids), reverse=True):
            length = len(row[0].ids)
            full = parts and longest * (len(parts[-1]) + 1) > self.pass_tokens
            if not parts or full or length < LIKE * longest:
                parts.append([])
                longest = length
            parts[-1].append(row)
        return parts

    def _chunks(self, examples: list[Example], budget: int) -> list[list[Example]]:
        """Examples in order, cut where their tokens exceed the budget; no chunk is empty."""
        assert self.item_tokens is not None
        chunks: list[list[Example]] = [[]]
        used = 0
        for example in examples:
            size = int(self.item_tokens[list(example[2])].sum())
            if chunks[-1] and used + size > budget:
                chunks.append([])
                used = 0
            chunks[-1].append(example)
            used += size
        return chunks


def tokens_per_item(catalogue: PreparedCatalogue, views: Sequence[str] = ROW_VIEWS) -> np.ndarray:
    """Tokens that each item puts into the rows of a history, all views together, about: `(n_items,)` int64.

    Images that are not cached as features are taken to be as long as the first one found.
    """
    processor, known = catalogue.processor, catalogue.has_cached_features
    limit = processor.max_history_item_tokens
    found = next((item for item in (catalogue[i] for i in range(min(len(catalogue), 32))) if item.grid), None)
    sizes = np.zeros(len(catalogue), dtype=np.int64)
    blocks: dict[Any, int] = {}
    for i, length in enumerate(catalogue.text_lengths()):
        if length and "text" in views:
            sizes[i] += min(length, limit) + 1
        one = catalogue[i] if known else found
        if one is not None and one.grid is not None and "image" in views:
            if one.grid not in blocks:
                image = processor.family.image_block(processor.tokenizer, processor.image_processor, one.grid)
                blocks[one.grid] = len(image) + 1
            sizes[i] += blocks[one.grid]
    return np.maximum(sizes, 1)


def _indices(items: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in items)


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    """`(n, longest)` long, padded with -1; at least one wide."""
    out = torch.full((len(rows), max(1, max(len(row) for row in rows))), -1)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.as_tensor(np.asarray(row, dtype=np.int64))
    return out
