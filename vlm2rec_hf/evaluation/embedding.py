"""`embed`: the vectors of a dataset's items by any model, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..catalogues.item_vectors import ItemVectors
from ..loading import ENCODING_METHODS, LoadedModel, load_with_processor, refuse_options
from .embedder import encode_catalogue
from .evaluating import encodable_items, head_items
from .heads import check_same_items
from .pixrec import encode_pixrec_catalogue

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset


def embed(
    model: Any,
    dataset: RecDataset | None = None,
    *,
    revision: str | None = None,
    processor: Any = None,
    item_columns: Sequence[str] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> ItemVectors:
    """Vectors of a dataset's items, with their ids and the model's version.

    For catalogues that do not fit into memory `vlm2rec embed` works in shards.

    Args:
        model: folder or Hub id, or a model.
        dataset: whose items; heads know their own and need none.
        revision: tag, branch or commit of a Hub id.
        processor: of a model made in this process; by default the one saved beside the model.
        item_columns: of PixRec: item columns that make an item's text; by default as in training.
        batch_size: items per forward pass.
        show_progress: draw a progress bar.

    Returns:
        An embedder's three views, not normalised (scores are cosine similarities); of other models `both` alone.

    Raises:
        ValueError: nothing loadable, no dataset for an encoder, a head of other items, or an option that this kind
            of model does not have.
    """
    loaded = load_with_processor(model, revision=revision, processor=processor)
    refuse_options(loaded.model_type, ("pixrec",), "PixRec models", item_columns=item_columns)
    if loaded.model_type not in ENCODING_METHODS:
        ids = head_items(loaded.model)
        if dataset is not None:
            check_same_items("dataset", [str(item) for item in dataset.item_ids], ids)
        vectors = loaded.model.item_vectors().detach().float().cpu()
        return ItemVectors(list(ids), {"both": vectors}, loaded.where, loaded.version)
    if dataset is None:
        raise ValueError(f"`dataset` is required: a {loaded.model_type} model knows no items of its own.")
    catalogue = encodable_items(loaded, dataset, item_columns, cache_features=False)
    views = encoded_views(loaded, catalogue, batch_size=batch_size, show_progress=show_progress)
    return ItemVectors([str(item) for item in dataset.item_ids], views, loaded.where, loaded.version)


def encoded_views(
    loaded: LoadedModel, catalogue: PreparedCatalogue, *, batch_size: int | None, show_progress: bool
) -> dict[str, Any]:
    """View -> `(n_items, dim)` float32 on the CPU, of an embedder's or PixRec model's prepared items."""
    if loaded.model_type == "pixrec":
        at_once = batch_size or 64
        vectors = encode_pixrec_catalogue(loaded.model, catalogue, batch_size=at_once, show_progress=show_progress)
        return {"both": vectors.float().cpu()}
    encoding = encode_catalogue(loaded.model, catalogue, batch_size=batch_size, show_progress=show_progress)
    return {view: encoding.view(view).float().cpu() for view in ("both", "text", "image")}
