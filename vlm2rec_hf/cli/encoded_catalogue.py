"""An encoder and its encoded items in the place of a head: `vlm2rec recommend` with an embedder or a PixRec model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..catalogues.item_vectors import read_item_vectors, view_names
from .arguments import ModelArguments
from .common import load_embedder, model_version, say

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.dataset import RecDataset
    from ..modeling.catalogue_seqrec import Recommendation

ENCODERS = ("vlm2rec", "pixrec")
"""`model_type` of models that encode items and histories, and know no catalogue of their own."""


@dataclass
class EncodedArguments:
    """What only embedders and PixRec models need."""

    view: str = field(default="both", metadata={"help": "Of an embedder: text, image or both."})
    vectors: str | None = field(
        default=None, metadata={"help": "Of an embedder: what `vlm2rec embed` wrote, so that items are not encoded."}
    )
    item_columns: str | None = field(
        default=None,
        metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."},
    )

    def __post_init__(self) -> None:
        if len(view_names(self.view)) != 1:
            raise ValueError(f"`--view` must be one of both, text, image, got {self.view!r}.")


class EncodedCatalogue:
    """Ranks a dataset's items for histories by cosine similarity.

    Args:
        dataset: names the items and counts their training interactions, for users without history.
        items: `(n_items, dim)` vectors in catalogue order.
        encode: catalogue indices of some histories -> `(n, dim)` vectors.
    """

    def __init__(self, dataset: RecDataset, items: Tensor, encode: Callable[[list[list[int]]], Tensor]) -> None:
        import torch

        from ..modeling.catalogue_seqrec import HeadCatalogue

        counts = torch.as_tensor(dataset.sequences().train_counts())
        self.catalogue = HeadCatalogue(dataset.item_ids.tolist(), counts)
        self._items, self._encode = _unit(items), encode

    def item_vectors(self) -> Tensor:
        """`(n_items, dim)`, unit length; zero for items with neither text nor picture."""
        return self._items

    def encode_histories(self, rows: list[list[int]]) -> Tensor:
        """`(n, dim)`, unit length.

        Raises:
            ValueError: a history of which no item has a text or a picture.
        """
        users = _unit(self._encode(rows))
        if not bool(users.any(dim=-1).all()):
            raise ValueError("`--history` holds no item with a text or a picture; name another item.")
        return users

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        on_unknown: str = "error",
    ) -> list[Recommendation]:
        """As `SequentialRecommender.recommend`; scores are cosine similarities."""
        from ..modeling.catalogue_seqrec import recommend

        return recommend(self, self.catalogue, histories, k, exclude_seen, candidates, on_unknown)


def encoded_catalogue(
    model_type: str, where: str, revision: str | None, dataset: RecDataset, own: EncodedArguments
) -> EncodedCatalogue:
    """Load the model and encode the dataset's items, or read their vectors.

    Raises:
        ValueError: nothing loadable there, or `vectors` of other weights.
    """
    models = ModelArguments(model=where, model_revision=revision)
    return _by_pixrec(models, dataset, own) if model_type == "pixrec" else _by_embedder(models, dataset, own)


def _by_embedder(models: ModelArguments, dataset: RecDataset, own: EncodedArguments) -> EncodedCatalogue:
    import torch

    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..evaluation.embedder import encode_catalogue
    from ..trained_on import facts_of_training, trained_history

    model, processor = load_embedder(models)
    trained = facts_of_training(str(models.model), models.model_revision)
    processor.max_history = trained_history(trained, processor.max_history)
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    if own.vectors is None:
        say(f"Encoding {len(catalogue):,} items; `vlm2rec embed` once and `--vectors FILE` save this time.")
        items = encode_catalogue(model, catalogue, batch_size=64, show_progress=True).view(own.view).float().cpu()
    else:
        found = read_item_vectors(own.vectors, dataset, (own.view,))
        version = model_version(str(models.model), models.model_revision)
        if found.revision is not None and version and found.revision != version:
            raise ValueError(
                f"`--vectors` {own.vectors!r} are of version {found.revision!r} of {found.embedder!r}, and `--model` "
                f"is {version!r}; write them again with `vlm2rec embed --model {models.model}`."
            )
        items = found.views[own.view]

    def encode(rows: list[list[int]]) -> Tensor:
        known = [[catalogue[i] for i in row if not catalogue.is_empty(i)] for row in rows]
        places = [place for place, history in enumerate(known) if history]
        users = torch.zeros(len(rows), items.shape[1])
        if places:
            users[places] = model.encode_histories([known[i] for i in places], processor).view(own.view).float().cpu()
        return users

    return EncodedCatalogue(dataset, items, encode)


def _by_pixrec(models: ModelArguments, dataset: RecDataset, own: EncodedArguments) -> EncodedCatalogue:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.described_items import DescribedItems
    from ..evaluation.pixrec import encode_pixrec_catalogue
    from ..trained_on import facts_of_training, trained_history
    from .evaluate_pixrec import trained_columns
    from .pixrec_models import column_names, load_pixrec

    if own.vectors is not None or own.view != "both":
        raise ValueError("`--vectors` and `--view` are for embedders; a PixRec model has one vector per item.")
    model, processor = load_pixrec(models)
    trained = facts_of_training(str(models.model), models.model_revision)
    processor.max_history = trained_history(trained, processor.max_history)
    columns = column_names(own.item_columns) or trained_columns(trained, dataset)
    described = DescribedItems(dataset, columns, pictures=processor.pictures)
    catalogue = PreparedCatalogue(described, processor)
    say(f"Encoding {len(catalogue):,} items.")
    items = encode_pixrec_catalogue(model, catalogue, batch_size=64, show_progress=True)

    def encode(rows: list[list[int]]) -> Tensor:
        return model.encode_histories([[catalogue[i] for i in row] for row in rows], processor)

    return EncodedCatalogue(dataset, items, encode)


def _unit(vectors: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(vectors.float().cpu(), dim=-1)
