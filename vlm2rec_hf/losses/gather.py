"""Candidates of all processes, with gradients flowing back to the process they came from.

With in-batch negatives `k` processes of batch `n` only equal one process of batch `k * n` if every user sees all
candidates and every candidate collects the gradients of all users. All functions here are collectives: every process
has to call them, in the same order. In a single process (or without an initialised process group) they change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .similarity import ViewVectors


def is_distributed() -> bool:
    """Whether there is more than one process in the default group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_sizes(n_rows: int, device: torch.device | str) -> list[int]:
    """Number of rows on every process, in rank order.

    Args:
        n_rows: rows on this process.
        device: where the collective runs; the device of the tensor to gather.
    """
    if not is_distributed():
        return [n_rows]
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([n_rows], device=device))
    return [int(size) for size in torch.cat(sizes).tolist()]


def gather_with_grad(tensor: Tensor, sizes: list[int] | None = None) -> Tensor:
    """Concatenate a tensor over all processes, in rank order.

    The gradient of a row is the sum of what all processes send to it. Data-parallel training then averages over
    processes, which gives the gradient of the mean of their losses. Processes may hold different numbers of rows.

    Args:
        tensor: `(n, ...)`; the sizes after the first, and the type, must agree between processes.
        sizes: rows per process as from `gather_sizes`, to save that collective when several tensors are gathered.

    Returns:
        `(sum of n, ...)`.

    Raises:
        ValueError: `sizes` that do not fit this process's `tensor`.
    """
    if not is_distributed():
        return tensor
    if sizes is None:
        sizes = gather_sizes(len(tensor), tensor.device)
    if len(sizes) != dist.get_world_size() or sizes[dist.get_rank()] != len(tensor):
        raise ValueError(
            f"`sizes` must hold the rows of each of the {dist.get_world_size()} processes "
            f"({len(tensor)} on rank {dist.get_rank()}), got {sizes}. Compute it with `gather_sizes`."
        )
    if tensor.is_floating_point():
        return _GatherRows.apply(tensor, sizes)
    return _gather_rows(tensor, sizes)


def gather_candidates(
    candidates: ViewVectors, candidate_ids: Tensor, positive: Tensor
) -> tuple[ViewVectors, Tensor, Tensor]:
    """Gather vectors, presence and ids of all processes' candidates, and move `positive` to the new columns.

    Args:
        candidates: this process's `C` candidates.
        candidate_ids: `(C,)` long, their item ids.
        positive: `(B,)` long, columns of this process's targets among its own candidates.

    Returns:
        The candidates of all processes, their ids, and `positive` counted in them.
    """
    if not is_distributed():
        return candidates, candidate_ids, positive
    sizes = gather_sizes(len(candidate_ids), candidate_ids.device)
    # One collective for the vectors and one for all integers: the cost of a small collective is its latency.
    vectors = gather_with_grad(torch.cat([candidates.text, candidates.image], dim=1), sizes)
    facts = torch.stack([candidate_ids, candidates.has_text.long(), candidates.has_image.long()], dim=1)
    ids, has_text, has_image = gather_with_grad(facts, sizes).unbind(dim=1)
    text, image = vectors.chunk(2, dim=1)
    gathered = ViewVectors(text, image, has_text.bool(), has_image.bool())
    return gathered, ids, positive + sum(sizes[: dist.get_rank()])


def distinct_candidates(
    candidates: ViewVectors, candidate_ids: Tensor, positive: Tensor
) -> tuple[ViewVectors, Tensor, Tensor]:
    """Keep each item once, so that two processes that share a target have the candidates of one process.

    Args:
        candidates: `C` candidates, as from `gather_candidates`.
        candidate_ids: `(C,)` long, item ids; repeated ones have equal vectors.
        positive: `(B,)` long, columns of the targets.

    Returns:
        The first candidate of each item, ascending by id; their ids; and `positive` counted among them.
    """
    ordered, order = candidate_ids.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[new]
    return (
        candidates.take(first),
        candidate_ids[first],
        torch.searchsorted(candidate_ids[first], candidate_ids[positive]),
    )


def gather_pairs(
    vectors: Sequence[Tensor], ids: Tensor, history_ids: Tensor | None = None
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Gather matched rows of all processes, so that each computes the loss of the whole batch.

    Args:
        vectors: `(n, d)` each, row `i` of all of them belongs to one example.
        ids: `(n,)` long, item id of each example's target.
        history_ids: `(n, H)` long, padded with -1; `H` may differ between processes.

    Returns:
        The same of all processes in rank order.
    """
    if not is_distributed():
        return list(vectors), ids, history_ids
    sizes = gather_sizes(len(ids), ids.device)
    widths = [part.shape[1] for part in vectors]
    gathered = gather_with_grad(torch.cat(list(vectors), dim=1), sizes).split(widths, dim=1)
    if history_ids is None:
        return list(gathered), gather_with_grad(ids, sizes), None
    longest = torch.tensor([history_ids.shape[1]], device=ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    facts = ids.new_full((len(ids), 1 + int(longest)), -1)
    facts[:, 0], facts[:, 1 : 1 + history_ids.shape[1]] = ids, history_ids
    everywhere = gather_with_grad(facts, sizes)
    return list(gathered), everywhere[:, 0], everywhere[:, 1:]


def average_over_processes(value: Tensor) -> Tensor:
    """Mean of a scalar without gradient over all processes."""
    if not is_distributed():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def largest_of_processes(number: int, device: torch.device | str) -> int:
    """The largest of all processes' numbers.

    Args:
        number: this process's.
        device: where the collective runs.
    """
    if not is_distributed():
        return number
    largest = torch.tensor([number], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward sums the gradients of all processes and hands each its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _gather_rows(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        # Summed in float32: half precision would round once per process.
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).contiguous()
        total = total.clone() if total is gradient else total
        dist.all_reduce(total)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total[start : start + ctx.sizes[dist.get_rank()]].to(gradient.dtype), None


def _gather_rows(tensor: Tensor, sizes: list[int]) -> Tensor:
    """All-gather of unequal numbers of rows: pad to the longest, gather, cut."""
    longest = max(sizes)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
