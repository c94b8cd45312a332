"""Fresh heads for a dataset: ids, item vectors or both under a sequence encoder, and DMESR over encoded texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import set_seed

from ..modeling.configuration_dmesr import DMESRConfig
from ..modeling.configuration_seqrec import SeqRecConfig
from ..modeling.modeling_dmesr import DMESRModel
from ..modeling.modeling_seqrec import SequentialRecommender

if TYPE_CHECKING:
    from ..catalogues.item_vectors import ItemVectors
    from ..data.dataset import RecDataset
    from ..descriptions.encoded_items import EncodedItems


def build_head(
    dataset: RecDataset,
    vectors: ItemVectors | None = None,
    *,
    item_representation: str | None = None,
    init_ids: bool = False,
    seed: int = 0,
    **options: Any,
) -> SequentialRecommender:
    """A fresh head over a dataset's items.

    Args:
        dataset: whose items.
        vectors: the items' vectors; every view in them is projected.
        item_representation: `"id"`, `"content"` or `"content+id"`; by default `"id"`, or `"content+id"` where vectors
            are given.
        init_ids: start the id vectors from the vectors' principal components instead of using these as content.
        seed: of the weights.
        options: of `SeqRecConfig` (`encoder`, `hidden_size`, `num_layers`, `num_heads`, `max_length`, `dropout`).

    Raises:
        ValueError: content without vectors, vectors that nothing uses, or vectors that lack an item.
    """
    if item_representation is None:
        item_representation = "content+id" if vectors is not None and not init_ids else "id"
    if vectors is None and (item_representation != "id" or init_ids):
        wanted = "init_ids" if init_ids else f"item_representation={item_representation!r}"
        raise ValueError(f"`{wanted}` needs item vectors; pass `vectors`, such as `embed(model, dataset)`.")
    if vectors is not None and item_representation == "id" and not init_ids:
        raise ValueError("`item_representation` 'id' makes no use of `vectors`; choose 'content' or 'content+id'.")
    if vectors is not None:
        vectors = vectors.for_items([str(item) for item in dataset.item_ids])
    set_seed(seed)
    content = vectors if item_representation != "id" else None
    config = SeqRecConfig(
        n_items=dataset.n_items,
        item_representation=item_representation,
        content_dims=None if content is None else {view: m.shape[1] for view, m in content.views.items()},
        embedder=None if vectors is None else vectors.model,
        embedder_revision=None if vectors is None else vectors.revision,
        **options,
    )
    head = SequentialRecommender(config)
    if content is not None:
        head.set_content(content.views, embedder=content.model, embedder_revision=content.revision)
    if vectors is not None and init_ids:
        head.init_ids_from(torch.cat(list(vectors.views.values()), dim=1))
    return head


def build_dmesr(dataset: RecDataset, encoded: EncodedItems, *, seed: int = 0, **options: Any) -> DMESRModel:
    """A fresh DMESR model over a dataset's encoded descriptions and texts.

    Args:
        dataset: whose items.
        encoded: what `encode_descriptions` made; put in the dataset's order.
        seed: of the weights.
        options: of `DMESRConfig` (the encoder's, `item_representation`, `fusion_heads`, ...).

    Raises:
        ValueError: an item of the dataset was not encoded.
    """
    encoded = encoded.for_dataset(dataset)
    set_seed(seed)
    inputs = encoded.inputs()
    model = DMESRModel(DMESRConfig(n_items=dataset.n_items, content_dims=inputs.dims, **options))
    model.set_inputs(
        inputs,
        embedder=encoded.facts.get("model"),
        embedder_revision=encoded.facts.get("revision"),
        fingerprint=encoded.fingerprint,
    )
    return model
