"""Build an index from a dataset and a model, and build it again under a new one, while the old one serves."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogues.item_vectors import ItemVectors
from ..columns import SCORED
from ..evaluation.embedding import encoded_views
from ..evaluation.evaluating import encodable_items
from ..indexing.item_index import ItemIndex
from ..indexing.items_files import LANCE
from ..indexing.lance_items import require_lance
from ..indexing.rebuilding import write_index
from ..indexing.rows import FROM_DATASET, OWN, rows_table
from ..loading import ENCODING_METHODS, LoadedModel, load_with_processor, refuse_options
from .encoder_side import EncoderSide
from .given_vectors import checked_vectors
from .index_rows import dataset_table, facts_of
from .scored_view import scoring_of, with_scored_items

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.dataset import RecDataset
    from ..evaluation.score_options import ScoreOptions

logger = logging.getLogger(__name__)
EXACT_ITEMS = 100_000
"""Up to so many items an index is exact by default."""
ROWS_AT_ONCE = 8192


def build_index(
    model: Any,
    dataset: RecDataset | None,
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    processor: Any = None,
    views: Sequence[str] | None = None,
    vectors: str | Path | ItemVectors | None = None,
    score_options: ScoreOptions | None = None,
    item_columns: Sequence[str] | None = None,
    store: str = "auto",
    batch_size: int | None = None,
    show_progress: bool = False,
) -> ItemIndex:
    """Write the index of a dataset's items, or write it anew beside the one that is there, and switch to it.

    Items that were put into the earlier version stay: they are encoded again from the text and image that it keeps.
    Items that were deleted stay deleted, and metadata that was changed stays changed; columns that are new come from
    the dataset. Changes that arrive during the work are taken over before the switch. Killed at any moment, the
    earlier version keeps serving, and another call begins anew.

    Args:
        model: folder or Hub id, or a model.
        dataset: the items; heads know theirs, and need it only for metadata.
        output: folder of the index.
        revision: tag, branch or commit of a Hub id.
        processor: of a model made in this process.
        views: which vectors to keep, some of `text`, `image`, `both`, and `scored` where the embedder has score
            options; by default all that the model has.
        vectors: what `vlm2rec embed` wrote, so that the dataset's items are not encoded.
        score_options: of embedders: how the view `scored` is ranked; by default as the model's config says.
        item_columns: of PixRec: item columns that make an item's text; by default as in training.
        store: `"exact"` (in memory), `"lance"` (LanceDB, approximate), or `"auto"`: exact up to 100,000 items.
        batch_size: items per forward pass at most.
        show_progress: draw progress bars.

    Raises:
        ValueError: nothing loadable, vectors of another version, views that the model does not have, no dataset for an
            encoder, or another process that builds this index.
        ImportError: LanceDB is not installed.
    """
    loaded = load_with_processor(model, revision=revision, processor=processor)
    refuse_options(loaded.model_type, ("pixrec",), "PixRec models", item_columns=item_columns)
    refuse_options(loaded.model_type, ("vlm2rec",), "embedders", vectors=vectors, score_options=score_options)
    if store not in ("auto", "exact", LANCE):
        raise ValueError(f"`store` must be auto, exact or lance, got {store!r}.")
    if store == LANCE:
        require_lance()  # before the hours of encoding
    if loaded.model_type in ENCODING_METHODS and dataset is None:
        raise ValueError(f"`dataset` is required: a {loaded.model_type} model knows no items of its own.")
    make = _HeadWork if loaded.model_type not in ENCODING_METHODS else _EncoderWork
    options: Any = (loaded, dataset, views, store, vectors, score_options, item_columns, batch_size, show_progress)
    return write_index(output, lambda: make(*options))


class _EncoderWork:
    """How the rows of an encoder's index come about."""

    def __init__(
        self, loaded: LoadedModel, dataset: RecDataset, views: Any, store: str, vectors: Any,
        score_options: ScoreOptions | None, item_columns: Any, batch_size: int | None, show_progress: bool,
    ) -> None:  # fmt: skip
        self.dataset = dataset
        self.catalogue = encodable_items(loaded, dataset, item_columns, cache_features=False)
        store = store if store != "auto" else _store_of(dataset.n_items)
        scoring = scoring_of(loaded, score_options)
        if vectors is not None:
            needed = [view for view in views or () if view != SCORED]
            if not scoring.is_bare and (views is None or SCORED in views):
                needed += scoring.views
            found: Any = checked_vectors(vectors, loaded, dataset, tuple(dict.fromkeys(needed)) or ("both",))
        else:
            found = encoded_views(loaded, self.catalogue, batch_size=batch_size, show_progress=show_progress)
        self.popularity = dataset.sequences().train_counts()
        self.vectors = _wanted(with_scored_items(found, scoring, self.popularity), views)
        self.side = EncoderSide(
            loaded, dataset, self.catalogue, index=None, item_views=lambda: self.vectors, scoring=scoring,
            batch_size=batch_size,
        )  # fmt: skip
        self.facts = facts_of(loaded, self.vectors, dataset, self.side.item_columns, store, scoring)

    def tables(self, earlier: ItemIndex | None) -> Iterator[pa.Table]:
        """The dataset's items but for those that were changed or deleted before; then these, encoded again."""
        gone = set(earlier.deleted) if earlier else set()
        kept = _kept(earlier)
        places = [i for i, item in enumerate(self.dataset.item_ids) if str(item) not in gone and str(item) not in kept]
        for start in range(0, len(places), ROWS_AT_ONCE):
            part = places[start : start + ROWS_AT_ONCE]
            yield dataset_table(self.facts, self.dataset, {v: m[part] for v, m in self.vectors.items()}, part)
        ids = sorted(kept)
        for start in range(0, len(ids), ROWS_AT_ONCE):
            assert earlier is not None
            yield self.again(earlier.rows(ids[start : start + ROWS_AT_ONCE]))

    def again(self, table: pa.Table) -> pa.Table:
        """Rows of an earlier version under this model; items that were only in its dataset are left out."""
        rows = [
            row
            for row in table.drop_columns([n for n in table.column_names if n.startswith("_vector_")]).to_pylist()
            if row["_source"] == OWN or row["item_id"] in self.side.place
        ]
        if len(rows) < len(table):
            logger.warning(f"{len(table) - len(rows):,} changed items are in the dataset no more; they go with it.")
        place = self.side.place
        known = [row for row in rows if row["item_id"] in place]
        new = [name for name in self.facts.columns if name not in table.column_names]
        if new and known:
            items = self.dataset.items.select_columns(new).select([place[row["item_id"]] for row in known])
            _fill(known, items.with_format("arrow")[:])
        for row in known:  # the prior is made of it: of items of the dataset that this version is made from
            row["_popularity"] = int(self.popularity[place[row["item_id"]]])
        own = [i for i, row in enumerate(rows) if row["_source"] == OWN]
        sources = [self.side.source_from_index(rows[i]) for i in own]
        fresh = self.side.item_views(sources, [rows[i]["_popularity"] for i in own])
        vectors = {view: np.zeros((len(rows), size), np.float32) for view, size in self.facts.views.items()}
        for view, matrix in vectors.items():
            matrix[own] = fresh[view]
            for i, row in enumerate(rows):
                if row["_source"] != OWN:
                    matrix[i] = np.asarray(self.vectors[view][place[row["item_id"]]])
        names = ["item_id", "_popularity", "_source", "_text", "_image", *self.facts.columns]
        return rows_table(self.facts, {name: [row.get(name) for row in rows] for name in names}, vectors)


class _HeadWork:
    """How the rows of a head's index come about."""

    def __init__(self, loaded: LoadedModel, dataset: RecDataset | None, views: Any, store: str, *_: Any) -> None:
        from .head_side import HeadSide

        if views is not None and tuple(views) != ("both",):
            raise ValueError(f"`views` of a head can only be both, got {','.join(views)}.")
        self.index = HeadSide(loaded, dataset, None).index
        store = store if store != "auto" else _store_of(len(self.index))
        self.facts = replace(self.index.facts, store=store)

    def tables(self, earlier: ItemIndex | None) -> Iterator[pa.Table]:
        """The head's items but for those that were deleted before."""
        gone = set(earlier.deleted) if earlier else set()
        ids = [item for item in self.index.item_ids() if item not in gone]
        for start in range(0, len(ids), ROWS_AT_ONCE):
            yield self.index.rows(ids[start : start + ROWS_AT_ONCE])

    def again(self, table: pa.Table) -> pa.Table:
        """Changed rows of an earlier version, with this head's vectors."""
        known = self.index.has(table["item_id"].to_pylist())
        rows = [row for row in table.to_pylist() if row["item_id"] in known]
        ids = [row["item_id"] for row in rows]
        _fill(rows, self.index.rows(ids, [name for name in self.facts.columns if name not in table.column_names]))
        names = ["item_id", "_popularity", "_source", *self.facts.columns]
        return rows_table(self.facts, {n: [row.get(n) for row in rows] for n in names}, self.index.vectors(ids))


def _fill(rows: Sequence[dict[str, Any]], columns: pa.Table) -> None:
    """Put columns that an earlier version did not have into its rows."""
    for row, more in zip(rows, columns.to_pylist(), strict=True):
        row.update(more)


def _store_of(count: int) -> str:
    """Exact for so few items; LanceDB, which must be installed, for more."""
    if count <= EXACT_ITEMS:
        return "exact"
    require_lance()
    return LANCE


def _kept(earlier: ItemIndex | None) -> set[str]:
    """Ids of items that were put in, or whose metadata was changed."""
    if earlier is None:
        return set()
    table = earlier.rows(earlier.item_ids(), ["_source"])
    return {row["item_id"] for row in table.to_pylist() if row["_source"] != FROM_DATASET}


def _wanted(vectors: Any, views: Sequence[str] | None) -> dict[str, Any]:
    """The views to keep.

    Raises:
        ValueError: one that the model does not have.
    """
    if views is None:
        return {view: np.asarray(matrix) for view, matrix in vectors.items()}
    lost = [view for view in views if view not in vectors]
    if lost or not views:
        raise ValueError(f"`views` must be some of {sorted(vectors)}, got {','.join(views) or 'none'}.")
    return {view: np.asarray(vectors[view]) for view in views}
