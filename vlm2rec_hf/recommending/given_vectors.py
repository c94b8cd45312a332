"""Item vectors that were encoded before: of the dataset's items, and of the model that is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..catalogues.item_vectors import ItemVectors, read_item_vectors, views_there
from ..loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.dataset import RecDataset


def checked_vectors(
    vectors: Any, loaded: LoadedModel, dataset: RecDataset, views: Sequence[str]
) -> Mapping[str, Tensor]:
    """The dataset's item vectors: of the views that are needed, and of all the others that are there.

    Args:
        vectors: `ItemVectors`, or a file or folder of `vlm2rec embed`.
        loaded: the model.
        dataset: the items.
        views: that must be there.

    Raises:
        ValueError: they were made by another version of the model, or lack a view or an item.
    """
    ids = [str(item) for item in dataset.item_ids]
    named = "" if isinstance(vectors, ItemVectors) else f" {str(vectors)!r}"
    if isinstance(vectors, ItemVectors):
        known = vectors.for_items(ids)
    else:
        known = read_item_vectors(vectors, ids, views_there(vectors, tuple(views)))
    version = loaded.version
    if known.revision and version and known.revision != version:
        raise ValueError(
            f"`vectors`{named} are of version {known.revision!r} of {known.model!r}, and `model` is {version!r}; "
            f"write them again with `vlm2rec embed --model {loaded.where}`."
        )
    for view in views:
        if view not in known.views:
            raise ValueError(f"`vectors`{named} hold the views {sorted(known.views)}, not {view!r}.")
    return known.views
