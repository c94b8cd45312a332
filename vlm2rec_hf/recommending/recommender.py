"""`recommender`: the best next items, by any model, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..catalogues.item_vectors import ItemVectors, read_item_vectors
from ..columns import SCORED
from ..evaluation.embedding import encoded_views
from ..evaluation.encoding_inputs import PreparedHistories
from ..evaluation.evaluating import encodable_items, head_items
from ..evaluation.score_options import ScoreOptions
from ..evaluation.score_vectors import item_score_vectors, user_score_vectors
from ..evaluation.scorers import as_matrix, normalize_rows
from ..loading import ENCODING_METHODS, LoadedModel, load_with_processor, model_type_of, refuse_options
from ..modeling.catalogue_seqrec import HeadCatalogue, Recommendation, recommend
from ..modeling.encoding_vlm2rec import VIEWS

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

logger = logging.getLogger(__name__)
Encode = Callable[[list[list[int]]], Tensor]


class Recommender:
    """Ranks a catalogue for histories of item ids; made by `recommender`.

    Args:
        catalogue: the items, how often each was seen in training (for users without history), titles.
        item_vectors: -> `(n_items, dim)`.
        encode: catalogue indices of some histories -> `(n, dim)`; scores are inner products with the item vectors.
        dataset: for histories of users, titles and images.
    """

    def __init__(
        self,
        catalogue: HeadCatalogue,
        item_vectors: Callable[[], Tensor],
        encode: Encode,
        dataset: RecDataset | None = None,
    ) -> None:
        self.catalogue, self.dataset = catalogue, dataset
        self.item_vectors, self.encode_histories = item_vectors, encode

    def __repr__(self) -> str:
        return f"Recommender({len(self.catalogue):,} items)"

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        on_unknown: str = "error",
    ) -> list[Recommendation]:
        """The best items after each history, by raw id.

        Args:
            histories: raw item ids, oldest first; an empty one gets the most popular items, marked as such.
            k: how many items; fewer come back where there are fewer candidates.
            exclude_seen: leave out items of the history (all of it, not only the part that is read).
            candidates: raw ids to choose from; the whole catalogue by default.
            on_unknown: `"error"`, or `"skip"`: leave unknown ids out and count them.

        Returns:
            One `Recommendation` per history. Scores of embedders are what their `ScoreOptions` say, cosine
            similarities by default, of PixRec models cosine similarities, of heads inner products.

        Raises:
            ValueError: an unknown id, `k < 1`, or a history of which no item has a text or an image.
        """
        return recommend(self, self.catalogue, histories, k, exclude_seen, candidates, on_unknown)

    def history_of(self, user: str) -> list[str]:
        """Raw item ids of everything a user of the dataset interacted with, oldest first.

        Raises:
            ValueError: no dataset, or a user that it does not have.
        """
        if self.dataset is None:
            raise ValueError("`user` needs the `dataset` that the user is in; pass it to `recommender`.")
        return user_history(self.dataset, user)


def recommender(
    model: Any,
    dataset: RecDataset | None = None,
    *,
    revision: str | None = None,
    processor: Any = None,
    view: str | None = None,
    vectors: str | Path | ItemVectors | None = None,
    score_options: ScoreOptions | None = None,
    item_columns: Sequence[str] | None = None,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> Recommender:
    """Make any model ready to recommend a dataset's items; an encoder encodes them with the first question.

    Args:
        model: folder or Hub id, or a `VLM2RecEmbedder`, `PixRecModel`, `SequentialRecommender` or `DMESRModel`.
        dataset: names the items; heads know theirs and need it only for users, titles and images.
        revision: tag, branch or commit of a Hub id.
        processor: of a model made in this process; by default the one saved beside the model.
        view: of embedders: `"text"`, `"image"` or `"both"`, each by bare cosine, or `"scored"`, by the score options
            (default where there are any, else `"both"`): the same names and lists as in an evaluation.
        vectors: of embedders: the items' vectors, or what `vlm2rec embed` wrote, so that no item is encoded.
        score_options: of embedders: how the view `"scored"` is ranked; by default as the model's config says.
        item_columns: of PixRec: item columns that make an item's text; by default as in training.
        batch_size: items per forward pass at most; by default as in `evaluate`.
        show_progress: draw progress bars.

    Raises:
        ValueError: nothing loadable, no dataset for an encoder, a head of other items, vectors of another version of
            the model, or an option that this kind of model does not have.

    Example:
        ```python
        from vlm2rec_hf import load_recsys, recommender

        shop = load_recsys("org/demo-shop")  # doctest: +SKIP
        best = recommender("org/vlm2rec-demo", shop).recommend([["p000356", "p000467"]], k=5)  # doctest: +SKIP
        print(best[0].item_ids)  # doctest: +SKIP
        ```
    """
    if dataset is None and isinstance(model, (str, Path)):  # said before the weights are loaded
        _require_dataset(model_type_of(model, revision), dataset)
    loaded = load_with_processor(model, revision=revision, processor=processor)
    kind = loaded.model_type
    refuse_options(kind, ("vlm2rec",), "embedders", view=view, vectors=vectors, score_options=score_options)
    refuse_options(kind, ("pixrec",), "PixRec models", item_columns=item_columns)
    if view is not None and view not in (*VIEWS, SCORED):
        raise ValueError(f"`view` must be one of {(*VIEWS, SCORED)}, got {view!r}.")
    if kind not in ENCODING_METHODS:
        head = loaded.model
        ids = head_items(head)
        if dataset is not None and not set(ids) & {str(item) for item in dataset.item_ids}:
            raise ValueError("`dataset` holds none of the head's items; name the dataset it was trained on.")
        return Recommender(head.catalogue, head.item_vectors, head.encode_histories, dataset)
    dataset = _require_dataset(kind, dataset)
    scoring = ScoreOptions.of(loaded.model.config, score_options) if kind == "vlm2rec" else ScoreOptions()
    view = view or ("both" if scoring.is_bare else SCORED)
    needed = scoring.views if view == SCORED else (view,)
    known = None if vectors is None else _checked(vectors, loaded, dataset, needed)
    counts = dataset.sequences().train_counts()
    catalogue = encodable_items(loaded, dataset, item_columns, cache_features=False)

    def of_items(views: Mapping[str, Tensor]) -> Tensor:
        return item_score_vectors(views, scoring, counts) if view == SCORED else _unit(views[view])

    def of_users(encoded: Any) -> Tensor:
        if view == SCORED:
            return user_score_vectors(encoded, scoring)
        return _unit(encoded.view(view) if kind == "vlm2rec" else encoded)

    @cache
    def items() -> Tensor:
        """Encoded when the first histories are known to be sound."""
        if known is not None:
            return of_items(known)
        note = "; `vlm2rec embed` once and `vectors` save this time" if kind == "vlm2rec" else ""
        logger.info(f"Encoding {dataset.n_items:,} items{note}.")
        return of_items(encoded_views(loaded, catalogue, batch_size=batch_size, show_progress=show_progress))

    def encode(rows: list[list[int]]) -> Tensor:
        histories = PreparedHistories(catalogue, rows)
        users = torch.zeros(len(rows), items().shape[1])
        if histories.known:
            encoded = loaded.model.encode_histories(histories.readable(), loaded.processor)
            users[histories.known] = of_users(encoded)
        if not bool(users.any(dim=-1).all()):
            raise ValueError(
                "`histories` holds one of which no item has a text or an image among the last "
                f"{loaded.processor.max_history}, which are read; name another item."
            )
        return users

    head_catalogue = HeadCatalogue(dataset.item_ids.tolist(), torch.as_tensor(counts), item_titles(dataset))
    return Recommender(head_catalogue, items, encode, dataset)


def user_history(dataset: RecDataset, user: str) -> list[str]:
    """Raw item ids of everything a user interacted with, oldest first.

    Raises:
        ValueError: a user that the dataset does not have.
    """
    sequences = dataset.sequences()
    rows = (sequences.user_ids == user).nonzero()[0]
    if len(rows) == 0:
        raise ValueError(f"`user` {user!r} is none of the dataset's {dataset.n_users} users.")
    start, stop = sequences.offsets[rows[0]], sequences.offsets[rows[0] + 1]
    return [str(item) for item in sequences.item_ids[sequences.items[start:stop]]]


def item_titles(dataset: RecDataset) -> list[str | None]:
    """The first of title and text that each item has."""
    titles: list[str | None] = [None] * dataset.n_items
    for name in ("text", "title"):
        if name in dataset.items.column_names:
            values = dataset.items.select_columns([name])[name]
            titles = [
                value if isinstance(value, str) and value.strip() else known
                for value, known in zip(values, titles, strict=True)
            ]
    return titles


def _require_dataset(kind: str | None, dataset: RecDataset | None) -> Any:
    if dataset is None and kind in ENCODING_METHODS:
        raise ValueError(f"`dataset` is required: the {kind} model knows no items of its own.")
    return dataset


def _checked(vectors: Any, loaded: LoadedModel, dataset: RecDataset, views: tuple[str, ...]) -> dict[str, Tensor]:
    """The dataset's item vectors of some views.

    Raises:
        ValueError: they were made by another version of the model, or lack a view or an item.
    """
    ids = [str(item) for item in dataset.item_ids]
    named = "" if isinstance(vectors, ItemVectors) else f" {str(vectors)!r}"
    known = vectors.for_items(ids) if isinstance(vectors, ItemVectors) else read_item_vectors(vectors, ids, views)
    version = loaded.version
    if known.revision and version and known.revision != version:
        raise ValueError(
            f"`vectors`{named} are of version {known.revision!r} of {known.model!r}, and `model` is {version!r}; "
            f"write them again with `vlm2rec embed --model {loaded.where}`."
        )
    for view in views:
        if view not in known.views:
            raise ValueError(f"`vectors`{named} hold the views {sorted(known.views)}, not {view!r}.")
    return {view: known.views[view] for view in views}


def _unit(vectors: Tensor) -> Tensor:
    """The directions of `(n, d)` vectors, by the very steps of an evaluation."""
    return normalize_rows(as_matrix("vectors", vectors))
