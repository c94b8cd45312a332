"""Put items into an index: text and image encoded on the way, or only what is known of the item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.images import encode_png
from ..indexing.item_index import ItemIndex
from ..indexing.rows import EDITED, FROM_DATASET, OWN
from .encoder_side import EncoderSide


def upsert_items(side: EncoderSide, index: ItemIndex, items: Sequence[Mapping[str, Any]]) -> int:
    """Put items in, or in the place of items of the same ids; see `Recommender.upsert`.

    Args:
        side: encodes.
        index: of its vectors.
        items: `item_id`, `text` and/or `image`, and metadata.

    Returns:
        How many items were encoded.
    """
    rows = [_checked(row, index) for row in items]
    known = {row["item_id"]: row for row in index.rows([row["item_id"] for row in rows]).to_pylist()}
    encoded = [row for row in rows if "text" in row or "image" in row or row["item_id"] not in known]
    sources = [side.source(row) for row in encoded]
    for row, source in zip(encoded, sources, strict=True):
        if not source["text"] and source["image"] is None:
            raise ValueError(f"`items`: {row['item_id']!r} needs a text or an image.")
    seen = [known.get(row["item_id"], {}).get("_popularity", 0) for row in encoded]
    fresh = side.item_views(sources, seen)
    place = {row["item_id"]: i for i, row in enumerate(encoded)}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("item_id", *index.facts.columns, "_popularity", "_source", "_text", "_image")
    }
    vectors: dict[str, list[Any]] = {view: [] for view in index.facts.views}
    for row in rows:
        item, before = row["item_id"], known.get(row["item_id"], {})
        columns["item_id"].append(item)
        for name in index.facts.columns:
            columns[name].append(row[name] if name in row else before.get(name))
        columns["_popularity"].append(before.get("_popularity", 0))
        if item in place:
            source = sources[place[item]]
            columns["_source"].append(OWN)
            columns["_text"].append(source["text"])
            columns["_image"].append(None if source["image"] is None else encode_png(source["image"]))
        else:
            columns["_source"].append(EDITED if before["_source"] == FROM_DATASET else before["_source"])
            columns["_text"].append(before["_text"])
            columns["_image"].append(before["_image"])
        for view, column in vectors.items():
            column.append(fresh[view][place[item]] if item in place else before[f"_vector_{view}"])
    matrices = {view: np.array(column, np.float32).reshape(len(rows), -1) for view, column in vectors.items()}
    index.upsert(columns, matrices, fingerprint=side.fingerprint)
    return len(encoded)


def _checked(row: Any, index: ItemIndex) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("item_id"), (str, int)) or not str(row["item_id"]):
        raise ValueError(f"`items` must hold mappings with an `item_id`, got {row!r:.100}.")
    unknown = [name for name in row if name not in ("item_id", "text", "image", *index.facts.columns)]
    if unknown:
        raise ValueError(
            f"`items`: {row['item_id']!r:.80} holds {unknown[0]!r:.80}, which is no column of this index: "
            f"{list(index.facts.columns)}."
        )
    return {**row, "item_id": str(row["item_id"])}
