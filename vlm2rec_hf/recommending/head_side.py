"""What a head does for a recommender: histories of its catalogue to vectors, and (content heads) items new to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluation.evaluating import head_items
from ..indexing.item_index import ItemIndex
from ..indexing.rows import rows_table
from ..loading import LoadedModel
from .index_rows import dataset_table, facts_of, fingerprint_of, head_table

if TYPE_CHECKING:
    from ..data.dataset import RecDataset


class HeadSide:
    """A head with the index of its items.

    Args:
        loaded: the head.
        dataset: for the items' metadata; None: ids and titles are all that is known.
        index: of this head's own vectors; or of its embedder's, from which a content head takes items that are new to
            it, and every head the metadata.

    Raises:
        ValueError: an index of vectors of another head, or of another revision of the embedder.
    """

    metric = "inner"
    view = "both"

    def __init__(self, loaded: LoadedModel, dataset: RecDataset | None, index: ItemIndex | None) -> None:
        self.loaded, self.dataset, self.head = loaded, dataset, loaded.model
        self._source: ItemIndex | None = None
        self._own: ItemIndex | None = None
        self._made_of: tuple[str | None, int] | None = None
        head_items(self.head)
        if index is None:
            return
        self.fingerprint = fingerprint_of(loaded)
        if index.facts.metric == "inner":
            if index.facts.fingerprint != self.fingerprint:
                raise ValueError(
                    f"`index` holds vectors of version {index.facts.revision!r} of {index.facts.model!r}, and `model` "
                    f"is {loaded.version!r}; load that version, or run `vlm2rec index` again."
                )
            self._own = index
            return
        if getattr(self.head, "content_views", ()):
            self.head.check_embedder(None, index.facts.revision)
            lost = [view for view in self.head.content_views if view not in index.facts.views]
            if lost:
                raise ValueError(f"`index` lacks the view {lost[0]!r}, which the head reads; index all three views.")
        self.head = copy.deepcopy(self.head)  # it learns of new items; the caller's stays as it is
        self._source = index

    @property
    def index(self) -> ItemIndex:
        """Items and vectors of this head."""
        if self._own is None:
            self._own = self._made()
        return self._own

    @property
    def followed(self) -> ItemIndex:
        """The index that `follow` looks at: the embedder's where items come from there."""
        return self.index if self._source is None else self._source

    @property
    def takes_items(self) -> bool:
        """Whether items come from the index of the head's embedder."""
        return self._source is not None

    def follow(self) -> None:
        """See what other processes changed; take new items from the embedder's index.

        With `takes_items` the head is changed: no other thread may ask it meanwhile.
        """
        if self._source is None:
            self.index.refresh()
            return
        self._source.refresh()
        # Not whether that found anything: what this process changed through the same object is known to it already.
        if self._own is None or self._made_of != (self._source.version, self._source.edit_number):
            self._own = self._made()

    @property
    def changed(self) -> bool:
        """Whether items were taken out of the index, as far as it is there by now."""
        return self._own is not None and self._own.edit_number > 0

    @property
    def longest(self) -> int:
        """How many of the newest items of a history are read."""
        return int(self.head.config.max_length)

    def knows(self, item_ids: Sequence[str]) -> set[str]:
        """Which items can stand in a history."""
        return {item for item in item_ids if item in self.head.catalogue.index}

    def user_views(
        self, histories: Sequence[Sequence[Any]], users: Sequence[str | None] | None = None
    ) -> dict[str, np.ndarray]:
        """`both` -> `(n, dim)` float32; zero for an empty history. Whose histories they are makes no difference."""
        for history in histories:
            if any(not isinstance(entry, str) for entry in history):
                raise ValueError(
                    "`histories` holds a new item, and `model` is a head, which knows ids; index the item."
                )
        rows = [[self.head.catalogue.index[item] for item in history] for history in histories]
        known = [i for i, row in enumerate(rows) if row]
        out = np.zeros((len(rows), self.index.facts.views["both"]), np.float32)
        if known:
            out[known] = self.head.encode_histories([rows[i] for i in known]).detach().float().cpu().numpy()
        return {"both": out}

    def item_views(self, sources: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Heads make no vectors of texts and images.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "`model` is a head, which encodes no text and no image; put items into the index of its embedder."
        )

    def _made(self) -> ItemIndex:
        source = self._source
        if source is not None:
            self._made_of = source.version, source.edit_number
            self._take_new(source)
        vectors = {"both": self._vectors()}
        if source is None:
            facts = facts_of(self.loaded, vectors, self.dataset)
            if self.dataset is None:
                return ItemIndex.in_memory(head_table(facts, self.head, vectors), facts)
            known = {str(item): i for i, item in enumerate(self.dataset.item_ids)}
            ids = [item for item in self.head.catalogue.ids if item in known]
            places = [self.head.catalogue.index[item] for item in ids]
            chosen = {"both": vectors["both"][places]}
            return ItemIndex.in_memory(dataset_table(facts, self.dataset, chosen, [known[i] for i in ids]), facts)
        facts = facts_of(self.loaded, vectors, None)
        facts = replace(facts, columns=dict(source.facts.columns))
        ids = [item for item in source.item_ids() if item in self.head.catalogue.index]
        names = [*facts.columns, "_popularity", "_text"]
        table = source.rows(ids, names)
        values: dict[str, Any] = {name: table[name].to_pylist() for name in ("item_id", *names)}
        places = [self.head.catalogue.index[item] for item in values["item_id"]]
        return ItemIndex.in_memory(rows_table(facts, values, {"both": vectors["both"][places]}), facts)

    def _vectors(self) -> np.ndarray:
        with torch.no_grad():
            return self.head.item_vectors().detach().float().cpu().numpy()

    def _take_new(self, source: ItemIndex) -> None:
        """Content vectors of the index into the head: of new items and of those put in anew."""
        views = getattr(self.head, "content_views", ())
        if not views or not hasattr(self.head, "add_items"):
            return
        ids = source.item_ids()
        new = [item for item in ids if item not in self.head.catalogue.index]
        if new:
            vectors = {view: torch.from_numpy(np.array(matrix)) for view, matrix in source.vectors(new).items()}
            rows = source.metadata(new)
            titles = [row.get("title") or row["text"] for row in rows]
            self.head.add_items({view: vectors[view] for view in views}, new, titles=titles)
        known = [item for item in source.own_ids() if item in self.head.catalogue.index]
        if known:
            places = [self.head.catalogue.index[item] for item in known]
            for view, matrix in source.vectors(known).items():
                if view in views:
                    buffer = self.head.content_buffer(view)
                    buffer[places] = torch.from_numpy(np.array(matrix)).to(buffer)
