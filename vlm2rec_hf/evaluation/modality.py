"""Is each modality useful? Text, image and both ranked apart, and the geometry of their vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..data.sequences import Examples
from .seen import SeenItems, resolve_targets

if TYPE_CHECKING:
    from .ranking import Ranking

DIAGNOSTICS = (
    "margin_text", "margin_image", "weak_text_share", "weak_image_share",
    "effective_rank_text", "effective_rank_image", "effective_rank_both", "modality_gap",
)  # fmt: skip
"""Names of what `evaluate_embedder` measures of both modalities."""


def _matrix(name: str, vectors: ArrayLike) -> np.ndarray:
    if hasattr(vectors, "detach"):  # a torch tensor, possibly on another device or in half precision
        vectors = vectors.detach().cpu().float().numpy()
    matrix = np.asarray(vectors)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"`{name}` must be a matrix (rows, dim) with dim >= 1, got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"`{name}` holds NaN or infinite values, first in row {row}; fix the encoder's output.")
    return matrix


def _unit_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    present = norms[:, 0] > 0
    return matrix / np.where(norms > 0, norms, 1.0), present


def effective_rank(vectors: ArrayLike, *, center: bool = False) -> float:
    """How many dimensions the vectors really use: `exp` of the entropy of the normalised singular values.

    Roy and Vetterli (2007). Between 1 (all vectors on one line) and `min(n, dim)` (equal singular values). Zero rows
    (a missing modality) change nothing.

    Args:
        vectors: `(n, dim)`.
        center: subtract the mean of the non-zero rows first, so that a shared offset does not count as a dimension.

    Returns:
        The effective rank; NaN where all vectors are zero.

    Raises:
        ValueError: not a matrix, or NaN or infinite values.
    """
    matrix = _matrix("vectors", vectors)
    matrix = matrix[np.any(matrix != 0, axis=1)].astype(np.float64)
    if not len(matrix):
        return float("nan")
    if center:
        matrix = matrix - matrix.mean(axis=0)
    scale = np.abs(matrix).max()
    if scale == 0:
        return float("nan")
    matrix = matrix / scale
    # Singular values from the smaller Gram matrix: a million vectors cost one product, not a full decomposition.
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    eigenvalues = np.linalg.eigvalsh(gram)
    eigenvalues = eigenvalues[eigenvalues > eigenvalues.max() * len(gram) * np.finfo(np.float64).eps]
    share = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def modality_gap(text: ArrayLike, image: ArrayLike) -> float:
    """Distance between the centroids of the unit text vectors and the unit image vectors (Liang et al., 2022).

    Args:
        text: `(n, dim)`.
        image: `(n, dim)`, row by row of the same items (or users).

    Returns:
        A number in [0, 2], over the rows that have both; NaN where no row has both.

    Raises:
        ValueError: shapes that differ, or NaN or infinite values.
    """
    first, second = _matrix("text", text), _matrix("image", image)
    if first.shape != second.shape:
        raise ValueError(f"`text` and `image` must have one shape, got {first.shape} and {second.shape}.")
    (first, has_first), (second, has_second) = _unit_rows(first), _unit_rows(second)
    both = has_first & has_second
    if not both.any():
        return float("nan")
    return float(np.linalg.norm(first[both].mean(axis=0) - second[both].mean(axis=0)))


def margins(
    user_vectors: ArrayLike,
    item_vectors: ArrayLike,
    examples: Examples | ArrayLike,
    *,
    seen: SeenItems | None = None,
    exclude_seen: bool = True,
) -> np.ndarray:
    """Cosine of user and target minus the mean cosine of user and all other candidates, in one modality.

    The margin that WPCL balances (D_u^m there), with the whole catalogue as negatives instead of the batch. A mean
    margin can rise while ranking stays at chance, so read it together with the view's Hit@10.

    Args:
        user_vectors: `(n, dim)`, one row per example.
        item_vectors: `(n_items, dim)`; a zero row is an item without this modality, no candidate here.
        examples: `Examples`, or `(n,)` integer targets.
        seen: items to leave out; default from `Examples`.
        exclude_seen: leave seen items other than the target out of the mean.

    Returns:
        `(n,)` float64; NaN where the user or the target lacks the modality or no other candidate has it.

    Raises:
        ValueError: shapes that do not fit, or NaN or infinite values.
    """
    import scipy.sparse

    users, has_user = _unit_rows(_matrix("user_vectors", user_vectors))
    items, has_item = _unit_rows(_matrix("item_vectors", item_vectors))
    targets, seen_items = resolve_targets(examples, seen, exclude_seen, len(items))
    if users.shape != (len(targets), items.shape[1]):
        raise ValueError(f"`user_vectors` must have shape {(len(targets), items.shape[1])}, got {users.shape}.")
    # Every candidate's mean cosine is the cosine with the mean: sums of item vectors replace the score matrix.
    left_out = targets[:, None]
    position = np.arange(len(targets))
    item = left_out[:, 0]
    if seen_items is not None:
        at, what = seen_items.pairs(position)
        pairs = np.unique(np.stack([np.append(position, at), np.append(item, what)]), axis=1)
        position, item = pairs
    excluded = scipy.sparse.csr_array((np.ones(len(item)), (position, item)), shape=(len(targets), len(items)))
    number = has_item.sum() - excluded @ has_item.astype(np.float64)
    total = items.sum(axis=0) - excluded @ items
    mean = np.einsum("nd,nd->n", users, total) / np.where(number > 0, number, np.nan)
    positive = np.einsum("nd,nd->n", users, items[targets])
    return np.where(has_user & has_item[targets], positive - mean, np.nan)


def weak_modality_share(margin_text: ArrayLike, margin_image: ArrayLike) -> dict[str, float]:
    """Which modality is the weaker one, as shares of the users that have both margins.

    Args:
        margin_text: `(n,)` from `margins`, NaN where absent.
        margin_image: `(n,)` likewise.

    Returns:
        `{"text": share, "image": share, "n": users with both}`; ties count for neither; NaN shares where `n` is 0.

    Raises:
        ValueError: shapes that differ.
    """
    text, image = np.asarray(margin_text, dtype=np.float64), np.asarray(margin_image, dtype=np.float64)
    if text.shape != image.shape:
        raise ValueError(f"`margin_text` and `margin_image` must match, got {text.shape} and {image.shape}.")
    both = np.isfinite(text) & np.isfinite(image)
    n = int(both.sum())
    if n == 0:
        return {"text": float("nan"), "image": float("nan"), "n": 0}
    return {"text": float((text < image)[both].mean()), "image": float((image < text)[both].mean()), "n": n}


def evaluate_views(
    user_views: Mapping[str, ArrayLike],
    item_views: Mapping[str, ArrayLike],
    examples: Examples | ArrayLike,
    *,
    seen: SeenItems | None = None,
    k: int = 20,
    exclude_seen: bool = True,
    normalize: bool = True,
) -> dict[str, Ranking]:
    """Rank each view (text, image, both) on its own, over the same candidates.

    What a view lacks is a zero vector. An item without it scores 0 for everybody: it stays a candidate, below items
    that resemble the user and above those that oppose it. A user without it scores all items 0: every candidate ties
    with the target, which therefore ranks last (`n_candidates`). So what a view cannot see lowers its metrics.

    Args:
        user_views: view -> `(n, dim)`, one row per example.
        item_views: view -> `(n_items, dim)`; the same views.
        examples: `Examples`, or `(n,)` integer targets.
        seen: items to leave out; default from `Examples`.
        k: length of the top lists.
        exclude_seen: leave seen items out of the candidates.
        normalize: score by cosine; the sums are normalised after adding, as the embedder is trained.

    Returns:
        View -> `Ranking`, in the order of `user_views`.

    Raises:
        ValueError: views that differ between users and items, or anything `rank_targets` refuses.
    """
    from .ranking import rank_targets
    from .scorers import VectorScorer

    if not user_views or set(user_views) != set(item_views):
        raise ValueError(
            f"`user_views` and `item_views` must hold the same views, "
            f"got {sorted(user_views)} and {sorted(item_views)}."
        )
    rankings = {}
    for view, users in user_views.items():
        scorer = VectorScorer(_matrix(view, users), _matrix(view, item_views[view]), normalize=normalize)
        rankings[view] = rank_targets(scorer, examples, seen=seen, k=k, exclude_seen=exclude_seen)
    return rankings
