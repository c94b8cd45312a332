"""The loss's view of what the embedder returns, and what one step keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..losses.similarity import ViewVectors
from ..modeling.modeling_vlm2rec import VLM2RecOutput
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


def views_of(output: VLM2RecOutput) -> ViewVectors:
    """Both views; internal fusion's single vector stands in the place of the text."""
    if output.text_embeddings is None:
        whole: Any = output.embeddings
        present = torch.ones(len(whole), dtype=torch.bool, device=whole.device)
        return ViewVectors(whole, torch.zeros_like(whole), present, ~present)
    parts: Any = (output.text_embeddings, output.image_embeddings, output.has_text, output.has_image)
    return ViewVectors(*parts)


def select_views(views: ViewVectors, rows: Tensor | slice) -> ViewVectors:
    """Both views of some of the users or items."""
    return ViewVectors(views.text[rows], views.image[rows], views.has_text[rows], views.has_image[rows])


def watch_gradients(*views: ViewVectors) -> dict[str, Tensor]:
    """Sums of squares of d L / d z_text and d L / d z_image, filled during the backward pass."""
    squares: dict[str, Tensor] = {}
    for name in ("text", "image"):
        watched = [vector for vector in (getattr(part, name) for part in views) if vector.requires_grad]
        if watched:
            squares[name] = torch.zeros((), device=watched[0].device)
        for vector in watched:
            vector.register_hook(lambda grad, total=squares[name]: _add_square(total, grad))
    return squares


def _add_square(total: Tensor, grad: Tensor) -> None:
    total += grad.detach().float().pow(2).sum()
