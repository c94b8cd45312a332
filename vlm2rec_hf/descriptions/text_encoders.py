"""Frozen text encoders: any `SentenceTransformer`, or LSA made from the texts at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.item_vectors import ItemVectors
from ..loading import model_version
from .encoding import encode_texts
from .lsa_text_encoder import LSATextEncoder

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

LSA = "lsa"


def load_text_encoder(
    name: str, texts: Sequence[str], *, revision: str | None = None, lsa_dim: int = 128
) -> tuple[Any, str]:
    """A text encoder and its version.

    Args:
        name: folder or Hub id of a `SentenceTransformer`, or `"lsa"`: made from `texts`, without a download.
        texts: what `"lsa"` is made from.
        revision: tag, branch or commit of a Hub id.
        lsa_dim: length of the vectors of `"lsa"`.

    Raises:
        ValueError: nothing loadable under that name, or a `revision` of what has none: a folder, or `"lsa"`.
    """
    if revision is not None and (name == LSA or Path(name).exists()):
        raise ValueError(f"`revision` {revision!r} goes with a Hub id, and `text_encoder` is {name!r}; leave it out.")
    if name == LSA:
        lsa = LSATextEncoder(texts, lsa_dim)
        return lsa, lsa.version
    from sentence_transformers import SentenceTransformer

    try:
        version = model_version(name, revision)
        at = None if version.startswith("sha256:") else version
        return SentenceTransformer(name, revision=at), version
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`text_encoder`: there is no folder {name!r} with a model, nor such a model on the Hub: {error}"
        ) from error


def embed_texts(
    dataset: RecDataset,
    text_encoder: str,
    *,
    revision: str | None = None,
    lsa_dim: int = 128,
    batch_size: int = 32,
    show_progress: bool = False,
) -> ItemVectors:
    """Item vectors (the view `text`) by a frozen text encoder that knows nothing of interactions.

    Args:
        dataset: whose items; an item without text has a zero vector.
        text_encoder: as `load_text_encoder` takes it.
        revision: tag, branch or commit of a Hub id.
        lsa_dim: length of the vectors of `"lsa"`.
        batch_size: texts per forward pass.
        show_progress: draw a progress bar.

    Raises:
        ValueError: nothing loadable under that name, or a dataset without texts.
    """
    import torch

    texts = dataset.item_texts()
    if not any(texts):
        raise ValueError("`text_encoder` needs texts, but the dataset's items have none.")
    known = [text for text in texts if text]
    encoder, version = load_text_encoder(text_encoder, known, revision=revision, lsa_dim=lsa_dim)
    vectors = encode_texts(texts, encoder, batch_size=batch_size, show_progress=show_progress)
    ids = [str(item) for item in dataset.item_ids]
    return ItemVectors(ids, {"text": torch.from_numpy(vectors)}, text_encoder, version)
