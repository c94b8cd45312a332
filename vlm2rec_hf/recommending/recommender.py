"""`recommender`: the best next items, by any model, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..catalogues.item_vectors import ItemVectors
from ..columns import SCORED
from ..evaluation.embedding import encoded_views
from ..evaluation.encoding_inputs import PreparedHistories
from ..evaluation.evaluating import encodable_items, head_items
from ..evaluation.score_options import ScoreOptions
from ..evaluation.score_vectors import item_score_vectors, user_score_vectors
from ..evaluation.scorers import as_matrix, normalize_rows
from ..loading import ENCODING_METHODS, load_with_processor, model_type_of, refuse_options
from ..modeling.catalogue_seqrec import HeadCatalogue, recommend
from ..modeling.encoding_vlm2rec import VIEWS
from .encoder_side import EncoderSide
from .explaining import Explanation
from .given_vectors import checked_vectors
from .head_side import HeadSide
from .scored_view import scoring_of
from .shop_lists import ListOptions, ShopRecommendation, explain_item, shop_lists, similar_lists

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..indexing.item_index import ItemIndex

logger = logging.getLogger(__name__)
Encode = Callable[[list[list[int]]], Tensor]


class Recommender:
    """Ranks a catalogue for histories of item ids; made by `recommender`.

    Args:
        catalogue: the items, how often each was seen in training (for users without history), titles.
        item_vectors: -> `(n_items, dim)`.
        encode: catalogue indices of some histories -> `(n, dim)`; scores are inner products with the item vectors.
        dataset: for histories of users, titles and images.
        side: the model as an index is asked with it.
        indexed: whether every list comes from the index of `side`, because one was named.
    """

    def __init__(
        self,
        catalogue: HeadCatalogue,
        item_vectors: Callable[[], Tensor],
        encode: Encode,
        dataset: RecDataset | None = None,
        *,
        side: EncoderSide | HeadSide | None = None,
        indexed: bool = False,
    ) -> None:
        self.catalogue, self.dataset = catalogue, dataset
        self.item_vectors, self.encode_histories = item_vectors, encode
        self._side, self._indexed = side, indexed

    def __repr__(self) -> str:
        return f"Recommender({len(self.index if self._from_index else self.catalogue):,} items)"

    @property
    def index(self) -> ItemIndex:
        """Items, vectors and metadata that lists are made from; in memory where none was named."""
        return self.side.index

    def recommend(
        self,
        histories: Sequence[Sequence[Any]] | None = None,
        k: int = 10,
        *,
        users: Sequence[str] | None = None,
        exclude_seen: bool = True,
        candidates: Sequence[Any] | None = None,
        on_unknown: str = "error",
        filter: Mapping[str, Any] | None = None,
        group_by: str | None = None,
        diversity: float = 0.0,
        explain: bool = False,
        view_weights: Mapping[str, float] | None = None,
    ) -> list[Any]:
        """The best items after each history, by raw id.

        Args:
            histories: raw item ids, oldest first; an empty one gets the most popular items, marked as such. For
                encoders a history may hold new items, too: `{"text": ..., "image": PIL image}`.
            k: how many items; fewer come back where there are fewer candidates.
            users: instead of histories, users of the dataset by id.
            exclude_seen: leave out items of the history (all of it, not only the part that is read).
            candidates: raw ids to choose from, or one such list per history; the whole catalogue by default.
            on_unknown: `"error"`, or `"skip"`: leave unknown ids out and count them.
            filter: condition on the items' metadata, such as `{"price": {"<": 30}, "category": ["shoes", "boots"]}`.
            group_by: item column; of each of its values only the best item is listed (variants of one product).
            diversity: 0 to 1: choose every next item by its score less its likeness to those above
                (`diversified`).
            explain: give the reasons of every item; the history is then encoded once more per item of it.
            view_weights: of external fusion, such as `{"text": 1, "image": 0.5}`: the views' weights in users and
                items. The score is exactly the cosine of the weighted sums.

        Returns:
            One `Recommendation` per history; a `ShopRecommendation` with metadata and reasons where an index was named
            or changed, or one of the options from `filter` on is used. Scores of embedders are what their
            `ScoreOptions` say, cosine similarities by default and with `view_weights`, of PixRec models cosine
            similarities, of heads inner products.

        Raises:
            ValueError: an unknown id, `k < 1`, a history of which no item has a text or an image, or a filter or
                column that does not fit the items.
        """
        if (histories is None) == (users is None):
            raise ValueError("Name exactly one of `histories` and `users`.")
        if histories is None:
            assert users is not None
            if isinstance(users, str):
                raise ValueError(f"`users` must be a list of ids, got the text {users!r}; wrap it in a list.")
            histories = [self.history_of(user) for user in users]
        named = filter is not None or group_by is not None or diversity or explain or view_weights is not None
        if not (named or self._from_index or _of_shops(histories, candidates)):
            return recommend(self, self.catalogue, histories, k, exclude_seen, candidates, on_unknown)
        options = ListOptions(
            k, exclude_seen, candidates, on_unknown, filter, group_by, diversity, explain, view_weights
        )
        return shop_lists(self.side, histories, options)

    def similar(
        self,
        items: Sequence[Any],
        k: int = 10,
        *,
        candidates: Sequence[Any] | None = None,
        filter: Mapping[str, Any] | None = None,
        group_by: str | None = None,
        diversity: float = 0.0,
        view_weights: Mapping[str, float] | None = None,
    ) -> list[ShopRecommendation]:
        """The items most like each item, by the cosine of their vectors; see `recommend` for the other arguments.

        Score options do not enter: how popular an item is makes it like no other.

        Args:
            items: raw ids; for encoders also new items, `{"text": ..., "image": PIL image}`.
            k: how many; the item itself is never listed.
            candidates: as in `recommend`.
            filter: as in `recommend`.
            group_by: as in `recommend`.
            diversity: as in `recommend`.
            view_weights: as in `recommend`.

        Raises:
            ValueError: an unknown id, among others.
        """
        options = ListOptions(
            k, candidates=candidates, filter=filter, group_by=group_by, diversity=diversity, view_weights=view_weights
        )
        return similar_lists(self.side, items, options)

    def explain(
        self,
        history: Sequence[Any],
        item: str,
        *,
        view_weights: Mapping[str, float] | None = None,
        on_unknown: str = "error",
    ) -> Explanation:
        """Why an item has its score after a history: exact shares, and what each item of the history does for it.

        Args:
            history: as in `recommend`, with at least one known item.
            item: raw id.
            view_weights: as in `recommend`.
            on_unknown: as in `recommend`.

        Raises:
            ValueError: an unknown item, or a history without a known one.
        """
        return explain_item(self.side, history, item, view_weights, on_unknown)

    def upsert(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Put items into the index, or in the place of items of the same ids; on the disk before this returns.

        Args:
            items: each with `item_id`, `text` and/or `image` (PIL image or a file's bytes), which are encoded, and
                metadata of the index's columns. Of an item that is there already, metadata alone may be given: what
                is not named stays. A text or an image replaces both of them. Popularity stays, or is 0.

        Returns:
            How many items were encoded.

        Raises:
            ValueError: a head (put items into its embedder's index), an item without text and image, an image that
                does not decode, a column that the index does not have, or an index of another version of the model.
        """
        from .changing_items import upsert_items

        side = self.side
        if not isinstance(side, EncoderSide):
            raise ValueError("`items` cannot be encoded by a head; put them into the index of its embedder.")
        return upsert_items(side, side.index, items)

    def delete(self, item_ids: Sequence[str]) -> int:
        """Take items out of the index, on the disk before this returns; tells how many were there."""
        side = self.side
        if isinstance(side, HeadSide) and side.takes_items:
            raise ValueError("`item_ids` are in the index of the head's embedder; delete them there.")
        return side.index.delete(item_ids)

    @property
    def _from_index(self) -> bool:
        """Whether every list comes from the index: because one was named, or the one in memory was changed."""
        return self._indexed or (self._side is not None and self._side.changed)

    @property
    def side(self) -> EncoderSide | HeadSide:
        """What the model does for lists from an index.

        Raises:
            ValueError: there is none.
        """
        if self._side is None:
            raise ValueError("This `Recommender` ranks one matrix and has no index; make it with `recommender`.")
        return self._side

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
    index: str | Path | ItemIndex | None = None,
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
        index: an index or its folder, as `vlm2rec index` writes: every list comes from it, and items can be put in.
            Of heads: of their own vectors, or of their embedder's, from which content heads take new items.
        batch_size: items per forward pass at most; by default as in `evaluate`.
        show_progress: draw progress bars.

    Raises:
        ValueError: nothing loadable, no dataset for an encoder, a head of other items, vectors or an index of another
            version of the model, or an option that this kind of model does not have.

    Example:
        ```python
        from vlm2rec_hf import load_recsys, recommender

        shop = load_recsys("org/demo-shop")  # doctest: +SKIP
        best = recommender("org/vlm2rec-demo", shop).recommend([["p000356", "p000467"]], k=5)  # doctest: +SKIP
        print(best[0].item_ids)  # doctest: +SKIP
        ```
    """
    if dataset is None and index is None and isinstance(model, (str, Path)):  # said before the weights are loaded
        _require_dataset(model_type_of(model, revision), dataset)
    loaded = load_with_processor(model, revision=revision, processor=processor)
    kind = loaded.model_type
    refuse_options(kind, ("vlm2rec",), "embedders", view=view, vectors=vectors, score_options=score_options)
    refuse_options(kind, ("pixrec",), "PixRec models", item_columns=item_columns)
    if view is not None and view not in (*VIEWS, SCORED):
        raise ValueError(f"`view` must be one of {(*VIEWS, SCORED)}, got {view!r}.")
    opened = _opened(index)
    if kind not in ENCODING_METHODS:
        head = loaded.model
        ids = head_items(head)
        if dataset is not None and not set(ids) & {str(item) for item in dataset.item_ids}:
            raise ValueError("`dataset` holds none of the head's items; name the dataset it was trained on.")
        head_side = HeadSide(loaded, dataset, opened)
        return Recommender(
            head.catalogue,
            head.item_vectors,
            head.encode_histories,
            dataset,
            side=head_side,
            indexed=index is not None,
        )
    scoring = scoring_of(loaded, score_options)
    view = view or ("both" if scoring.is_bare else SCORED)
    options: Any = {"index": opened, "view": view, "scoring": scoring, "batch_size": batch_size}
    if dataset is None and opened is not None:
        loaded.processor.max_history = loaded.max_history
        side = EncoderSide(loaded, None, None, item_views=dict, **options)
        return Recommender(HeadCatalogue([]), _no_items, _no_items, side=side, indexed=True)
    dataset = _require_dataset(kind, dataset)
    needed = scoring.views if view == SCORED else (view,)
    known = None if vectors is None else checked_vectors(vectors, loaded, dataset, needed)
    counts = dataset.sequences().train_counts()
    catalogue = encodable_items(loaded, dataset, item_columns, cache_features=False)

    def of_items(views: Mapping[str, Tensor]) -> Tensor:
        if view == SCORED:
            return item_score_vectors({name: views[name] for name in scoring.views}, scoring, counts)
        return _unit(views[view])

    def of_users(encoded: Any) -> Tensor:
        if view == SCORED:
            return user_score_vectors(encoded, scoring)
        return _unit(encoded.view(view) if kind == "vlm2rec" else encoded)

    @cache
    def views() -> Mapping[str, Tensor]:
        """Encoded when the first histories are known to be sound."""
        if known is not None:
            return known
        note = "; `vlm2rec embed` once and `vectors` save this time" if kind == "vlm2rec" else ""
        logger.info(f"Encoding {dataset.n_items:,} items{note}.")
        return encoded_views(loaded, catalogue, batch_size=batch_size, show_progress=show_progress)

    @cache
    def items() -> Tensor:
        return of_items(views())

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
    side = EncoderSide(loaded, dataset, catalogue, item_views=views, **options)
    return Recommender(head_catalogue, items, encode, dataset, side=side, indexed=index is not None)


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


def _opened(index: str | Path | ItemIndex | None) -> ItemIndex | None:
    from ..indexing.item_index import ItemIndex

    return ItemIndex.open(index) if isinstance(index, (str, Path)) else index


def _no_items(*_: Any) -> Tensor:
    """What a recommender without a dataset ranks where it is asked for a matrix.

    Raises:
        ValueError: always.
    """
    raise ValueError("`dataset` is required: this recommender knows the items of its index alone.")


def _of_shops(histories: Sequence[Any], candidates: Sequence[Any] | None) -> bool:
    """Whether what is asked needs an index: new items in a history, or candidates per history."""
    own = candidates is not None and len(candidates) > 0 and isinstance(candidates[0], (list, tuple))
    return own or any(isinstance(entry, Mapping) for history in histories for entry in history)


def _unit(vectors: Tensor) -> Tensor:
    """The directions of `(n, d)` vectors, by the very steps of an evaluation."""
    return normalize_rows(as_matrix("vectors", vectors))
