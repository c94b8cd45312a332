"""The three views of users and items, and the cosine similarities between them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..columns import VIEWS

_SMALLEST_SQUARED_NORM = 1e-12


@dataclass(frozen=True)
class ViewVectors:
    """Text and image vectors of `n` users or items, before they are added.

    Attributes:
        text: `(n, d)` L2-normalised text vectors.
        image: `(n, d)` L2-normalised image vectors.
        has_text: `(n,)` bool; where False the text vector is ignored and receives no gradient.
        has_image: `(n,)` bool; where False the image vector is ignored and receives no gradient.
    """

    text: Tensor
    image: Tensor
    has_text: Tensor
    has_image: Tensor

    def __post_init__(self) -> None:
        if self.text.dim() != 2 or self.text.shape != self.image.shape:
            raise ValueError(
                "`text` and `image` must be matrices of one shape (n, d), "
                f"got {tuple(self.text.shape)} and {tuple(self.image.shape)}."
            )
        for name, present in (("has_text", self.has_text), ("has_image", self.has_image)):
            if present.shape != self.text.shape[:1] or present.dtype != torch.bool:
                raise ValueError(
                    f"`{name}` must be a bool tensor of shape ({len(self.text)},), "
                    f"got {present.dtype} of shape {tuple(present.shape)}."
                )

    @classmethod
    def from_raw(
        cls, text: Tensor, image: Tensor, has_text: Tensor | None = None, has_image: Tensor | None = None
    ) -> ViewVectors:
        """Normalise raw `(n, d)` vectors; without a mask every row is present.

        Raises:
            ValueError: shapes that do not fit together.
        """
        everywhere = torch.ones(len(text), dtype=torch.bool, device=text.device)
        return cls(
            unit_rows(text),
            unit_rows(image),
            everywhere if has_text is None else has_text,
            everywhere if has_image is None else has_image,
        )

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: Tensor | slice) -> ViewVectors:
        """Some of the users or items, in the order of `rows`."""
        return ViewVectors(self.text[rows], self.image[rows], self.has_text[rows], self.has_image[rows])

    @property
    def present_text(self) -> Tensor:
        """`(n, d)` text vectors in float32 (float64 stays), zero where absent."""
        return torch.where(self.has_text[:, None], at_least_float32(self.text), 0.0)

    @property
    def present_image(self) -> Tensor:
        """`(n, d)` image vectors in float32 (float64 stays), zero where absent."""
        return torch.where(self.has_image[:, None], at_least_float32(self.image), 0.0)

    @property
    def fused(self) -> Tensor:
        """`(n, d)` external fusion, `z = z_text + z_image` (not normalised), in float32 (float64 stays)."""
        return self.present_text + self.present_image

    @property
    def side_by_side(self) -> Tensor:
        """`(n, 2 d)` text and image vector beside each other (not normalised), in float32 (float64 stays)."""
        return torch.cat([self.present_text, self.present_image], dim=1)


@dataclass(frozen=True)
class ViewSimilarities:
    """Cosine similarities of `B` users to `C` candidates in each view.

    Attributes:
        both: `(B, C)` cosine of the sums `z_text + z_image`, or, without cross terms, of the vectors side by side.
        text: `(B, C)` cosine of the text vectors, 0 where either side has no text.
        image: `(B, C)` cosine of the image vectors, 0 where either side has no image.
        user_has_text: `(B,)` bool.
        user_has_image: `(B,)` bool.
        candidate_has_text: `(C,)` bool.
        candidate_has_image: `(C,)` bool.
    """

    both: Tensor
    text: Tensor
    image: Tensor
    user_has_text: Tensor
    user_has_image: Tensor
    candidate_has_text: Tensor
    candidate_has_image: Tensor


def view_similarities(
    users: ViewVectors,
    candidates: ViewVectors,
    with_gradient: Collection[str] = VIEWS,
    cross_terms: bool = True,
) -> ViewSimilarities:
    """Compare users and candidates in all three views: three `(B, d) x (d, C)` products.

    Everything is computed in float32 (float64 inputs in float64), also under autocast, because at a temperature of
    0.01 the rounding of bfloat16 similarities would move the logits by up to 0.2. Zero rows give similarity 0 and
    gradient 0.

    Args:
        users: `B` users.
        candidates: `C` candidate items.
        with_gradient: the views whose similarities need a gradient, out of `"both"`, `"text"`, `"image"`; the others
            only feed diagnostics and keep no graph.
        cross_terms: `both` compares sums, `z_text + z_image` (the paper's external fusion). False: text with text and
            image with image alone, as the cosine of `[z_text, z_image]` side by side (our choice).

    Raises:
        ValueError: an unknown view, or users and candidates of different width.
    """
    unknown = set(with_gradient) - set(VIEWS)
    if unknown:
        raise ValueError(f"`with_gradient` must be chosen from {VIEWS}, got {sorted(unknown)}.")
    if users.text.shape[1] != candidates.text.shape[1]:
        raise ValueError(
            f"`users` and `candidates` must have vectors of one width, "
            f"got {users.text.shape[1]} and {candidates.text.shape[1]}."
        )

    def gradient(view: str) -> AbstractContextManager[object]:
        return nullcontext() if view in with_gradient else torch.no_grad()

    with gradient("both"):
        fused = (side.fused if cross_terms else side.side_by_side for side in (users, candidates))
        both = products(*(unit_rows(vectors) for vectors in fused))
    with gradient("text"):
        text = products(users.present_text, candidates.present_text)
    with gradient("image"):
        image = products(users.present_image, candidates.present_image)
    return ViewSimilarities(
        both, text, image, users.has_text, users.has_image, candidates.has_text, candidates.has_image
    )


def unit_rows(vectors: Tensor) -> Tensor:
    """L2-normalise the rows of `(n, d)`; a (numerically) zero row stays zero and receives a zero gradient.

    Dividing by `max(norm, eps)` instead would send a gradient of size `1 / eps` into such a row.
    """
    vectors = at_least_float32(vectors)
    squared = vectors.square().sum(dim=-1, keepdim=True)
    nonzero = squared > _SMALLEST_SQUARED_NORM
    return vectors * torch.where(nonzero, torch.where(nonzero, squared, 1.0).rsqrt(), 0.0)


def products(first: Tensor, second: Tensor) -> Tensor:
    """Inner products `(n, m)` of `(n, d)` and `(m, d)` rows, in float32 (float64 stays), also under autocast."""
    with torch.autocast(device_type=first.device.type, enabled=False):
        return at_least_float32(first) @ at_least_float32(second).T


def at_least_float32(vectors: Tensor) -> Tensor:
    """The vectors in float32, where they are not in float64."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()
