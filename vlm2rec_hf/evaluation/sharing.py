"""Encode in several processes: each encodes some rows, and all get the whole result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from ..modeling.modeling_vlm2rec import Encoding

Rows = TypeVar("Rows")
FIELDS = ("both", "text", "image", "has_text", "has_image")


def encoded_by_all(count: int, encode: Callable[[np.ndarray], Encoding]) -> Encoding:
    """Encode `count` rows, an even part in each process of the default group.

    Args:
        count: rows in all, the same number in every process.
        encode: given row numbers, returns their encoding; never called without rows.

    Returns:
        The encoding of all rows in order, the same in every process.

    Raises:
        RuntimeError: there is no default process group.
    """
    if not _shares(count):
        return encode(np.arange(count))
    own, gather = _own_part(count, encode)
    return replace(own, **{name: gather(getattr(own, name)) for name in FIELDS})


def rows_by_all(count: int, encode: Callable[[np.ndarray], Tensor], across_processes: bool = True) -> Tensor:
    """As `encoded_by_all`, for rows of one tensor `(n, ...)`; with `across_processes=False` this process does all."""
    if not across_processes or not _shares(count):
        return encode(np.arange(count))
    own, gather = _own_part(count, encode)
    return gather(own)


def _shares(count: int) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("`across_processes` needs an initialised process group; start with `accelerate launch`.")
    # With fewer rows than processes some would have nothing to encode, and no width to send: all take all.
    return count >= dist.get_world_size()


def _own_part(count: int, encode: Callable[[np.ndarray], Rows]) -> tuple[Rows, Callable[[Tensor], Tensor]]:
    """Encode this process's rows; also a collective that makes the whole of such a part."""
    parts = np.array_split(np.arange(count), dist.get_world_size())
    own = encode(parts[dist.get_rank()])
    sizes = [len(part) for part in parts]
    device = torch.device("cpu")
    if "cpu" not in str(dist.get_backend_config()):  # NCCL alone reaches no tensor in the CPU's memory
        device = torch.device("cuda", torch.cuda.current_device())
    return own, partial(_gather, sizes=sizes, device=device)


def _gather(rows: Tensor, sizes: list[int], device: torch.device) -> Tensor:
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]), device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size].to(rows.device) for part, size in zip(parts, sizes, strict=True)])
