"""Exact ranks over the full catalogue, block by block: memory stays bounded whatever the number of users and items.

The rank of a target is 1 + the number of *other candidates* that score at least as high. Ties therefore count against
the target (pessimistic): a model that scores everything alike ranks last, not first.

With `exclude_seen` the items a user interacted with before the target are no candidates. If the target itself was seen
before (a repeat purchase), it stays a candidate; its rank answers "where among the unseen items would it stand".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..data.sequences import Examples
from .scorers import BlockScorer, VectorScorer
from .seen import SeenItems, resolve_targets
from .top_k import GROUP, RunningTop, count_at_least_, group_maxima

BLOCK_SCORES = 2**21
"""Scores held at once by default: 8 MiB of float32, which stays within reach of a CPU's caches."""


@dataclass(frozen=True)
class Ranking:
    """Where each example's target stands in the full catalogue.

    Attributes:
        ranks: `(n,)` int64, 1 = best; ties count against the target.
        top_items: `(n, k)` int64 catalogue indices, best first, equal scores by lower index; -1 where a user has fewer
            than k candidates.
        top_scores: `(n, k)` float scores of `top_items`; -inf where those are -1.
        n_candidates: `(n,)` int64 number of items ranked, the target included; no rank exceeds it.
        exclude_seen: whether seen items were left out.
    """

    ranks: np.ndarray
    top_items: np.ndarray
    top_scores: np.ndarray
    n_candidates: np.ndarray
    exclude_seen: bool

    candidates = "full"

    def __len__(self) -> int:
        return len(self.ranks)

    def __repr__(self) -> str:
        median = f"{np.median(self.ranks):g}" if len(self) else "nan"
        return (
            f"Ranking({len(self):,} examples, median rank {median}, top {self.top_items.shape[1]}, "
            f"candidates={self.candidates!r}, exclude_seen={self.exclude_seen})"
        )


def rank_targets(
    scorer: BlockScorer,
    examples: Examples | ArrayLike,
    *,
    seen: SeenItems | Sequence[ArrayLike] | None = None,
    k: int = 20,
    exclude_seen: bool = True,
    block_users: int | None = None,
    block_items: int = 4096,
) -> Ranking:
    """Rank every example's target among all items of the catalogue.

    Block sizes change speed and memory only. (With float vectors, a matrix product of another shape may round the last
    bit differently; within one call a target and an item with the same vector always tie.)

    Args:
        scorer: a `VectorScorer` (ranked over item blocks too), or any `BlockScorer` (whole rows of `n_items` scores).
        examples: `Examples`, or `(n,)` integer targets (then pass `seen`, or `exclude_seen=False`). Row `i` of the
            scorer belongs to example `i`.
        seen: items to leave out per example; default: everything before the target in the user's sequence, not cut to
            `max_history`.
        k: length of the top lists.
        exclude_seen: leave seen items out of the candidates.
        block_users: examples scored at once; default: as many as keep a block within `BLOCK_SCORES` scores.
        block_items: items scored at once by a `VectorScorer`, rounded up to a multiple of 64.

    Returns:
        Ranks and top lists. Memory: a few blocks of `block_users x block_items` scores (`x n_items` for a
        `BlockScorer`) beside vectors and result.

    Raises:
        ValueError: lengths that do not fit, indices outside the catalogue, sizes below 1, NaN or infinite scores.
    """
    for name, value in (("k", k), ("block_items", block_items), ("block_users", block_users)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    n_items = scorer.n_items
    targets, seen_items = resolve_targets(examples, seen, exclude_seen, n_items)
    if len(scorer) != len(targets):
        raise ValueError(f"`scorer` must have one row per example ({len(targets)}), got {len(scorer)} rows.")
    width = _round_up(min(block_items, n_items) if isinstance(scorer, VectorScorer) else n_items)
    on_cpu = isinstance(scorer, VectorScorer) and scorer.item_vectors.is_cpu
    n_threads = torch.get_num_threads() if on_cpu else 1
    n_rows = block_users or _even_rows(len(targets), min(1024, max(1, BLOCK_SCORES // width)), n_threads)
    order = np.arange(len(targets))
    if n_items > width:
        # Neighbouring targets share item blocks: finding the targets' scores first then costs next to nothing.
        order = np.argsort(targets, kind="stable")

    ranks = np.empty(len(targets), dtype=np.int64)
    n_candidates = np.full(len(targets), n_items, dtype=np.int64)
    top_items = np.full((len(targets), k), -1, dtype=np.int64)
    top_scores = np.full((len(targets), k), -np.inf, dtype=np.float32)

    # With one item block, or a handful of rows, the real product costs no more than the guess.
    guessing = _Guessing(on_cpu and n_items > width and n_rows >= 32)

    def rank_block(begin: int) -> tuple[np.ndarray, np.ndarray, _Excluded, RunningTop]:
        rows = order[begin : begin + n_rows]
        if isinstance(scorer, VectorScorer):
            source: _VectorBlocks | _WholeRows = _VectorBlocks(scorer, rows, width)
        else:
            source = _WholeRows(scorer, slice(begin, begin + len(rows)), width)
        excluded = _Excluded(seen_items, rows, targets[rows], n_items)
        block_ranks, top = _rank_rows(source, targets[rows], excluded, k, guessing)
        return rows, block_ranks, excluded, top

    for rows, block_ranks, excluded, top in _in_threads(rank_block, range(0, len(targets), n_rows), n_threads):
        ranks[rows] = block_ranks
        n_candidates[rows] -= excluded.n_items_per_row
        if top.scores.dtype == torch.float64 and top_scores.dtype == np.float32:
            top_scores = top_scores.astype(np.float64)
        top_items[rows], top_scores[rows] = top.items.cpu().numpy(), top.scores.cpu().numpy()
    return Ranking(ranks, top_items, top_scores, n_candidates, exclude_seen)


def _even_rows(n: int, largest: int, n_threads: int) -> int:
    """Rows per block, at most `largest`, such that every thread gets as many blocks."""
    rounds = max(1, -(-n // (largest * n_threads)))
    return max(1, -(-n // (rounds * n_threads)))


def _in_threads(work: Callable[[int], Any], tasks: Sequence[int], n_threads: int) -> Iterator[Any]:
    """Results of the tasks in order, `n_threads` at once, each of them with a single thread of PyTorch's.

    User blocks do not depend on each other, so threads that take whole blocks never wait for one another, as those do
    that share the many short steps of one block (on a busy machine that waiting takes most of the time).
    """
    if n_threads == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, tasks)
    finally:
        torch.set_num_threads(n_threads)


def _round_up(n: int) -> int:
    return -(-max(n, 1) // GROUP) * GROUP


class _Excluded:
    """The (row, item) pairs of one user block that are no candidates, each once, in item order."""

    def __init__(self, seen: SeenItems | None, rows: np.ndarray, targets: np.ndarray, n_items: int) -> None:
        position, item = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if seen is not None:
            position, item = seen.pairs(rows)
            other = item != targets[position]
            unique = np.unique(item[other] * len(rows) + position[other])
            item, position = np.divmod(unique, len(rows))
        self.position, self.item = position, item
        self.n_items_per_row = np.bincount(position, minlength=len(rows))

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs whose item is in `[start, stop)`."""
        low, high = np.searchsorted(self.item, [start, stop])
        return self.position[low:high], self.item[low:high]


class _VectorBlocks:
    """Item blocks of equal width for some rows of a `VectorScorer`.

    All blocks have one shape (the last one reaches back over columns of the one before), so that one multiplication
    kernel produces every score and equal vectors get bitwise equal scores.
    """

    def __init__(self, scorer: VectorScorer, rows: np.ndarray, width: int) -> None:
        device = scorer.item_vectors.device
        self.users = scorer.user_vectors[torch.as_tensor(rows, device=device)]
        self.items = scorer.item_vectors
        self.n_items = scorer.n_items
        self.width = width
        if self.n_items < width:  # one block only: fill it up with zero vectors, which are masked below
            self.items = torch.nn.functional.pad(self.items, (0, 0, 0, width - self.n_items))
        self._scores = torch.empty((len(rows), width), device=device)
        self._current = -1

    def block(self, number: int) -> tuple[torch.Tensor, int]:
        """Scores `(b, width)` of block `number` and the catalogue index of column 0.

        There is one buffer: the next block overwrites it, and asking for the same block again returns it as it is,
        unless it was used up.
        """
        first = max(0, min(number * self.width, self.n_items - self.width))
        if number == self._current:
            return self._scores, first
        self._current = number
        torch.mm(self.users, self.items[first : first + self.width].T, out=self._scores)
        self._scores[:, : number * self.width - first] = -torch.inf
        self._scores[:, max(self.n_items - first, 0) :] = -torch.inf
        return self._scores, first

    def use_up(self) -> None:
        """Say that the present block's scores were overwritten."""
        self._current = -1

    def guess(self, targets: np.ndarray) -> torch.Tensor:
        """What the targets' scores probably are, `(b, 1)`, by one small product."""
        own = self.items[torch.as_tensor(targets, device=self.items.device)]
        return torch.mm(self.users, own.T).diagonal()[:, None].contiguous()


class _WholeRows:
    """A `BlockScorer`'s rows as a single, copied block (the scorer may hand out a view of its own memory)."""

    def __init__(self, scorer: BlockScorer, rows: slice, width: int) -> None:
        raw = scorer.scores(rows)
        if isinstance(raw, np.ndarray) and not raw.flags.writeable:
            raw = raw.copy()  # PyTorch has no read-only tensors and warns
        scores = torch.as_tensor(raw).detach()
        expected = (rows.stop - rows.start, scorer.n_items)
        if tuple(scores.shape) != expected:
            raise ValueError(f"`scorer.scores` must return shape {expected}, got {tuple(scores.shape)}.")
        if not scores.is_floating_point():
            raise ValueError(f"`scorer.scores` must return floating-point scores, got {scores.dtype}.")
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        bad = (~torch.isfinite(scores)).any(dim=1).nonzero()
        if len(bad):
            raise ValueError(
                f"`scorer.scores` returned NaN or infinite scores, first in example {rows.start + int(bad[0])}; "
                "scores must be finite (use a very low finite score to push an item down)."
            )
        self.n_items, self.width = scorer.n_items, width
        self._scores = torch.nn.functional.pad(scores, (0, width - scorer.n_items), value=-torch.inf)

    def block(self, number: int) -> tuple[torch.Tensor, int]:
        return self._scores, 0

    def use_up(self) -> None:
        pass  # there is no second pass over a single block


class _Guessing:
    """Whether the targets' scores may be guessed by a smaller product (shared by the user blocks of one call).

    A target's score must come from the very product that scores its rivals: a separate one may differ in the last bit,
    and then a target could lose against itself or against an item with the same vector. On CPUs a small product gives
    the same bits almost always, so it is tried, held against the real one, and given up at the first difference.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted


def _rank_rows(
    source: _VectorBlocks | _WholeRows, targets: np.ndarray, excluded: _Excluded, k: int, guessing: _Guessing
) -> tuple[np.ndarray, RunningTop]:
    """Ranks and running top-k of one user block."""
    guessed = guessing.wanted and isinstance(source, _VectorBlocks)
    threshold = source.guess(targets) if guessed else _own_scores(source, targets)  # type: ignore[union-attr]
    top = RunningTop(len(targets), k, threshold.dtype, threshold.device)
    count, own = _pass_over(source, targets, excluded, threshold, top)
    if guessed and not torch.equal(own, threshold):
        guessing.wanted = False
        count, _ = _pass_over(source, targets, excluded, own, None)
    top.finish()
    return count.cpu().numpy(), top


def _own_scores(source: _VectorBlocks | _WholeRows, targets: np.ndarray) -> torch.Tensor:
    """Every target's score `(b, 1)`, from the blocks that hold targets."""
    own = targets // source.width
    parts = []
    for number in np.unique(own).tolist():
        scores, first = source.block(number)
        rows = np.flatnonzero(own == number)
        parts.append((torch.as_tensor(rows, device=scores.device), _take(scores, rows, targets[rows] - first)))
    scores_of_targets = parts[0][1].new_empty((len(targets), 1))
    for at, values in parts:
        scores_of_targets[at, 0] = values
    return scores_of_targets


def _pass_over(
    source: _VectorBlocks | _WholeRows,
    targets: np.ndarray,
    excluded: _Excluded,
    threshold: torch.Tensor,
    top: RunningTop | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count per row the candidates with at least `threshold`; also gives the targets' scores as met on the way."""
    count = torch.zeros(len(targets), dtype=torch.int64, device=threshold.device)
    met = torch.empty_like(threshold)
    own = targets // source.width
    for number in range(-(-source.n_items // source.width)):
        scores, first = source.block(number)
        if len(here := np.flatnonzero(own == number)):
            met[torch.as_tensor(here, device=met.device), 0] = _take(scores, here, targets[here] - first)
        rows, items = excluded.between(number * source.width, (number + 1) * source.width)
        if len(rows):
            scores[
                torch.as_tensor(rows, device=scores.device), torch.as_tensor(items - first, device=scores.device)
            ] = -torch.inf
        highest = None
        if top is not None:
            highest = group_maxima(scores)
            top.update(scores, first, highest)
        count += count_at_least_(scores, threshold, highest)
        source.use_up()
    return count, met


def _take(scores: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    return scores[torch.as_tensor(rows, device=scores.device), torch.as_tensor(columns, device=scores.device)]
