"""Put items into an index: text and image encoded on the way, or only what is known of the item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.images import encode_png
from ..data.text import sound
from ..indexing.item_index import ItemIndex
from ..indexing.rows import EDITED, FROM_DATASET, OWN
from .encoder_side import EncoderSide
from .scored_view import with_scored_items


def upsert_items(side: EncoderSide, index: ItemIndex, items: Sequence[Mapping[str, Any]]) -> int:
    """Put items in, or in the place of items of the same ids; see `Recommender.upsert`.

    Args:
        side: encodes.
        index: of its vectors.
        items: `item_id`, `text` and/or `image`, and metadata.

    Returns:
        How many items were encoded.
    """
    index.refresh()
    if not len(items):
        return 0
    rows = [_checked(row, index) for row in items]
    known = _known(rows, index)
    encoded = [row for row in rows if "text" in row or "image" in row or row["item_id"] not in known]
    sources = [side.source(row) for row in encoded]
    for row, source in zip(encoded, sources, strict=True):
        if not source["text"] and source["image"] is None:
            raise _nothing_to_encode(row)
    fresh = side.item_views(sources)
    images = [None if source["image"] is None else encode_png(source["image"]) for source in sources]
    place = {row["item_id"]: i for i, row in enumerate(encoded)}
    with index.changing():  # what is not named stays as others left it while this one was encoding
        rows = [_checked(row, index) for row in rows]
        known = _known(rows, index)
        seen = [known.get(row["item_id"], {}).get("_popularity", 0) for row in encoded]
        fresh = with_scored_items(fresh, side.scoring, seen)
        columns: dict[str, list[Any]] = {
            name: [] for name in ("item_id", *index.facts.columns, "_popularity", "_source", "_text", "_image")
        }
        vectors: dict[str, list[Any]] = {view: [] for view in index.facts.views}
        for row in rows:
            item, before = row["item_id"], known.get(row["item_id"], {})
            if not before and item not in place:
                raise _nothing_to_encode(row)
            columns["item_id"].append(item)
            for name in index.facts.columns:
                columns[name].append(row[name] if name in row else before.get(name))
            columns["_popularity"].append(before.get("_popularity", 0))
            if item in place:
                columns["_source"].append(OWN)
                columns["_text"].append(sources[place[item]]["text"])
                columns["_image"].append(images[place[item]])
            else:
                columns["_source"].append(EDITED if before["_source"] == FROM_DATASET else before["_source"])
                columns["_text"].append(before["_text"])
                columns["_image"].append(before["_image"])
            for view, column in vectors.items():
                column.append(fresh[view][place[item]] if item in place else before[f"_vector_{view}"])
        matrices = {view: np.array(column, np.float32).reshape(len(rows), -1) for view, column in vectors.items()}
        index.upsert(columns, matrices, fingerprint=side.fingerprint)
    return len(encoded)


def _known(rows: Sequence[Mapping[str, Any]], index: ItemIndex) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in index.rows([row["item_id"] for row in rows]).to_pylist()}


def _nothing_to_encode(row: Mapping[str, Any]) -> ValueError:
    return ValueError(f"`items`: {row['item_id']!r} needs a text or an image.")


def _checked(row: Any, index: ItemIndex) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("item_id"), (str, int)) or not str(row["item_id"]):
        raise ValueError(f"`items` must hold mappings with an `item_id`, got {row!r:.100}.")
    unknown = [name for name in row if name not in ("item_id", "text", "image", *index.facts.columns)]
    if unknown:
        raise ValueError(
            f"`items`: {row['item_id']!r:.80} holds {unknown[0]!r:.80}, which is no column of this index: "
            f"{list(index.facts.columns)}."
        )
    item = str(row["item_id"])
    if sound(item) != item:
        raise ValueError(f"`items`: the `item_id` {item!r:.80} holds half a character; give it another one.")
    # Half a character cannot be kept; what is encoded in its place is what is kept.
    texts = {name: sound(value) for name, value in row.items() if isinstance(value, str)}
    return {**row, **texts, "item_id": item}
