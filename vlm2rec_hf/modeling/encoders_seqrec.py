"""Sequence encoders behind one contract: `(vectors, present) -> states`, rows padded on the right.

`vectors` is `(b, t, d)`, `present` `(b, t)` bool (True for items, False for the padding to the right of them), the
states are `(b, t, d)`. Masks are made in `forward`; nothing is kept in buffers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_seqrec import SeqRecConfig


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward part, each normalised before and added to what came in."""

    def __init__(self, config: SeqRecConfig, causal: bool) -> None:
        super().__init__()
        size, inner = config.hidden_size, int(config.intermediate_size or config.hidden_size)
        self.causal, self.num_heads = causal, config.num_heads
        self.attention_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, inner)
        self.down = nn.Linear(inner, size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`(b, t, d)` to `(b, t, d)`; `mask` is `(b, 1, 1, t)` bool, True where a key may be looked at."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        # Dropout inside the attention would rule out the fused kernels; it is applied to what attention returns.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, d)))
        return x + self.dropout(self.down(self.dropout(F.gelu(self.up(self.feed_forward_norm(x))))))


class AttentionEncoder(nn.Module):
    """SASRec (causal) and BERT4Rec (bidirectional): positions, blocks, a last normalisation.

    Positions count from the end, so that the newest item always has the same one: row `i` of the position table
    belongs to the item with `max_length - 1 - i` items after it, as in SASRec's left-padded rows.
    """

    def __init__(self, config: SeqRecConfig) -> None:
        super().__init__()
        self.causal = config.encoder == "sasrec"
        self.max_length = config.max_length
        self.positions = nn.Embedding(config.max_length, config.hidden_size)
        self.blocks = nn.ModuleList(AttentionBlock(config, self.causal) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """See the module's contract."""
        t = vectors.shape[1]
        lengths = present.sum(dim=1, keepdim=True)
        places = (torch.arange(t, device=vectors.device) + self.max_length - lengths).clamp(0, self.max_length - 1)
        x = self.dropout(vectors + self.positions(places))
        mask = None
        if not self.causal:
            # The padding stands on the right, where a causal row never looks; here it has to be masked. The first
            # place stays visible, so that a row without any item is a number rather than NaN.
            first = torch.arange(t, device=vectors.device) == 0
            mask = (present | first)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class RecurrentEncoder(nn.Module):
    """GRU4Rec: gated recurrent layers, a projection and a last normalisation."""

    def __init__(self, config: SeqRecConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(nn.GRU(size, size, batch_first=True) for _ in range(config.num_layers))
        self.out = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """See the module's contract; the padding on the right comes after all items and cannot reach them."""
        x = self.dropout(vectors)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return self.norm(self.out(x))


def make_encoder(config: SeqRecConfig) -> nn.Module:
    """The encoder that `config.encoder` names."""
    return RecurrentEncoder(config) if config.encoder == "gru4rec" else AttentionEncoder(config)
