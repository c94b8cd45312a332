"""From prepared examples to vectors: equal pictures and rows pass the model once, in passes of like length."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .encoding_budget_vlm2rec import PassBudget
from .families_vlm2rec import ImageFeatures
from .fusion_vlm2rec import last_token_pool, unit
from .processing_vlm2rec import PreparedItem, VLM2RecProcessor

KEPT_FEATURE_BYTES = 2**30


@dataclass
class Row:
    """One sequence for the language model.

    Attributes:
        ids: its tokens.
        pictures: keys of the pictures that stand in it, in order.
        view: which of the views its vector belongs to.
        index: of the example it belongs to.
    """

    ids: list[int]
    pictures: list[Any]
    view: str
    index: int


class PictureFeatures:
    """Vision features by picture key: a picture passes the tower once while its features are kept.

    Args:
        model: whose tower.
        budget: limits of a pass.
        forget: drop the features at the end of every chunk, because rows are remembered instead; else the newest
            `KEPT_FEATURE_BYTES` stay.

    Attributes:
        grids: grids of the pictures whose pixels are not needed any more.
        passed: pictures that went through the tower.
    """

    def __init__(self, model: Any, budget: PassBudget, forget: bool) -> None:
        self.model, self.budget, self.forget = model, budget, forget
        self.grids: dict[Any, tuple[int, ...]] = {}
        self.passed = 0
        self.bytes = 0
        self._kept: OrderedDict[Any, ImageFeatures] = OrderedDict()

    def __getitem__(self, key: Any) -> ImageFeatures:
        return self._kept[key]

    def add(self, items: Sequence[PreparedItem]) -> None:
        """Take features from items that bring them, and run the tower on the others' pixels."""
        waiting: dict[Any, PreparedItem] = {}
        for item in items:
            if item.grid is None or item.key in self._kept or (self.forget and item.key in self.grids):
                continue
            if item.features is not None:
                self._keep(item, item.features.to(self.model.device))
            elif item.pixel_values is not None:
                waiting[item.key] = item
        self.budget.run(list(waiting.values()), lambda item: len(item.pixel_values), False, self._pass)  # type: ignore[arg-type]

    def _pass(self, items: list[PreparedItem]) -> None:
        model = self.model
        grid = torch.tensor([item.grid for item in items])
        pixels = torch.cat([item.pixel_values for item in items if item.pixel_values is not None])
        images = model.encode_images(pixels.to(model.device), grid.to(model.device))
        lengths = model.family.tokens_per_image(model.config.vlm_config, grid).tolist()
        for item, features in zip(items, images.split(lengths), strict=True):
            self._keep(item, features)
        self.passed += len(items)

    def _keep(self, item: PreparedItem, features: ImageFeatures) -> None:
        assert item.grid is not None
        self._kept[item.key], self.grids[item.key] = features, item.grid
        self.bytes += features.nbytes

    def end_chunk(self) -> None:
        """Let go of what need not be kept."""
        while self._kept and (self.forget or self.bytes > KEPT_FEATURE_BYTES):
            key, features = self._kept.popitem(last=False)
            self.bytes -= features.nbytes
            if not self.forget:
                del self.grids[key]


class RowEncoder:
    """Vectors of rows; equal rows of one call are run once.

    Args:
        model: a `VLM2RecEmbedder`.
        processor: lays out and pads.
        role: `"item"` or `"user"`.
        out: view -> `(n, d)` float32 on the CPU, filled in.
        budget: limits of a pass.
        packed: run rows one behind the other, without padding.

    Attributes:
        passes: passes through the language model.
        tokens: tokens that went through it, padding included.
    """

    def __init__(
        self,
        model: Any,
        processor: VLM2RecProcessor,
        role: str,
        out: dict[str, Tensor],
        budget: PassBudget,
        packed: bool,
    ) -> None:
        self.model, self.processor, self.role, self.out = model, processor, role, out
        self.budget, self.packed = budget, packed
        self.features = PictureFeatures(model, budget, role == "item" and model.config.fusion == "external")
        self.passes = 0
        self.tokens = 0
        self._first: dict[bytes, tuple[str, int]] = {}
        self._numbers: dict[Any, int] = {}
        self._vectors: list[tuple[list[Row], Tensor]] = []

    def encode(self, examples: Sequence[list[PreparedItem]], start: int) -> None:
        """Fill in the vectors of examples `start`, `start + 1`, ...; their pictures' features are known."""
        rows: list[Row] = []
        copies: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for index, example in enumerate(examples, start):
            for row in self._rows(example, index):
                view, first = self._first.setdefault(self._digest(row), (row.view, index))
                if (view, first) == (row.view, index):
                    rows.append(row)
                else:
                    copies.setdefault((row.view, view), []).append((index, first))
        self.budget.run(rows, lambda row: len(row.ids), not self.packed, self._pass)
        for done, vectors in self._vectors:
            vectors = vectors.cpu()
            for name, out in self.out.items():
                here = [i for i, row in enumerate(done) if row.view == name]
                out[[done[i].index for i in here]] = vectors[here]
        self._vectors = []
        for (view, source), pairs in copies.items():
            to, where = zip(*pairs, strict=True)
            self.out[view][list(to)] = self.out[source][list(where)]

    def _rows(self, example: list[PreparedItem], index: int) -> list[Row]:
        def keys(items: Sequence[PreparedItem]) -> list[Any]:
            return [item.key for item in items if item.grid is not None]

        text, image = self.processor.row_tokens(example, self.role)
        if self.model.config.fusion == "external":
            rows = [Row(text, [], "text", index), Row(image, keys(example), "image", index)]
            return [row for row in rows if row.ids]
        # Internal fusion has no separate branches: a view is what the model says of the input without the other.
        rows = [Row(text, keys(example), "both", index)]
        for view, alone in (
            ("text", [PreparedItem(text=item.text) for item in example if item.text is not None]),
            ("image", [replace(item, text=None) for item in example if item.grid is not None]),
        ):
            if alone:
                rows.append(Row(self.processor.row_tokens(alone, self.role)[0], keys(alone), view, index))
        return rows

    def _digest(self, row: Row) -> bytes:
        numbers = [self._numbers.setdefault(key, len(self._numbers)) for key in row.pictures]
        return hashlib.blake2b(array("q", [len(numbers), *numbers, *row.ids]).tobytes(), digest_size=16).digest()

    def _pass(self, rows: list[Row]) -> None:
        model = self.model
        ids, mask = (each.to(model.device) for each in self.processor._pad([row.ids for row in rows]))
        pictures = [self.features[key] for row in rows for key in row.pictures]
        images = ImageFeatures.joined(pictures) if pictures else None
        if self.packed:
            states = model.family.run_packed(model.vlm, ids, mask, images)
            pooled = states[torch.cumsum(mask.sum(-1), 0) - 1]
        else:
            pooled = last_token_pool(model.family.run(model.vlm, ids, mask, images), mask)
        self._vectors.append((rows, unit(pooled)))
        self.passes += 1
        self.tokens += sum(len(row.ids) for row in rows) if self.packed else ids.numel()
