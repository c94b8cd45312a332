"""From hidden states to one vector per view, and from views to one vector per item or user."""

import torch
from torch import Tensor
from torch.nn import functional as F


def last_token_pool(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """State of each row's last real token, whichever side is padded: `(rows, length, d)` -> `(rows, d)`."""
    length = attention_mask.shape[-1]
    last = (attention_mask.long() * torch.arange(1, length + 1, device=attention_mask.device)).argmax(-1)
    return hidden_states[torch.arange(len(last), device=last.device), last]


def unit(vectors: Tensor) -> Tensor:
    """L2-normalise in float32: `(rows, d)` -> `(rows, d)` float32. Zero vectors stay zero."""
    return F.normalize(vectors.float(), dim=-1)


def scatter_rows(vectors: Tensor, present: Tensor) -> Tensor:
    """Put the vectors of the present rows in place, zeros elsewhere: `(n_present, d)`, `(rows,)` -> `(rows, d)`."""
    if len(vectors) == len(present):
        return vectors
    out = vectors.new_zeros(len(present), vectors.shape[-1])
    return out.index_copy(0, present.nonzero().squeeze(-1), vectors)


def fuse(text: Tensor, image: Tensor) -> Tensor:
    """External fusion, `z = z_text + z_image` (arXiv 2603.17450 adds the two separately encoded vectors).

    Args:
        text: `(rows, d)` unit vectors, zero where the text is absent.
        image: `(rows, d)` unit vectors, zero where the picture is absent.
    """
    return text + image
