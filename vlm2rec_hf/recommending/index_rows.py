"""A dataset's items and a model as an index sees them: facts, fingerprint, metadata columns, rows."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..columns import IMAGE, TEXT
from ..evaluation.score_options import ScoreOptions
from ..indexing.rows import IndexFacts, rows_table
from ..loading import LoadedModel

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.dataset import RecDataset

BARE = ScoreOptions()
logger = logging.getLogger(__name__)
_OF_HISTORIES = ("user_instruction", "history_template", "max_history", "max_history_item_tokens", "next_item_prompt")
_NO_SETTINGS = ("self", "image_processor", "tokenizer", "chat_template", "pictures")


def version_of(loaded: LoadedModel) -> str:
    """Which weights a model has: its commit, `sha256:...` of its files, or `weights:...` of those in memory."""
    return loaded.version or f"weights:{_weights_digest(loaded.model)}"


def fingerprint_of(
    loaded: LoadedModel, item_columns: Sequence[str] | None = None, scoring: ScoreOptions = BARE
) -> str:
    """A digest of everything that decides the items' vectors: weights, processor, item columns, score options.

    Returns:
        32 hex digits.
    """
    settings: dict[str, Any] = {"kind": loaded.model_type, "version": version_of(loaded)}
    if not scoring.is_bare:
        settings["scoring"] = scoring.to_dict()
    if loaded.processor is not None:
        names = inspect.signature(type(loaded.processor).__init__).parameters
        wanted = [name for name in names if name not in (*_NO_SETTINGS, *_OF_HISTORIES)]
        settings["processor"] = {name: getattr(loaded.processor, name) for name in wanted}
        settings["image_processor"] = loaded.processor.image_processor.to_dict()
        settings["item_columns"] = list(item_columns or ())
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def facts_of(
    loaded: LoadedModel,
    views: Mapping[str, Any],
    dataset: RecDataset | None,
    item_columns: Sequence[str] | None = None,
    store: str = "exact",
    scoring: ScoreOptions = BARE,
) -> IndexFacts:
    """What an index of a model's item vectors holds.

    Args:
        loaded: the model.
        views: view -> `(n, dim)`.
        dataset: the items; None where a head names them.
        item_columns: of PixRec: the columns that make an item's text.
        store: `"exact"` or `"lance"`.
        scoring: of embedders: how the view `scored` was made.
    """
    encodes = loaded.processor is not None
    return IndexFacts(
        kind=loaded.model_type,
        model=loaded.where,
        revision=version_of(loaded),
        fingerprint=fingerprint_of(loaded, item_columns, scoring),
        views={view: int(matrix.shape[1]) for view, matrix in views.items()},
        metric="cosine" if encodes else "inner",
        summed=getattr(loaded.model.config, "fusion", None) == "external",
        columns={"title": "string"} if dataset is None else metadata_columns(dataset),
        store=store,
        dataset={} if dataset is None else {"name": dataset.name, "fingerprint": dataset.fingerprint},
        scoring=None if scoring.is_bare else scoring.to_dict(),
    )


def metadata_columns(dataset: RecDataset) -> dict[str, str]:
    """The item columns that an index keeps, with their types: texts, numbers and truth values.

    Lists, dates and other types are left out, which is logged.
    """
    import pyarrow.types as kinds

    found, left_out = {}, []
    for part in dataset.items.features.arrow_schema:
        if part.name in ("item_id", IMAGE, TEXT) or part.name.startswith(("_", "$")):
            continue
        if kinds.is_string(part.type) or kinds.is_large_string(part.type):
            found[part.name] = "string"
        elif kinds.is_boolean(part.type):
            found[part.name] = "bool"
        elif kinds.is_integer(part.type):
            found[part.name] = "int64"
        elif kinds.is_floating(part.type):
            found[part.name] = "double"
        else:
            left_out.append(f"{part.name} ({part.type})")
    if left_out:
        logger.info(f"The index leaves out item columns of types it cannot filter by: {', '.join(left_out)}.")
    return found


def dataset_table(
    facts: IndexFacts, dataset: RecDataset, vectors: Mapping[str, Any], places: Sequence[int] | None = None
) -> pa.Table:
    """A dataset's items as rows of an index.

    Args:
        facts: of the index.
        dataset: the items.
        vectors: view -> `(n, dim)`, of all items, or of those at `places`.
        places: which items; all by default.
    """
    columns = [name for name in facts.columns if name in dataset.items.column_names]
    table = dataset.items.select_columns(["item_id", *columns])
    popularity = dataset.popularity()
    chosen = range(dataset.n_items) if places is None else places
    table = table if places is None else table.select(places)
    arrow = table.with_format("arrow")[:]
    values: dict[str, Any] = {name: arrow[name].to_pylist() for name in columns}
    values["item_id"] = [str(dataset.item_ids[i]) for i in chosen]
    values["_popularity"] = [int(popularity[i]) for i in chosen]
    values["_text"] = dataset.item_texts(places)
    return rows_table(facts, values, {view: vectors[view] for view in facts.views})


def head_table(
    facts: IndexFacts, head: Any, vectors: Mapping[str, Any], places: Sequence[int] | None = None
) -> pa.Table:
    """A head's catalogue as rows of an index.

    Args:
        facts: of the index; `title` is the only one of its columns that a head knows.
        head: the head.
        vectors: view -> `(n, dim)` of all its items.
        places: which items; all by default.
    """
    catalogue = head.catalogue
    chosen = range(len(catalogue)) if places is None else places
    known = {"item_id": catalogue.ids, "_popularity": catalogue.popularity.tolist()}
    if facts.columns.get("title") == "string":
        known["title"] = catalogue.titles
    values = {name: [column[i] for i in chosen] for name, column in known.items()}
    return rows_table(facts, values, {view: matrix[list(chosen)] for view, matrix in vectors.items()})


def _weights_digest(model: Any) -> str:
    """SHA-256 of a model's weights in memory: names, shapes and contents."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
