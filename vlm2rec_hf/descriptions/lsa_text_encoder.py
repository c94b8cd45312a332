"""A text encoder without any pretrained weights: latent semantic analysis of the texts at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class LSATextEncoder:
    """TF-IDF and a truncated SVD (Deerwester et al. 1990), with what of `SentenceTransformer.encode` is needed.

    For studies where no text encoder can be downloaded: it knows which words of this catalogue occur together, and no
    language. A text's vector is its TF-IDF row in the space of the leading singular vectors, at unit length; a token's
    state is its word's vector in the same space, at unit length, whatever stands around it. Words that occur in one
    text only, or in more than half of them, count for nothing.

    Args:
        texts: what to learn from: all texts to be encoded.
        dim: length of the vectors; fewer where there are fewer texts or words, the rest is zero.
        seed: of the randomised SVD.

    Raises:
        ValueError: `dim` below 2, or texts without a single usable word.
    """

    def __init__(self, texts: Sequence[str], dim: int = 128, seed: int = 0) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        if dim < 2:
            raise ValueError(f"`dim` must be at least 2, got {dim}.")
        self.dim = dim
        distinct = sorted(set(texts))
        self._weights = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5, dtype=np.float32)
        try:
            matrix = self._weights.fit_transform(distinct)
        except ValueError as error:  # no documents, or no words after pruning
            raise ValueError(f"`texts` ({len(distinct)} different ones) hold no usable words: {error}") from error
        rank = min(dim, min(matrix.shape) - 1)
        if rank < 1:
            raise ValueError(f"`texts` hold too few different texts or words for an SVD: {matrix.shape}.")
        svd = TruncatedSVD(n_components=rank, random_state=seed).fit(matrix)
        terms = np.zeros((matrix.shape[1], dim), dtype=np.float32)
        terms[:, :rank] = svd.components_.T
        self._terms = terms
        self._states = _unit(terms)
        self._split = self._weights.build_analyzer()

    @property
    def version(self) -> str:
        """`sha256:...` of words and vectors: equal where two encoders are."""
        digest = hashlib.sha256("\n".join(self._weights.get_feature_names_out()).encode())
        digest.update(np.ascontiguousarray(self._terms).tobytes())
        return f"sha256:{digest.hexdigest()}"

    def encode(
        self, inputs: Sequence[str], output_value: str | None = "sentence_embedding", **ignored: Any
    ) -> np.ndarray | list[np.ndarray]:
        """Encode texts.

        Args:
            inputs: texts.
            output_value: `"sentence_embedding"` or `"token_embeddings"`.
            ignored: what else `SentenceTransformer.encode` takes.

        Returns:
            `(n, dim)` float32 unit rows (zero for a text without known words), or per text the `(t, dim)` unit states
            of its known words, in order.

        Raises:
            ValueError: another `output_value`.
        """
        if output_value == "sentence_embedding":
            return _unit(np.asarray(self._weights.transform(list(inputs)) @ self._terms))
        if output_value == "token_embeddings":
            place = self._weights.vocabulary_
            return [self._states[[place[word] for word in self._split(text) if word in place]] for text in inputs]
        raise ValueError(
            f"`output_value` must be 'sentence_embedding' or 'token_embeddings' here, got {output_value!r}."
        )


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 1e-12, norms, 1.0)).astype(np.float32)
