"""Losses of sequential heads: score the next item against the whole catalogue, or against drawn negatives.

All take flat positions: row `i` of `hidden` is the state of the head before the item `targets[i]`. Padding never comes
in. Scores are in float32 (float64 stays), also under autocast. Gradients reach `hidden` and `items`, so `items` may be
an embedding matrix or projected content vectors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .similarity import at_least_float32, products

LOSSES = ("cross_entropy", "sampled_softmax", "gbce", "bce")
NEGATIVES_FROM = ("uniform", "popularity")

WHOLE_ROWS = 2**14
"""Up to this many items a block holds whole rows of scores; beyond, rows are cut into tiles and scored twice."""

LOSS_BLOCK_SCORES = 2**20
"""Scores held at once: 4 MiB of float32, which stays in a processor's cache."""

TILE_ROWS = 1024


def next_item_cross_entropy(
    hidden: Tensor, items: Tensor, targets: Tensor, *, block_scores: int = LOSS_BLOCK_SCORES
) -> Tensor:
    r"""Mean softmax cross-entropy over the full catalogue, in bounded memory.

    Computes `-mean_i log softmax(hidden_i @ items.T)[targets_i]`. The gradient is computed block by block together
    with the value, so that the `(n, m)` scores never stand in memory as a whole (our choice; the numbers are those of
    `torch.nn.functional.cross_entropy` up to rounding). Second derivatives are not available.

    Args:
        hidden: `(n, d)` states, `n >= 1`.
        items: `(m, d)` vectors of the catalogue.
        targets: `(n,)` int64 catalogue indices.
        block_scores: scores held at once, beside two matrices as large as `hidden` and `items` for their gradients.
            On an accelerator a larger block keeps it busier.

    Returns:
        Scalar float32 (float64 for float64 input).

    Raises:
        ValueError: no position at all, shapes that do not fit, or a block below one score.
    """
    _check(hidden, items, targets)
    if block_scores < 1:
        raise ValueError(f"`block_scores` must be at least 1, got {block_scores}; leave it at its default.")
    return _FullCrossEntropy.apply(hidden, items, targets, int(block_scores))  # type: ignore[no-untyped-call,no-any-return]


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, targets: Tensor, block_scores: int) -> Tensor:
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        need_hidden, need_items = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty(hidden.shape, dtype=kind, device=hidden.device) if need_hidden else None
        grad_items = torch.zeros(items.shape, dtype=kind, device=items.device) if need_items else None
        h, w = hidden.detach().to(kind), items.detach().to(kind)
        if len(w) <= WHOLE_ROWS:
            total = _whole_rows(h, w, targets, grad_hidden, grad_items, block_scores)
        else:
            total = _tiles(h, w, targets, grad_hidden, grad_items, block_scores)
        scale = 1.0 / len(h)
        if grad_hidden is not None:
            grad_hidden.sub_(w[targets]).mul_(scale)
        if grad_items is not None:
            grad_items.index_add_(0, targets, h, alpha=-1.0).mul_(scale)
        # Kept as computed: rounded to float16 before the loss scale comes in, much of them would be gone.
        ctx.save_for_backward(grad_hidden, grad_items)
        ctx.dtypes = hidden.dtype, items.dtype
        return total * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        hidden, items = (None if part is None else (part * grad.to(part.dtype)).to(kind) for part, kind in kept)
        return hidden, items, None, None


def _whole_rows(
    h: Tensor, w: Tensor, targets: Tensor, grad_h: Tensor | None, grad_w: Tensor | None, block_scores: int
) -> Tensor:
    """Sum of the losses; adds the softmax part of both gradients. Every block holds whole rows of scores."""
    rows = min(max(1, block_scores // len(w)), len(h))
    buffer = h.new_empty((rows, len(w)))
    turned = w.T.contiguous()
    total = h.new_zeros(())
    for start in range(0, len(h), rows):
        part = h[start : start + rows]
        scores = torch.mm(part, turned, out=buffer[: len(part)])
        own = scores.gather(1, targets[start : start + rows, None])
        highest = scores.amax(dim=1, keepdim=True)
        scores.sub_(highest).exp_()
        mass = scores.sum(dim=1, keepdim=True)
        total += (mass.log() + highest - own).sum()
        if grad_h is not None:
            torch.mm(scores, w, out=grad_h[start : start + rows]).div_(mass)
        if grad_w is not None:
            grad_w.addmm_(scores.T, part / mass)
    return total


def _tiles(
    h: Tensor, w: Tensor, targets: Tensor, grad_h: Tensor | None, grad_w: Tensor | None, block_scores: int
) -> Tensor:
    """As `_whole_rows`, for many items: first each row's log-sum-exp over tiles, then the gradients tile by tile."""
    rows = min(TILE_ROWS, len(h), block_scores)
    width = min(max(1, block_scores // rows), len(w))
    buffer = h.new_empty(rows * width)
    total = h.new_zeros(())
    for start in range(0, len(h), rows):
        part = h[start : start + rows]
        highest = h.new_full((len(part), 1), -torch.inf)
        mass = h.new_zeros((len(part), 1))
        for first in range(0, len(w), width):
            scores = _product(part, w[first : first + width], buffer)
            before = highest
            highest = torch.maximum(before, scores.amax(dim=1, keepdim=True))
            mass = mass * (before - highest).exp() + scores.sub_(highest).exp_().sum(dim=1, keepdim=True)
        log_mass = highest + mass.log()
        own = (part * w[targets[start : start + rows]]).sum(dim=1, keepdim=True)
        total += (log_mass - own).sum()
        if grad_h is None and grad_w is None:
            continue
        if grad_h is not None:
            grad_h[start : start + rows] = 0.0
        for first in range(0, len(w), width):
            tile = w[first : first + width]
            share = _product(part, tile, buffer).sub_(log_mass).exp_()
            if grad_h is not None:
                grad_h[start : start + rows].addmm_(share, tile)
            if grad_w is not None:
                grad_w[first : first + width].addmm_(share.T, part)
    return total


def _product(rows: Tensor, columns: Tensor, buffer: Tensor) -> Tensor:
    return torch.mm(rows, columns.T, out=buffer[: len(rows) * len(columns)].view(len(rows), len(columns)))


def sampled_softmax(
    hidden: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor | None = None
) -> Tensor:
    r"""Mean softmax cross-entropy over the target and shared negatives, with the logQ correction.

    An item drawn with probability `q_j` among `k` draws gets the score `s_j - log(k q_j)`, which makes the sum of the
    exponentials an unbiased estimate of the full one (Bengio and Senecal 2008). The target is always there, not
    drawn, so its score is left as it is, and a negative equal to it is left out (our choice; correcting the target
    too, as Yi et al. 2019 do for in-batch negatives, biases the gradient).

    Args:
        hidden: `(n, d)` states.
        items: `(m, d)` vectors of the catalogue; only the rows in use are read.
        targets: `(n,)` catalogue indices.
        negatives: `(k,)` catalogue indices, shared by all positions.
        log_q: `(m,)` log-probability of drawing each item; None for uniform draws.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit, or no negatives.
    """
    _check(hidden, items, targets)
    if negatives.ndim != 1 or len(negatives) == 0:
        raise ValueError(f"`negatives` must be (k,) with k >= 1, got shape {tuple(negatives.shape)}.")
    own = (at_least_float32(hidden) * items[targets]).sum(dim=1)
    others = products(hidden, items[negatives])
    chance = -math.log(len(items)) if log_q is None else log_q[negatives]
    others = others - chance - math.log(len(negatives))
    others = others.masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
    return (torch.cat([own[:, None], others], dim=1).logsumexp(dim=1) - own).mean()


def gbce(hidden: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, t: float = 0.75) -> Tensor:
    r"""Generalised binary cross-entropy (gSASRec, Petrov and Macdonald, RecSys 2023).

    `-(beta log sigma(s+) + sum_j log(1 - sigma(s-_j))) / (1 + k)`, mean over positions, with
    `alpha = k / (m - 1)` and `beta = alpha (t (1 - 1/alpha) + 1/alpha)`: `t = 0` is plain binary cross-entropy,
    `t = 1` calibrates fully for the sampling rate. A negative equal to the target is left out.

    Args:
        hidden: `(n, d)` states.
        items: `(m, d)` vectors of the catalogue, `m >= 2`.
        targets: `(n,)` catalogue indices.
        negatives: `(k,)` shared by all positions, or `(n, k)` for each its own.
        t: calibration in [0, 1].

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit, no negatives, fewer than two items, or `t` outside [0, 1].
    """
    _check(hidden, items, targets)
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"`t` must lie in [0, 1], got {t}; 0 is plain binary cross-entropy, 0.75 gSASRec's default.")
    if (
        negatives.ndim not in (1, 2)
        or negatives.shape[-1] == 0
        or (negatives.ndim == 2 and len(negatives) != len(hidden))
    ):
        raise ValueError(
            f"`negatives` must be (k,) or ({len(hidden)}, k) with k >= 1, got shape {tuple(negatives.shape)}."
        )
    if len(items) < 2:
        raise ValueError(f"`items` must hold at least two items to draw negatives from, got {len(items)}.")
    k = negatives.shape[-1]
    alpha = k / (len(items) - 1)
    beta = alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha)
    own = (at_least_float32(hidden) * items[targets]).sum(dim=1)
    if negatives.ndim == 1:
        others, same = products(hidden, items[negatives]), negatives[None, :] == targets[:, None]
    else:
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            others = torch.einsum("nd,nkd->nk", at_least_float32(hidden), at_least_float32(items[negatives]))
        same = negatives == targets[:, None]
    # log(1 - sigma(s)) = log sigma(-s); beta log sigma(s) is the power sigma^beta of the paper.
    against = F.logsigmoid(-others).masked_fill(same, 0.0).sum(dim=1)
    return -(beta * F.logsigmoid(own) + against).mean() / (1 + k)


class NextItemLoss:
    """One of the losses above with its switches; draws the negatives.

    Args:
        name: `"cross_entropy"` (default; the full catalogue), `"sampled_softmax"`, `"gbce"` or `"bce"`.
        n_negatives: drawn per step and shared by its positions (`sampled_softmax`), or drawn for each position
            (`gbce`, `bce`).
        negatives_from: `"uniform"`, or `"popularity"`: in proportion to `(count + 1) ** popularity_power`. Only
            `sampled_softmax` corrects for it, so `gbce` and `bce` take `"uniform"`.
        popularity_power: flattens (0) or keeps (1) popularity.
        gbce_t: `t` of `gbce`.
        counts: `(m,)` training counts, needed for `"popularity"`.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    def __init__(
        self,
        name: str = "cross_entropy",
        *,
        n_negatives: int = 256,
        negatives_from: str = "uniform",
        popularity_power: float = 1.0,
        gbce_t: float = 0.75,
        counts: Tensor | None = None,
        block_scores: int = LOSS_BLOCK_SCORES,
    ) -> None:
        if name not in LOSSES:
            raise ValueError(f"`loss` must be one of {LOSSES}, got {name!r}.")
        if n_negatives < 1:
            raise ValueError(f"`n_negatives` must be at least 1, got {n_negatives}.")
        if negatives_from not in NEGATIVES_FROM:
            raise ValueError(f"`negatives_from` must be one of {NEGATIVES_FROM}, got {negatives_from!r}.")
        if negatives_from == "popularity" and name != "sampled_softmax":
            raise ValueError(
                f"`negatives_from` 'popularity' goes with loss 'sampled_softmax', which corrects for it; got {name!r}."
            )
        if negatives_from == "popularity" and counts is None:
            raise ValueError("`counts` is None, but popularity draws need the training counts; pass them.")
        if not math.isfinite(popularity_power):
            raise ValueError(f"`popularity_power` must be a finite number, got {popularity_power}.")
        if not 0.0 <= gbce_t <= 1.0:
            raise ValueError(f"`gbce_t` must lie in [0, 1], got {gbce_t}.")
        self.name, self.n_negatives, self.gbce_t, self.block_scores = name, n_negatives, gbce_t, block_scores
        self._edges: Tensor | None = None
        self._log_q: Tensor | None = None
        if negatives_from == "popularity" and counts is not None:
            weight = (counts.double() + 1.0) ** popularity_power
            share = weight / weight.sum()
            # Drawing by bisection of the running sum takes any number of items (`multinomial` stops at 2^24).
            self._edges, self._log_q = share.cumsum(0), share.log().float()

    def draw(self, shape: tuple[int, ...], n_items: int, device: torch.device) -> Tensor:
        """Negatives of a shape, with replacement, by torch's global generator: int64."""
        if self._edges is None:
            return torch.randint(n_items, shape, device=device)
        edges = self._edges = self._edges.to(device)
        return torch.searchsorted(edges, torch.rand(shape, dtype=torch.float64, device=device)).clamp_(max=n_items - 1)

    def __call__(self, hidden: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """Scalar mean loss of `(n, d)` states before `(n,)` targets, over `(m, d)` items."""
        if self.name == "cross_entropy":
            return next_item_cross_entropy(hidden, items, targets, block_scores=self.block_scores)
        if self.name == "sampled_softmax":
            negatives = self.draw((self.n_negatives,), len(items), hidden.device)
            if self._log_q is not None:
                self._log_q = self._log_q.to(hidden.device)
            return sampled_softmax(hidden, items, targets, negatives, self._log_q)
        negatives = self.draw((len(hidden), self.n_negatives), len(items), hidden.device)
        return gbce(hidden, items, targets, negatives, t=self.gbce_t if self.name == "gbce" else 0.0)


def _check(hidden: Tensor, items: Tensor, targets: Tensor) -> None:
    if hidden.ndim != 2 or items.ndim != 2 or hidden.shape[1] != items.shape[1]:
        raise ValueError(
            f"`hidden` and `items` must be (n, d) and (m, d), got {tuple(hidden.shape)} and {tuple(items.shape)}."
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"`targets` must be ({len(hidden)},), one per row of `hidden`, got {tuple(targets.shape)}.")
    if len(hidden) == 0:
        raise ValueError("`hidden` holds no position: there is nothing to learn from this batch; leave it out.")
