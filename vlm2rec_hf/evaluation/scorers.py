"""What can be ranked: anything that scores the whole catalogue for a few rows at a time."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch


@runtime_checkable
class BlockScorer(Protocol):
    """Scores every item for a block of examples; used by floors, heads and anything without user vectors."""

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        ...

    def __len__(self) -> int:
        """Number of examples that can be scored."""
        ...

    def scores(self, rows: slice) -> np.ndarray | torch.Tensor:
        """Scores of the examples in `rows` (start and stop given): `(b, n_items)`, floating, finite."""
        ...


def as_matrix(name: str, vectors: np.ndarray | torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """A finite 2-D float32 tensor on `device`.

    Raises:
        ValueError: another number of dimensions, or NaN or infinite values; it names the first bad row.
    """
    tensor = torch.as_tensor(vectors).detach()
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"`{name}` must be a matrix (rows, dim) with dim >= 1, got shape {tuple(tensor.shape)}.")
    tensor = tensor.to(device=device, dtype=torch.float32).contiguous()
    # A sum is non-finite whenever an element is: one pass without a second matrix. Finite rows may still overflow.
    suspect = (~torch.isfinite(tensor.sum(dim=1))).nonzero()[:, 0]
    for row in suspect.tolist():
        if not bool(torch.isfinite(tensor[row]).all()):
            raise ValueError(f"`{name}` holds NaN or infinite values, first in row {row}; fix the encoder's output.")
    return tensor


def normalize_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length 1; a zero row (nothing to encode) stays zero. `(n, dim)` -> `(n, dim)`."""
    norms = matrix.norm(dim=1, keepdim=True)
    return matrix / torch.where(norms > 0, norms, torch.ones_like(norms))


def longest_row(matrix: torch.Tensor) -> float:
    """The largest Euclidean length of a row, a slice at a time; in double precision where float32 may not hold it."""

    def longest(part: torch.Tensor) -> float:
        fast = float(part.norm(dim=1).max())
        return fast if 1e-15 < fast < 1e15 else float(part.double().norm(dim=1).max())

    return max(map(longest, matrix.split(2**16)), default=0.0)


class VectorScorer:
    """Scores as inner products of user and item vectors, in float32.

    Args:
        user_vectors: `(n, dim)`, one row per *example* (repeat a user's vector if a user has several targets).
        item_vectors: `(n_items, dim)`, in catalogue order.
        normalize: scale rows to length 1 first, so that scores are cosine similarities. The vectors are used as given
            otherwise. For an embedder whose vector is a sum over modalities, normalise the *sum*: pass it here.
        device: where to multiply, e.g. `"cuda"`.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite values, or lengths whose product overflows float32.
    """

    def __init__(
        self,
        user_vectors: np.ndarray | torch.Tensor,
        item_vectors: np.ndarray | torch.Tensor,
        *,
        normalize: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        users = as_matrix("user_vectors", user_vectors, device)
        items = as_matrix("item_vectors", item_vectors, device)
        if users.shape[1] != items.shape[1]:
            raise ValueError(
                f"`user_vectors` and `item_vectors` must agree in dim, got {users.shape[1]} and {items.shape[1]}."
            )
        if normalize:
            users, items = normalize_rows(users), normalize_rows(items)
        if len(users) and len(items):
            # Cauchy-Schwarz: with this bound every inner product is finite, so blocks need no check of their own.
            bound = longest_row(users) * longest_row(items)
            if not bound < 1e38:
                raise ValueError(
                    f"`user_vectors` and `item_vectors` are so long that scores overflow float32 (bound {bound:.1e}); "
                    "pass `normalize=True` or rescale them."
                )
        self.user_vectors = users
        self.item_vectors = items

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self.item_vectors)

    def __len__(self) -> int:
        return len(self.user_vectors)

    def scores(self, rows: slice) -> torch.Tensor:
        """Scores of all items for the examples in `rows`: `(b, n_items)` float32."""
        return self.user_vectors[rows] @ self.item_vectors.T

    def pair_scores(self, rows: slice, items: np.ndarray) -> torch.Tensor:
        """Scores of chosen items: `items` is `(b, m)` catalogue indices, the result `(b, m)` float32.

        Every pair is reduced the same way, so equal vectors get equal scores.
        """
        chosen = self.item_vectors[torch.as_tensor(items, dtype=torch.int64, device=self.item_vectors.device)]
        return (self.user_vectors[rows, None, :] * chosen).sum(dim=2)
