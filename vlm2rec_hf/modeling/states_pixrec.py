"""From hidden states to the inputs of PixRec's loss: mean pooling, and the likelihood of the next tokens."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of positions that are not predicted, as everywhere in `transformers`."""


def mean_pool(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """Mean over marked positions: `(rows, length, d)`, `(rows, length)` -> `(rows, d)` float32; zero without any.

    States outside the mask (padding, other parts of the row) change neither the value nor receive a gradient.
    """
    weights = mask.to(torch.float32).unsqueeze(-1)
    states = torch.where(weights > 0, hidden_states.float(), 0.0)
    return states.sum(1) / weights.sum(1).clamp(min=1.0)


def token_logits(hidden_states: Tensor, weight: Tensor, softcap: float | None = None) -> Tensor:
    """Logits of the next token: `(..., d)`, `(vocabulary, d)` -> `(..., vocabulary)` float32.

    Args:
        hidden_states: final-norm states.
        weight: of the language-model head.
        softcap: bound that logits are bent under by a tanh, in backbones that have one (Gemma 2: 30).
    """
    logits = F.linear(hidden_states, weight).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def next_token_nll(
    hidden_states: Tensor, labels: Tensor, weight: Tensor, chunk_size: int = 1024, softcap: float | None = None
) -> Tensor:
    """Negative log-likelihood of labelled tokens, each predicted from the state *before* it.

    Only states in front of a label pass the head, `chunk_size` of them at a time, and the logits are computed again
    in the backward pass, so memory grows with `chunk_size * vocabulary` and not with the batch.

    Args:
        hidden_states: `(rows, length, d)` final-norm states.
        labels: `(rows, length)` token ids aligned with the input (unshifted); `IGNORED` where nothing is predicted. A
            label in the first position of a row has no state before it and is left out.
        weight: `(vocabulary, d)` of the language-model head.
        chunk_size: states per pass of the head.
        softcap: see `token_logits`.

    Returns:
        `(n,)` float32 nats, one per predicted token in row order.
    """
    wanted = labels[:, 1:]
    places = wanted != IGNORED
    states, targets = hidden_states[:, :-1][places], wanted[places]
    if not len(targets):
        return hidden_states.new_zeros(0, dtype=torch.float32)
    parts = []
    for start in range(0, len(targets), chunk_size):
        chunk: Any = (states[start : start + chunk_size], targets[start : start + chunk_size], weight, softcap)
        if torch.is_grad_enabled() and len(targets) > chunk_size:
            parts.append(checkpoint(_nll, *chunk, use_reentrant=False))
        else:
            parts.append(_nll(*chunk))
    return torch.cat(parts)


def _nll(states: Tensor, targets: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    return F.cross_entropy(token_logits(states, weight, softcap), targets, reduction="none")
