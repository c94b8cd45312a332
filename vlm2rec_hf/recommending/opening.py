"""Open what training left behind as a recommender: one place for the server, the page and Python."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .index_building import build_index
from .recommender import Recommender, recommender

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

logger = logging.getLogger(__name__)
EMBEDDER, SHOP, INDEX = "embedder", "shop", "index"
"""Names inside the folder that `vlm2rec quickstart` writes."""
_OF_ITEMS = (
    "revision", "processor", "vectors", "score_options", "item_columns", "batch_size", "show_progress"
)  # fmt: skip
"""Options of `recommender` that also decide how an index is made."""


@dataclass(frozen=True)
class Places:
    """Where the parts of a recommender are; None: not named.

    Attributes:
        model: folder or Hub id.
        dataset: folder or Hub id.
        index: folder.
    """

    model: str | None = None
    dataset: str | None = None
    index: str | None = None


def places_in(folder: str | Path) -> Places:
    """What lies in a folder: that of a quickstart, or of a model.

    Raises:
        ValueError: neither.
    """
    folder = Path(folder)
    if (folder / EMBEDDER / "config.json").is_file() and (folder / SHOP).is_dir():
        return Places(str(folder / EMBEDDER), str(folder / SHOP), str(folder / INDEX))
    if (folder / "config.json").is_file():
        return Places(str(folder))
    raise ValueError(
        f"`folder` {str(folder)!r} holds neither what `vlm2rec quickstart` wrote ({EMBEDDER}/, {SHOP}/) nor a model "
        "(config.json); name the parts with `model`, `dataset` and `index`."
    )


def open_recommender(
    folder: str | Path | None = None,
    *,
    model: Any = None,
    dataset: RecDataset | str | Path | None = None,
    dataset_revision: str | None = None,
    index: str | Path | None = None,
    **options: Any,
) -> Recommender:
    """A recommender over the folder of a quickstart or of a model, or over parts that are named.

    Args:
        folder: that `vlm2rec quickstart` or `vlm2rec train` wrote. A quickstart's index is made if it is not there, by
            the options given; over another dataset, items are encoded with the first question instead.
        model: folder or Hub id, or a model; instead of the folder's.
        dataset: a dataset, or its folder or Hub id; instead of the folder's. Leave-one-out if it has no split.
        dataset_revision: tag, branch or commit of a dataset's Hub id.
        index: folder of an index; instead of the folder's.
        options: of `recommender`, such as `revision` or `view`.

    Raises:
        ValueError: nothing named, nothing loadable, or parts that do not belong together.

    Example:
        ```python
        from vlm2rec_hf import open_recommender

        shop = open_recommender("runs/quickstart")  # doctest: +SKIP
        print(shop.recommend(users=["u000003"], k=5)[0].titles)  # doctest: +SKIP
        ```
    """
    from ..data.readers import load_recsys

    there = Places() if folder is None else places_in(folder)
    if model is None and there.model is None:
        raise ValueError("Name a `folder` of a quickstart or of a model, or a `model`.")
    whole = model is None and dataset is None and index is None and there.index is not None
    dataset = there.dataset if dataset is None else dataset
    if isinstance(dataset, (str, Path)):
        dataset = load_recsys(str(dataset), revision=dataset_revision)
        if dataset.split_spec["kind"] == "none":
            dataset = dataset.leave_one_out()
    is_made = there.index is not None and (Path(there.index) / "index.json").is_file()
    if whole and not is_made:
        logger.info(f"The items are encoded into {there.index}.")
        named = {name: options[name] for name in _OF_ITEMS if name in options}
        build_index(there.model, dataset, str(there.index), **named)
        is_made = True
    if index is None and model is None and is_made:
        index = there.index
    return recommender(there.model if model is None else model, dataset, index=index, **options)
