"""Embed one shard of a catalogue: its vectors, and what was wrong with its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..columns import IMAGE, ITEM_ID, VIEWS
from ..data import quarantine as q
from ..data.catalogue_items import CatalogueItems
from ..data.images import try_decode_image
from ..data.items import has_image, has_only_image_path
from ..evaluation.embedder import encode_catalogue
from .earlier import CONTENT, EarlierVectors, content_digests

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..modeling.modeling_vlm2rec import Encoding, VLM2RecEmbedder
    from ..modeling.processing_vlm2rec import VLM2RecProcessor

EMPTY = "neither_text_nor_image"
_ROWS_AT_ONCE = 64  # images looked at together, so that a shard's bytes are never all in memory


def embed_items(
    dataset: RecDataset,
    rows: range,
    model: VLM2RecEmbedder,
    processor: VLM2RecProcessor,
    *,
    batch_size: int = 64,
    earlier: EarlierVectors | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Embed consecutive items of a catalogue.

    Args:
        dataset: where the items live.
        rows: their places in the catalogue.
        model: the embedder.
        processor: made for its backbone.
        batch_size: items per forward pass.
        earlier: vectors of unchanged items, which are not encoded again.

    Returns:
        The vectors, one row per item: `item_id`, `both`, `text`, `image` (float32 lists; zeros where absent),
        `has_text`, `has_image`, `content` (a digest of text, image and features); and the bad rows in the form of a
        dataset's quarantine: images that do not decode (`image:<reason>`, the item is embedded by its text) and items
        with nothing to embed (`neither_text_nor_image`, zero vectors). `number` is the place in the catalogue.

    Raises:
        ValueError: vectors that are not finite.
    """
    items = CatalogueItems(dataset, rows)
    ids, digests = items.item_ids, content_digests(items)
    places = np.full(len(ids), -1) if earlier is None else earlier.rows_of(ids.tolist(), digests)
    wanted = np.flatnonzero(places < 0)
    encoding = encode_catalogue(model, PreparedCatalogue(items, processor), wanted, batch_size=batch_size)
    if earlier is not None and len(wanted) < len(ids):
        encoding = _with_earlier(encoding, wanted, earlier.read(places[places >= 0]), places)
    _check_finite(encoding, ids)
    columns = {"item_id": pa.array(ids.tolist(), pa.string())}
    for view in VIEWS:
        matrix = encoding.view(view).numpy()
        columns[view] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    columns["has_text"], columns["has_image"] = (
        pa.array(encoding.has_text.numpy()),
        pa.array(encoding.has_image.numpy()),
    )
    columns[CONTENT] = pa.array(digests, pa.string())
    return pa.table(columns), _bad_rows(dataset, rows, ids, encoding)


def with_facts(table: pa.Table, facts: Mapping[str, str], quarantined: Mapping[str, int]) -> pa.Table:
    """The table with facts about it in its schema, the counts of bad rows among them."""
    return table.replace_schema_metadata({**facts, "quarantined": json.dumps(dict(quarantined))})


def _with_earlier(new: Encoding, wanted: np.ndarray, known: pa.Table, places: np.ndarray) -> Encoding:
    """The encoding of all items: new rows at `wanted`, earlier ones (in order) where `places` has them."""
    old = torch.from_numpy(np.flatnonzero(places >= 0))

    def joined(name: str) -> torch.Tensor:
        part: torch.Tensor = getattr(new, name)
        column = known[name].combine_chunks()
        rows = column.flatten().to_numpy() if name in VIEWS else np.asarray(column)
        whole = part.new_zeros((len(places), *part.shape[1:]))
        whole[torch.from_numpy(wanted)] = part
        whole[old] = torch.from_numpy(rows.reshape(len(known), *part.shape[1:]).copy()).to(part)
        return whole

    return replace(new, **{name: joined(name) for name in (*VIEWS, "has_text", "has_image")})


def _check_finite(encoding: Encoding, ids: np.ndarray) -> None:
    fine = (
        torch.isfinite(encoding.both).all(1)
        & torch.isfinite(encoding.text).all(1)
        & torch.isfinite(encoding.image).all(1)
    )
    if not bool(fine.all()):
        bad = ids[~fine.numpy()]
        raise ValueError(
            f"`--model` gives vectors that are not finite for {len(bad)} of {len(ids)} items, such as {bad[0]!r}; "
            "try `--model_dtype float32`, or check its weights."
        )


def _bad_rows(dataset: RecDataset, rows: range, ids: np.ndarray, encoding: Encoding) -> pa.Table:
    """Quarantine of the shard, in catalogue order within each kind."""
    reasons: list[tuple[int, str, str | None]] = []
    seen = encoding.has_image.numpy()
    if IMAGE in dataset.items.column_names:
        images = dataset.items.select_columns([IMAGE]).with_format("arrow")
        for start in range(rows.start, rows.stop, _ROWS_AT_ONCE):
            table = images[start : min(start + _ROWS_AT_ONCE, rows.stop)]
            lost = has_image(table) & ~seen[start - rows.start : start - rows.start + table.num_rows]
            for row in np.flatnonzero(lost).tolist():
                reason = dataset.image_problems.get(start + row)
                reason = reason or try_decode_image(table[IMAGE][row].as_py()["bytes"])[1] or "corrupt"
                reasons.append((start + row, f"image:{reason}", IMAGE))
            reasons += [
                (start + int(row), "image:no_bytes", IMAGE) for row in np.flatnonzero(has_only_image_path(table))
            ]
    nothing = np.flatnonzero(~(encoding.has_text | encoding.has_image).numpy())
    reasons += [(rows.start + int(row), EMPTY, None) for row in nothing]
    parts = []
    for number, reason, column in sorted(reasons, key=lambda one: (one[0], one[1] == EMPTY)):
        row = pa.table({ITEM_ID: [str(ids[number - rows.start])]})
        parts.append(q.of_rows(row, np.array([number]), table="items", reason=reason, column=column))
    return q.concat(parts)
