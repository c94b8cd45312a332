"""Gradient caching: the batch of a contrastive loss in the memory of a small part of it.

GradCache (Gao et al. 2021, arXiv 2101.06983) embeds the batch chunk by chunk without a graph, computes the loss on all
vectors at once, keeps its gradients at the vectors, then embeds every chunk a second time, with a graph and with the
random numbers of the first time, and propagates the kept gradients through it. The result is the gradient of the whole
batch; the price is one more forward pass. Peak memory is that of one chunk, plus the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..losses.similarity import ViewVectors

Views = tuple[ViewVectors, ...]


class RandomState:
    """The state of the random number generators of the CPU and of one device, to be replayed.

    Args:
        device: where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    def restore(self) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self._cpu)
        if self._own is not None:
            torch.get_device_module(self._device).set_rng_state(self._own, self._device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw again inside what was drawn after this state was taken; draws after it are not affected."""
        outside = RandomState(self._device)
        self.restore()
        try:
            yield
        finally:
            outside.restore()


class GradientCache:
    """The vectors of a batch, and the way back from their gradients to the model.

    Args:
        chunks: called once per pass, yields the chunks in the same order both times.
        embed: the views of a chunk, one `ViewVectors` per group of rows (users, items); every chunk has all groups.
        device: where `embed` runs.
    """

    def __init__(
        self, chunks: Callable[[], Iterable[Any]], embed: Callable[[Any], Views], device: torch.device
    ) -> None:
        self._chunks, self._embed, self._device = chunks, embed, device
        self._states: list[RandomState] = []
        self._sizes: list[list[int]] = []
        self._leaves: Views = ()

    def first_pass(self) -> Views:
        """Embed all chunks without a graph.

        Returns:
            One `ViewVectors` per group, whole; their vectors are leaves that collect the gradients of the loss.
        """
        chunk_views: list[Views] = []
        with torch.no_grad():
            for chunk in self._chunks():
                self._states.append(RandomState(self._device))
                chunk_views.append(self._embed(chunk))
        self._sizes = [[len(group) for group in views] for views in chunk_views]
        self._leaves = tuple(_joined(parts) for parts in zip(*chunk_views, strict=True))
        return self._leaves

    def second_pass(
        self,
        *,
        accumulate: Callable[[], AbstractContextManager[Any]] = nullcontext,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        at_the_end: Callable[[bool], Tensor | None] = lambda reached: None,
    ) -> None:
        """Embed every chunk again, with a graph, and hand the kept gradients on to the parameters.

        Call it once, after the loss was propagated back to the vectors of `first_pass`.

        Args:
            accumulate: entered around every chunk but the last, so that processes exchange gradients once per batch.
            context: entered around every forward pass; what the first one ran in (autocast).
            at_the_end: called after the last forward pass with whether any gradient reached the model, its result (a
                scalar) is propagated back with the last chunk.
        """
        starts = [0] * len(self._leaves)
        reached = False
        for number, (chunk, state, sizes) in enumerate(zip(self._chunks(), self._states, self._sizes, strict=True)):
            last = number == len(self._states) - 1
            with nullcontext() if last else accumulate():
                with context(), state.replayed():
                    views = self._embed(chunk)
                rows = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
                starts = [where.stop for where in rows]
                pairs = _with_gradients(views, self._leaves, rows)
                reached = reached or bool(pairs)
                end = at_the_end(reached) if last else None
                if end is not None:
                    pairs.append((end, torch.ones_like(end)))
                if pairs:
                    torch.autograd.backward([vector for vector, _ in pairs], [gradient for _, gradient in pairs])


def _joined(parts: tuple[ViewVectors, ...]) -> ViewVectors:
    """One group's views over all chunks; the vectors are leaves, where any row has the view."""
    text, image, has_text, has_image = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("text", "image", "has_text", "has_image")
    )
    return ViewVectors(
        text.detach().requires_grad_(bool(has_text.any())),
        image.detach().requires_grad_(bool(has_image.any())),
        has_text,
        has_image,
    )


def _with_gradients(views: Views, leaves: Views, rows: list[slice]) -> list[tuple[Tensor, Tensor]]:
    """Vectors of a chunk beside the gradients kept for them, where there are both a graph and a gradient."""
    return [
        (vector, leaf.grad[where].to(vector.dtype))
        for group, whole, where in zip(views, leaves, rows, strict=True)
        for vector, leaf in ((group.text, whole.text), (group.image, whole.image))
        if vector.requires_grad and leaf.grad is not None
    ]
