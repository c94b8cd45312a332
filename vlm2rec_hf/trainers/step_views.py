"""From the vectors at end tokens to the views that the loss compares, and what one step keeps of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..losses.similarity import ViewVectors
from .collator import ITEM, ROW_VIEWS, USER
from .gradient_cache import GradientCache

STEP = "step"
"""Key of a batch's `ContrastiveStep`: the library calls `compute_loss` itself, with nothing but the batch."""


@dataclass
class ContrastiveStep:
    """What the loss of a batch leaves for the end of its step.

    `VLM2RecTrainer.training_step` makes one, sends it along with the batch, and drops it when the step is done.

    Attributes:
        cache: the batch's vectors, from which gradients have to go on to the model; with gradient caching only.
        squares: by view, the sum of squares of the loss's gradient; see `watch_gradients`.
    """

    cache: GradientCache | None = None
    squares: dict[str, Tensor] = field(default_factory=dict)


def assemble(vectors: Tensor, owners: Tensor, batch: dict[str, Any]) -> tuple[ViewVectors, ViewVectors]:
    """The views of a batch's clicks and of its distinct targets.

    A click's vector in a view is that of the newest item up to it that the view's row holds; before the first one the
    view is absent.

    Args:
        vectors: `(n, d)` unit vectors at the end tokens of all rows.
        owners: `(n, 4)` as `ContrastiveCollator.lay_out` gives them.
        batch: the collator's facts.

    Returns:
        Views of the `Q` clicks and of the `C` items.
    """
    clicks, items = [], []
    for view in range(len(ROW_VIEWS)):
        places = newest(owners, view, USER, batch["window_ids"].shape)
        clicks.append(places[batch["query_row"], batch["query_click"]])
        items.append(newest(owners, view, ITEM, (len(batch["item_ids"]), 1))[:, 0])
    return _views(vectors, *clicks), _views(vectors, *items)


def newest(owners: Tensor, view: int, who: int, shape: tuple[int, ...]) -> Tensor:
    """For each example and each of its items, the newest vector of a view then: `shape` long, -1 where there is none.

    An example's vectors lie behind one another, so the newest one has the largest number.
    """
    table = owners.new_full(shape, -1)
    own = ((owners[:, 0] == view) & (owners[:, 1] == who)).nonzero()[:, 0]
    table[owners[own, 2], owners[own, 3]] = own
    return table.cummax(dim=1).values


def _views(vectors: Tensor, text: Tensor, image: Tensor) -> ViewVectors:
    return ViewVectors(vectors[text.clamp(min=0)], vectors[image.clamp(min=0)], text >= 0, image >= 0)


def watch_gradients(*views: ViewVectors) -> dict[str, Tensor]:
    """Sums of squares of d L / d z_text and d L / d z_image, filled during the backward pass."""
    squares: dict[str, Tensor] = {}
    for name in ("text", "image"):
        squares[name] = torch.zeros((), device=views[0].text.device)
        for vector in (vector for vector in (getattr(part, name) for part in views) if vector.requires_grad):
            vector.register_hook(lambda grad, total=squares[name]: _add_square(total, grad))
    return squares


def _add_square(total: Tensor, grad: Tensor) -> None:
    total += grad.detach().float().pow(2).sum()
