"""The loss's view of what the embedder returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..losses.similarity import ViewVectors
from ..modeling.modeling_vlm2rec import VLM2RecOutput


def views_of(output: VLM2RecOutput) -> ViewVectors:
    """Both views; internal fusion's single vector stands in the place of the text."""
    if output.text_embeddings is None:
        whole: Any = output.embeddings
        present = torch.ones(len(whole), dtype=torch.bool, device=whole.device)
        return ViewVectors(whole, torch.zeros_like(whole), present, ~present)
    parts: Any = (output.text_embeddings, output.image_embeddings, output.has_text, output.has_image)
    return ViewVectors(*parts)


def rows_of(views: ViewVectors, rows: Tensor | slice) -> ViewVectors:
    """Some of the users or items."""
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
