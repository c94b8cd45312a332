"""How much goes through the model at once: a look at the free memory beforehand, and halving where it was wrong."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from .families_vlm2rec import Sizes

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
            vision patches of a pass through the tower; `None`: no limit. A single row or picture may exceed it.
        rows: rows (or pictures) of a pass; `None`: no limit.
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
        """Call `step` on parts of `todo`, the largest first; where memory runs out, halve the limit and go on.

        Raises:
            torch.OutOfMemoryError: a single row or picture does not fit.
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
                        f"A single row or picture of {sizes[start]} tokens or patches does not fit; make pictures "
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
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file if line.endswith("kB\n")}
        return found["MemAvailable"]
    except (OSError, KeyError):  # not Linux
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, ValueError, OSError):
            return 4 * 2**30
