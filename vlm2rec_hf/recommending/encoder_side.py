"""What an embedder or PixRec model does for a recommender: histories and items, known and new, to vectors by view."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..data.described_items import describe
from ..data.images import ImageError, decode_image
from ..data.items import text_of
from ..indexing.item_index import ItemIndex
from ..indexing.rows import OWN
from ..loading import LoadedModel
from ..modeling.items_vlm2rec import PreparedItem
from .index_rows import BARE, dataset_table, facts_of, fingerprint_of
from .kept_histories import KeptHistories
from .scored_view import with_scored_items, with_scored_users

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..evaluation.score_options import ScoreOptions

logger = logging.getLogger(__name__)
_IMAGES = ("image", "image_features")
ENCODED_VIEWS = {"vlm2rec": ("both", "text", "image"), "pixrec": ("both",)}


class EncoderSide:
    """An encoder, where its items' texts and images come from, and the index of its vectors.

    Args:
        loaded: the model.
        dataset: holds items and their images; None where an index keeps them.
        catalogue: the dataset's items, prepared.
        index: of this model's vectors; made from `item_views`, in memory, by default.
        item_views: -> view -> `(n_items, dim)` of the dataset.
        view: that ranks where no weights are named.
        scoring: of embedders: how the view `scored` is made.
        batch_size: rows per forward pass at most.
    """

    metric = "cosine"

    def __init__(
        self,
        loaded: LoadedModel,
        dataset: RecDataset | None,
        catalogue: PreparedCatalogue | None,
        *,
        index: ItemIndex | None,
        item_views: Callable[[], Mapping[str, Any]],
        view: str = "both",
        scoring: ScoreOptions = BARE,
        batch_size: int | None = None,
    ) -> None:
        self.loaded, self.dataset, self.catalogue, self.view = loaded, dataset, catalogue, view
        self.scoring = scoring
        self.kept: KeptHistories | None = None
        self._given, self._item_views, self._batch_size = index, item_views, batch_size
        ids = [] if dataset is None else dataset.item_ids.tolist()
        self.place = {str(item): i for i, item in enumerate(ids)}
        if index is None or index.facts.fingerprint == self.fingerprint:
            return
        mine = None if scoring.is_bare else scoring.to_dict()
        if index.facts.scoring != mine:
            raise ValueError(
                f"`index` holds vectors for the score options {index.facts.scoring}, and `model` has {mine}; give "
                "those options, or run `vlm2rec index` again."
            )
        raise ValueError(
            f"`index` holds vectors of version {index.facts.revision!r} of {index.facts.model!r}, and `model` is "
            f"{loaded.version!r} (or is laid out otherwise); load that version, or run `vlm2rec index` again."
        )

    @property
    def item_columns(self) -> list[str] | None:
        """Of PixRec: the columns that make an item's text."""
        items: Any = None if self.catalogue is None else self.catalogue.items
        return list(getattr(items, "columns", ())) or None

    @cached_property
    def fingerprint(self) -> str:
        """Of the model as it makes item vectors."""
        return fingerprint_of(self.loaded, self.item_columns, self.scoring)

    @cached_property
    def index(self) -> ItemIndex:
        """Items and vectors; encoded with the first use where no index was given."""
        if self._given is not None:
            return self._given
        assert self.dataset is not None
        views = with_scored_items(self._item_views(), self.scoring, self.dataset.sequences().train_counts())
        facts = facts_of(self.loaded, views, self.dataset, self.item_columns, scoring=self.scoring)
        return ItemIndex.in_memory(dataset_table(facts, self.dataset, views), facts)

    @property
    def followed(self) -> ItemIndex:
        """The index that `follow` looks at."""
        return self.index

    def follow(self) -> None:
        """See what other processes changed; for any thread."""
        self.index.refresh()

    @property
    def changed(self) -> bool:
        """Whether items were put into or taken out of the index, as far as it is there by now."""
        return self._has_index and self.index.edit_number > 0

    @property
    def longest(self) -> int:
        """How many of the newest items of a history are read."""
        return int(self.loaded.processor.max_history)

    def knows(self, item_ids: Sequence[str]) -> set[str]:
        """Which items can stand in a history."""
        return {item for item in item_ids if item in self.place} | self.index.has(item_ids)

    def keep_histories(self, memory_bytes: float) -> bool:
        """From now on keep what is read of users' histories, so that one more item costs its own tokens alone.

        Args:
            memory_bytes: budget of keys, values and image features; see `KeptHistories`.

        Returns:
            Whether that can be done; not for PixRec, nor for backbones whose attention slides.
        """
        if self.loaded.model_type != "vlm2rec" or not memory_bytes > 0:
            return False
        try:
            self.kept = KeptHistories(self.loaded.model, self.loaded.processor, memory_bytes)
        except ValueError as error:
            logger.warning("Histories are read anew for each list: %s", error)
        return self.kept is not None

    def user_views(
        self, histories: Sequence[Sequence[Any]], users: Sequence[str | None] | None = None
    ) -> dict[str, np.ndarray]:
        """View -> `(n, dim)` float32 of histories of ids and new items; zero where nothing read says anything.

        Args:
            histories: oldest first.
            users: whose they are, where that is known: with `keep_histories` only what is new of them is run.
        """
        rows = [list(history[-self.longest :]) for history in histories]
        ready = self._ready({entry for row in rows for entry in row if isinstance(entry, str)})
        readable = [[(object(), e) if isinstance(e, dict) else ready[e] for e in row] for row in rows]
        readable = [[(key, item) for key, item in row if item is not None] for row in readable]
        mine: dict[str, int] = {}
        for i, user in enumerate(users or ()):
            if self.kept is not None and user is not None and readable[i]:
                mine.setdefault(user, i)
        kept = list(mine.values())
        rest = [i for i, row in enumerate(readable) if row and i not in kept]
        options = {} if self._batch_size is None else {"batch_size": self._batch_size}
        encoded = None
        if rest:
            plain = [[item for _, item in readable[i]] for i in rest]
            encoded = self.loaded.model.encode_histories(plain, self.loaded.processor, **options)
        views = self._spread(encoded, rest, len(rows))
        if kept:
            assert self.kept is not None
            grown = self.kept.encode(list(mine), [readable[i] for i in kept])
            for view, matrix in views.items():
                matrix[kept] = grown.view(view).float().cpu().numpy()
        return with_scored_users(views, self.scoring)

    def item_views(
        self, sources: Sequence[Mapping[str, Any]], popularity: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """View -> `(n, dim)` float32 of items as `as_item` types them; zero where there is neither text nor image.

        Args:
            sources: the items.
            popularity: how often each was seen in training, for the prior of `scored`; 0 (new items) by default.
        """
        known = [i for i, one in enumerate(sources) if one.get("text") or any(one.get(n) is not None for n in _IMAGES)]
        options = {} if self._batch_size is None else {"batch_size": self._batch_size}
        encoded = None
        if known:
            items = [dict(sources[i]) for i in known]
            encoded = self.loaded.model.encode_items(items, self.loaded.processor, **options)
        counts = [0] * len(sources) if popularity is None else popularity
        return with_scored_items(self._spread(encoded, known, len(sources)), self.scoring, counts)

    def source(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Text and decoded image of a new item given with its metadata.

        Raises:
            ValueError: an image that cannot be decoded.
        """
        text = describe(row, self.item_columns) if self.item_columns else text_of(row)
        image = row.get("image")
        try:
            return {"text": text, "image": None if image is None else decode_image(image)}
        except ImageError as error:
            raise ValueError(f"`items`: the image of {row.get('item_id')!r:.80} cannot be read: {error}") from error

    def source_from_index(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Text and image of an item that an index keeps itself."""
        return {"text": row["_text"], "image": None if row["_image"] is None else decode_image(row["_image"])}

    def _ready(self, item_ids: set[str]) -> dict[str, tuple[Hashable, Any]]:
        """Items by id, ready to be laid out, behind a key that is another one once text or image are.

        None where an item has neither text nor image.
        """
        ids = sorted(item_ids)
        rows = self.index.rows(ids, ["_source", "_text", "_image"]).to_pylist() if self._has_index else []
        ready: dict[str, tuple[Hashable, Any]] = {}
        for row in rows:
            if row["_source"] == OWN:
                source = self.source_from_index(row)
                key = (row["item_id"], row["_text"], hashlib.sha256(row["_image"] or b"").digest())
                ready[row["item_id"]] = key, source if source["text"] or source["image"] is not None else None
        for item in ids:
            if item not in ready:
                ready[item] = item, self._of_dataset(item)
        return ready

    @property
    def _has_index(self) -> bool:
        return self._given is not None or "index" in self.__dict__

    def _of_dataset(self, item: str) -> PreparedItem | None:
        if item not in self.place or self.catalogue is None:
            raise ValueError(
                f"`histories` names {item!r}, whose text and image are in the dataset that the index was made from; "
                "pass that `dataset`."
            )
        prepared = self.catalogue[self.place[item]]
        return prepared if prepared.text is not None or prepared.grid is not None else None

    def _spread(self, encoded: Any, known: list[int], count: int) -> dict[str, np.ndarray]:
        views = ENCODED_VIEWS[self.loaded.model_type]
        config = self.loaded.model.config
        size = config.projection_dim if self.loaded.model_type == "pixrec" else config.hidden_size
        out = {view: np.zeros((count, size), np.float32) for view in views}
        if encoded is not None:
            for view in views:
                matrix = encoded if self.loaded.model_type == "pixrec" else encoded.view(view)
                out[view][known] = matrix.float().cpu().numpy()
        return out
