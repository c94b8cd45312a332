"""Amazon Reviews 2023 (McAuley lab): `X.jsonl.gz` with `meta_X.jsonl.gz`; products are grouped by `parent_asin`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vlm2rec_hf.columns import ITEM_ID, RATING, TEXT, TIMESTAMP, TITLE, USER_ID
from vlm2rec_hf.data import quarantine as q
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers.amazon_2014 import with_bare_rows
from vlm2rec_hf.data.readers.amazon_text import product_row
from vlm2rec_hf.data.readers.image_folder import with_images
from vlm2rec_hf.data.readers.jsonl import json_object, parse_lines, read_json_lines

_REVIEW = pa.schema(
    [("user_id", pa.string()), ("parent_asin", pa.string()), ("rating", pa.float64()), ("timestamp", pa.int64())]
)
_NAMES = [USER_ID, ITEM_ID, RATING, TIMESTAMP]
_ITEM = pa.schema([(name, pa.string()) for name in (ITEM_ID, TITLE, "brand", "category", TEXT)])


def review_file(folder: Path) -> Path | None:
    """The reviews of a folder: the one file that has a `meta_` file beside it."""
    pairs = {
        path
        for ending in (".jsonl.gz", ".jsonl")
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith("meta_") and _meta_beside(path) is not None
    }
    return pairs.pop() if len(pairs) == 1 else None


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return review_file(folder) is not None


def read_amazon_2023(
    reviews: str | Path,
    meta: str | Path | None = None,
    *,
    image_folder: str | Path | None = None,
    all_items: bool = False,
    **kwargs: Any,
) -> RecDataset:
    """Read reviews and product metadata of 2023. Addresses of pictures in them are never fetched.

    Args:
        reviews: the review file (`.jsonl.gz` or `.jsonl`), or a folder with one, and `meta_*` beside it.
        meta: the metadata file, if it lies elsewhere. Without one, items have ids only.
        image_folder: local folder with pictures named `<parent_asin>.jpg`.
        all_items: keep products nobody reviewed.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files.
    """
    source = Path(reviews)
    if source.is_dir():
        found = review_file(source)
        if found is None:
            raise ValueError(f"`reviews` {str(source)!r} does not hold exactly one X.jsonl.gz with meta_X.jsonl.gz.")
        kwargs.setdefault("name", source.name)
        source = found
    if not source.is_file():
        raise ValueError(f"There is no file `reviews` {str(source)!r}.")
    if meta is None:
        meta = _meta_beside(source)
    elif not Path(meta).is_file():
        raise ValueError(f"There is no file `meta` {str(meta)!r}.")
    events, bad = read_json_lines(source, _REVIEW)
    events = events.rename_columns(_NAMES)
    reviewed = set(pc.unique(events[ITEM_ID]).to_pylist()) - {None, ""}
    items, bad_meta = (_ITEM.empty_table(), q.empty()) if meta is None else _read_meta(Path(meta), reviewed, all_items)
    if image_folder is not None:
        items = with_images(with_bare_rows(items, reviewed), image_folder)
    options: dict[str, Any] = {"timestamp_unit": "ms", "unknown_items": "keep", **kwargs}
    return RecDataset.from_tables(events, items, quarantine=q.concat([bad, bad_meta]), **options)


def _read_meta(path: Path, reviewed: set[str], all_items: bool) -> tuple[pa.Table, pa.Table]:
    def parse(line: str) -> dict[str, Any] | None:
        row = json_object(line)
        key = row.get("parent_asin")
        if not isinstance(key, str) or not key:
            raise ValueError("no parent_asin")
        return product_row(row, key) if all_items or key in reviewed else None

    rows, bad = parse_lines(path, parse)
    return pa.Table.from_pylist(rows, schema=_ITEM), q.of_lines(bad, table=path.name)


def _meta_beside(reviews: Path) -> Path | None:
    core = reviews.name.removesuffix(".gz").removesuffix(".jsonl")
    for ending in (".jsonl.gz", ".jsonl"):
        candidate = reviews.with_name(f"meta_{core}{ending}")
        if candidate.is_file():
            return candidate
    return None
