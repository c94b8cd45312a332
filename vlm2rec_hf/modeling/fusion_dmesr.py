"""From the frozen inputs of an item to its two fused vectors: adapters and cross-attention in both directions.

Everything between a token's frozen state and the attention's scores is linear, and so is everything between the
attention's weights and the mean over those that asked. So the projections are moved to the three descriptions,
`(W x) . y = x . (W' y)`, and the weights are averaged before they are used: the numbers are those of adapters,
multi-head attention and a masked mean in the usual order, but no token is ever multiplied by a matrix. A catalogue has
many tokens and is fused anew in every training step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_dmesr import DMESRConfig
from .inputs_dmesr import ItemInputs


class Adapter(nn.Module):
    """Two linear layers without anything between them (as the adapters of the paper's relatives)."""

    def __init__(self, size_in: int, width: int, size_out: int) -> None:
        super().__init__()
        self.down = nn.Linear(size_in, width)
        self.up = nn.Linear(width, size_out)

    def composed(self) -> tuple[Tensor, Tensor]:
        """Both layers as one: a matrix `(size_out, size_in)` and a bias `(size_out,)`."""
        return self.up.weight @ self.down.weight, self.up.weight @ self.down.bias + self.up.bias

    def forward(self, x: Tensor) -> Tensor:
        """`(..., size_in)` to `(..., size_out)`."""
        return F.linear(x, *self.composed())


class CrossAttention(nn.Module):
    """The projections of multi-head attention, as of `torch.nn.MultiheadAttention` without a bias of the keys.

    That bias adds the same to all scores of a query and cancels out in the softmax.

    Args:
        size: length of the vectors.
        heads: divides `size`.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, size // heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)

    def scores_of_queries(self, queries: Tensor) -> Tensor:
        """`(n, q, d)` to vectors `(n, heads, q, d)` whose inner products with unprojected keys are the scores."""
        return self._through(self._split(self.query(queries)), self.key.weight)

    def scores_of_keys(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, k, d)` to vectors `(n, heads, k, d)` for unprojected queries, and what is added: `(n, heads, k)`."""
        own = self._split(self.key(keys))
        added = torch.einsum("nkhe,he->nhk", own, self.query.bias.view(self.heads, -1)) / self.head_size**0.5
        return self._through(own, self.query.weight), added

    def answer(self, mixed: Tensor) -> Tensor:
        """Mixtures of unprojected values, one per head `(n, heads, d)`, to the attention's output `(n, d)`."""
        n, heads, d = mixed.shape
        values = torch.einsum("nhd,hed->nhe", mixed, self.value.weight.view(heads, self.head_size, d))
        return self.out(values.reshape(n, d) + self.value.bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.head_size)

    def _through(self, own: Tensor, weight: Tensor) -> Tensor:
        turned = weight.view(self.heads, self.head_size, -1)
        return torch.einsum("nkhe,hed->nhkd", own, turned) / self.head_size**0.5


class ItemFusion(nn.Module):
    """Fuses an item's descriptions (coarse) with the tokens of its text (fine), in both directions.

    View A: the three descriptions are the queries, the tokens keys and values. View B: the other way round. A view is
    the mean of the attention's outputs over the queries that are present; the residual adds the mean of these queries;
    then comes the normalisation. An item without queries has a zero vector in that view; without keys the residual
    alone is left.
    """

    def __init__(self, config: DMESRConfig) -> None:
        super().__init__()
        size, dims = config.hidden_size, dict(config.content_dims or {})
        self.residual = config.fusion_residual
        self.coarse = Adapter(dims["coarse"], config.adapter_width("coarse"), size)
        self.fine = Adapter(dims["fine"], config.adapter_width("fine"), size)
        self.coarse_to_fine = CrossAttention(size, config.fusion_heads)
        self.fine_to_coarse = CrossAttention(size, config.fusion_heads)
        self.coarse_norm = nn.LayerNorm(size) if config.fusion_norm else nn.Identity()
        self.fine_norm = nn.LayerNorm(size) if config.fusion_norm else nn.Identity()
        # The encoder multiplies item vectors by sqrt(d), as SASRec does; normalised ones are to come out at unit size.
        self.scale = size**-0.5 if config.fusion_norm else 1.0

    def descriptions(self, coarse: Tensor) -> Tensor:
        """Adapted vectors `(n, 3, d)` of the descriptions `(n, 3, D)`; the alignment loss compares these."""
        return self.coarse(coarse.to(self.coarse.up.weight.dtype))

    def forward(self, inputs: ItemInputs) -> Tensor:
        """Both views of each item, side by side: `(n, 2 * d)`."""
        coarse = self.descriptions(inputs.coarse)
        states = inputs.fine.to(coarse.dtype)
        matrix, bias = self.fine.composed()
        n, heads, kinds = len(coarse), self.coarse_to_fine.heads, coarse.shape[1]
        described, tokens = inputs.coarse_present, inputs.fine_present
        shares, token_shares = _shares(described, coarse.dtype), _shares(tokens, coarse.dtype)

        asking = self.coarse_to_fine.scores_of_queries(coarse)
        answering, added = self.fine_to_coarse.scores_of_keys(coarse)
        both = torch.cat([asking, answering], dim=1).reshape(n, 2 * heads * kinds, -1) @ matrix
        scores = (both @ states.transpose(1, 2)).view(n, 2, heads, kinds, -1)
        # What the adapter's bias adds is the same for all tokens, but not for all descriptions.
        added = added + answering @ bias

        to_tokens = _softmax(scores[:, 0], tokens[:, None, None, :], dim=3)  # (n, heads, 3, L)
        to_tokens = (to_tokens * shares[:, None, :, None]).sum(dim=2)
        to_descriptions = _softmax(scores[:, 1] + added[..., None], described[:, None, :, None], dim=2)
        to_descriptions = (to_descriptions * token_shares[:, None, None, :]).sum(dim=3)  # (n, heads, 3)

        weights = torch.cat([to_tokens, token_shares[:, None, :]], dim=1)
        mixed = (weights @ states) @ matrix.T + bias  # one mixture per head, and the plain mean of the tokens
        answers = (
            self.coarse_to_fine.answer(mixed[:, :heads]),
            self.fine_to_coarse.answer(to_descriptions @ coarse),
        )
        askers = ((shares[:, None, :] @ coarse)[:, 0], mixed[:, heads])
        possible = (described.any(dim=1) & tokens.any(dim=1))[:, None]
        views = []
        for answer, asker, norm, present in zip(
            answers, askers, (self.coarse_norm, self.fine_norm), (described, tokens), strict=True
        ):
            view = answer * possible
            view = norm(view + asker if self.residual else view)
            views.append(view * present.any(dim=1)[:, None])
        return torch.cat(views, dim=1) * self.scale


def _shares(present: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights of a mean over those that are there; zeros where none is: `(n, t)`."""
    return present.to(dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)


def _softmax(scores: Tensor, visible: Tensor, dim: int) -> Tensor:
    """Softmax over what is visible. Where nothing is, everything is: a finite number that the caller discards."""
    visible = visible | ~visible.any(dim=dim, keepdim=True)
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=dim)
