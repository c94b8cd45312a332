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
        embed: a chunk's vectors `(n, d)`.
        device: where `embed` runs.
    """

    def __init__(
        self, chunks: Callable[[], Iterable[Any]], embed: Callable[[Any], Tensor], device: torch.device
    ) -> None:
        self._chunks, self._embed, self._device = chunks, embed, device
        self._states: list[RandomState] = []
        self._sizes: list[int] = []
        self._leaf = torch.zeros(0)

    def first_pass(self) -> Tensor:
        """Embed all chunks without a graph.

        Returns:
            The vectors of all chunks `(n, d)`; a leaf that collects the gradients of the loss.
        """
        vectors = []
        with torch.no_grad():
            for chunk in self._chunks():
                self._states.append(RandomState(self._device))
                vectors.append(self._embed(chunk))
        self._sizes = [len(part) for part in vectors]
        self._leaf = torch.cat(vectors).requires_grad_()
        return self._leaf

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
        gradients = [None] * len(self._sizes) if self._leaf.grad is None else self._leaf.grad.split(self._sizes)
        reached = False
        for number, (chunk, state, gradient) in enumerate(zip(self._chunks(), self._states, gradients, strict=True)):
            last = number == len(self._states) - 1
            with nullcontext() if last else accumulate():
                with context(), state.replayed():
                    vectors = self._embed(chunk)
                pairs = []
                if vectors.requires_grad and gradient is not None:
                    pairs.append((vectors, gradient.to(vectors.dtype)))
                reached = reached or bool(pairs)
                end = at_the_end(reached) if last else None
                if end is not None:
                    pairs.append((end, torch.ones_like(end)))
                if pairs:
                    torch.autograd.backward([vector for vector, _ in pairs], [given for _, given in pairs])
