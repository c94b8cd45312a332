"""Passes through the model: how states become vectors, how much fits into a pass, and which rows go together.

Equal images and rows pass the model once, in passes of like length.
"""

import gc
import hashlib
import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .family_vlm2rec import ImageFeatures, Sizes
from .items_vlm2rec import PreparedItem
from .processing_vlm2rec import Row, VLM2RecProcessor, flat_places

T = TypeVar("T")

DEFAULT_ROWS = 32
# Passes past these sizes gain nothing: a CPU's activations leave its caches, an accelerator is full (our choice).
USEFUL_TOKENS = {"cpu": 4096}
USEFUL_TOKENS_OF_ACCELERATORS = 65_536
LONGEST_ROW = 2048  # assumed where attention writes its scores down


@dataclass
class PassBudget:
    """Limits of one pass through the language model or the vision tower.

    Attributes:
        tokens: padded tokens of a pass (rows times the longest of them; the sum of lengths where rows are packed), and
            vision patches of a pass through the tower; `None`: no limit. A single row or image may exceed it.
        rows: rows (or images) of a pass; `None`: no limit.
        why: where the limit comes from, for people.
    """

    tokens: int | None
    rows: int | None
    why: str = "given"

    def end(self, sizes: Sequence[int], start: int, padded: bool) -> int:
        """Where the pass that begins at `start` ends; `sizes` fall, so the first row of a pass is its longest."""
        end, total = start + 1, sizes[start]
        while end < len(sizes) and (self.rows is None or end - start < self.rows):
            total = sizes[start] * (end - start + 1) if padded else total + sizes[end]
            if self.tokens is not None and total > self.tokens:
                break
            end += 1
        return end

    def run(self, todo: Sequence[T], size: Callable[[T], int], padded: bool, step: Callable[[list[T]], None]) -> None:
        """Call `step` on parts of `todo`, the largest first; if memory runs out, halve the limit and continue.

        Raises:
            torch.OutOfMemoryError: a single row or image does not fit.
        """
        todo = sorted(todo, key=size, reverse=True)
        sizes, start = [size(one) for one in todo], 0
        while start < len(todo):
            end = self.end(sizes, start, padded)
            fits = True
            try:
                step(list(todo[start:end]))
            except torch.OutOfMemoryError as error:
                if end - start == 1:
                    error.add_note(
                        f"A single row or image of {sizes[start]} tokens or patches does not fit; make images "
                        "smaller in the processor's `image_processor`, lower `max_history`, or load the model in a "
                        "smaller `dtype`."
                    )
                    raise
                fits = False
            if fits:
                start = end
            else:  # outside of `except`, whose traceback keeps the failed pass's tensors alive
                self._halve(sizes[start] * (end - start) if padded else sum(sizes[start:end]))

    def _halve(self, used: int) -> None:
        self.tokens = max(1, min(used, self.tokens or used) // 2)
        self.why = "halved, because memory ran out"
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def pass_budget(model: Any, batch_size: int | None, max_tokens: Any) -> PassBudget:
    """The limits that the arguments of `encode_items` ask for.

    Raises:
        ValueError: a `batch_size` or `max_tokens` below 1, or another word than `"auto"`.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1 or None, got {batch_size}.")
    if max_tokens == "auto":
        tokens, why = safe_tokens(model)
        return PassBudget(tokens, batch_size, why)
    if max_tokens is None:
        return PassBudget(None, batch_size or DEFAULT_ROWS)
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise ValueError(f"`max_tokens` must be a whole number of at least 1, 'auto' or None, got {max_tokens!r}.")
    return PassBudget(max_tokens, batch_size)


def safe_tokens(model: Any) -> tuple[int, str]:
    """Tokens (or vision patches) that surely fit into half of the free memory in one pass.

    Args:
        model: a `VLM2RecEmbedder`; its device, dtype, attention and the widths of both its parts count.

    Returns:
        The number, and how it came about, in words.
    """
    device = model.device
    free = free_memory(device)
    each = max(token_bytes(sizes, model.dtype.itemsize) for sizes in model.family.sizes(model.vlm))
    fitting = max(1, int(free / 2 / each))
    useful = USEFUL_TOKENS.get(device.type, USEFUL_TOKENS_OF_ACCELERATORS)
    limit = "more gains nothing" if useful <= fitting else "half of the free memory"
    return min(useful, fitting), f"{limit}; {free / 2**30:.1f} GiB free on {device}, at most {each:,} bytes per token"


def token_bytes(sizes: Sizes, itemsize: int) -> int:
    """Memory that one token takes at the peak of a pass without gradients; an upper estimate (ours).

    Layers run one after the other, so one layer's intermediates count: residuals, projections of attention with their
    rotated copies, the gated MLP, and what is computed in float32 on the way.
    """
    attention = 3 * sizes.heads * sizes.head_size
    numbers = 4 * sizes.width + 2 * attention + 3 * sizes.mlp_width
    in_float32 = 2 * sizes.width + 2 * attention + 12 * sizes.head_size
    scores = sizes.heads * LONGEST_ROW * (2 * itemsize + 4) if sizes.writes_scores else 0
    return numbers * itemsize + in_float32 * 4 + sizes.input_width * (4 + itemsize) + scores


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; what PyTorch holds in reserve counts as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file if line.endswith("kB\n")}
        return sizes["MemAvailable"]
    except (OSError, KeyError):  # not Linux
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, ValueError, OSError):
            return 4 * 2**30


def last_token_pool(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """State of each row's last real token, whichever side is padded: `(rows, length, d)` -> `(rows, d)`."""
    length = attention_mask.shape[-1]
    last = (attention_mask.long() * torch.arange(1, length + 1, device=attention_mask.device)).argmax(-1)
    return hidden_states[torch.arange(len(last), device=last.device), last]


def states_at(model: Any, ids: Tensor, mask: Tensor, images: Any, ends: Tensor, packed: bool) -> Tensor:
    """States `(m, d)` at the flat places `ends` `(m,)` of padded rows, which run `packed`, without padding, or not."""
    if packed:
        return model.family.run_packed(model.vlm, ids, mask, images)[mask.flatten().cumsum(0)[ends] - 1]
    return model.family.run(model.vlm, ids, mask, images).flatten(0, 1)[ends]


def unit(vectors: Tensor) -> Tensor:
    """L2-normalise in float32: `(rows, d)` -> `(rows, d)` float32. Zero vectors stay zero."""
    return F.normalize(vectors.float(), dim=-1)


def scatter_rows(vectors: Tensor, present: Tensor) -> Tensor:
    """Put the vectors of the present rows in place, zeros elsewhere: `(n_present, d)`, `(rows,)` -> `(rows, d)`."""
    if len(vectors) == len(present):
        return vectors
    out = vectors.new_zeros(len(present), vectors.shape[-1])
    return out.index_copy(0, present.nonzero().squeeze(-1), vectors)


def fuse(text: Tensor, image: Tensor) -> Tensor:
    """External fusion, `z = z_text + z_image` (arXiv 2603.17450 adds the two separately encoded vectors).

    Args:
        text: `(rows, d)` unit vectors, zero where the text is absent.
        image: `(rows, d)` unit vectors, zero where the image is absent.
    """
    return text + image


KEPT_FEATURE_BYTES = 2**30


@dataclass
class Work:
    """A row to run, and where its vectors go.

    Attributes:
        row: the row.
        view: of its vectors.
        out: rows of the view's output.
        ends: for each of them, the place in the row of the end token whose vector it gets.
    """

    row: Row
    view: str
    out: list[int]
    ends: list[int]


class FeaturesByKey:
    """Vision features by image key: an image passes the tower once while its features are kept.

    Args:
        model: whose tower.
        budget: limits of a pass.
        forget: drop the features at the end of every chunk, because rows are remembered instead; else the newest
            `KEPT_FEATURE_BYTES` stay.

    Attributes:
        grids: grids of the images whose pixels are not needed any more.
        passed: images that went through the tower.
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
        """Take the features of items that have them, and run the tower on the pixels of the others."""
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
        """Release what need not be kept."""
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
        present: `"text"` and `"image"` -> `(n,)` bool on the CPU, whether there is a row of that view; filled in.
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
        present: dict[str, Tensor],
        budget: PassBudget,
        packed: bool,
    ) -> None:
        self.model, self.processor, self.role, self.out, self.present = model, processor, role, out, present
        self.budget, self.packed = budget, packed
        self.features = FeaturesByKey(model, budget, role == "item" and model.config.fusion == "external")
        self.passes = 0
        self.tokens = 0
        self._first: dict[bytes, Work] = {}
        self._numbers: dict[Any, int] = {}
        self._vectors: list[tuple[list[Work], Tensor]] = []

    def encode(self, examples: Sequence[list[PreparedItem]], start: int, every_click: bool = False) -> int:
        """Fill in the vectors of examples from output `start` on; returns where they end. Features are known."""
        todo: list[Work] = []
        copies: list[tuple[Work, Work]] = []
        for example in examples:
            for work in self._rows(example, start, every_click):
                first = self._first.setdefault(self._digest(work), work)
                if first is work:
                    todo.append(work)
                else:
                    copies.append((work, first))
                if work.view in self.present:
                    self.present[work.view][work.out] = True
            start += len(example) if every_click else 1
        self.budget.run(todo, lambda work: len(work.row.ids), not self.packed, self._pass)
        for done, vectors in self._vectors:
            parts = vectors.cpu().split([len(work.out) for work in done])
            for work, part in zip(done, parts, strict=True):
                self.out[work.view][work.out] = part
        self._vectors = []
        for work, source in copies:
            self.out[work.view][work.out] = self.out[source.view][source.out]
        return start

    def _rows(self, example: list[PreparedItem], start: int, every_click: bool) -> list[Work]:
        rows = dict(zip(("text", "image"), self.processor.rows(example, self.role), strict=True))
        if self.model.config.fusion == "internal":
            # No separate branches: a view is what the model makes of the input without the other modality.
            alone = {
                "text": [replace(item, grid=None) for item in example],
                "image": [replace(item, text=None) for item in example],
            }
            rows = {"both": rows["text"], **{v: self.processor.rows(part, self.role)[0] for v, part in alone.items()}}
        made = []
        for view, row in rows.items():
            newest = row.newest(len(example)) if every_click else [len(row.ends) - 1]
            out = [start + click for click, end in enumerate(newest) if end >= 0]
            if out:
                made.append(Work(row, view, out, [row.ends[end] for end in newest if end >= 0]))
        return made

    def _digest(self, work: Work) -> bytes:
        numbers = [self._numbers.setdefault(item.key, len(self._numbers)) for item in work.row.images]
        parts = [len(numbers), *numbers, len(work.ends), *work.ends, *work.row.ids]
        return hashlib.blake2b(array("q", parts).tobytes(), digest_size=16).digest()

    def _pass(self, todo: list[Work]) -> None:
        model = self.model
        rows = [work.row for work in todo]
        ids, mask = (each.to(model.device) for each in self.processor._pad([row.ids for row in rows]))
        features = [self.features[item.key] for row in rows for item in row.images]
        images = ImageFeatures.joined(features) if features else None
        ends = flat_places(mask, [work.ends for work in todo])
        self._vectors.append((todo, unit(states_at(model, ids, mask, images, ends, self.packed))))
        self.passes += 1
        self.tokens += sum(len(row.ids) for row in rows) if self.packed else ids.numel()
