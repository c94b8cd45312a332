"""Amazon reviews of 2014 and 2018 (McAuley lab): `reviews_X_5.json.gz` or `X_5.json.gz`, with `meta_X.json.gz`."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vlm2rec_hf.columns import ITEM_ID, RATING, TEXT, TIMESTAMP, TITLE, USER_ID
from vlm2rec_hf.data import quarantine as q
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers.amazon_text import product_row
from vlm2rec_hf.data.readers.image_folder import with_images
from vlm2rec_hf.data.readers.jsonl import json_object, parse_lines, read_json_lines

_REVIEW = pa.schema(
    [("reviewerID", pa.string()), ("asin", pa.string()), ("overall", pa.float64()), ("unixReviewTime", pa.int64())]
)
_NAMES = [USER_ID, ITEM_ID, RATING, TIMESTAMP]
_ITEM = pa.schema([(name, pa.string()) for name in (ITEM_ID, TITLE, "brand", "category", TEXT)])
_ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""")
_PATTERNS = ("reviews_*.json.gz", "reviews_*.json", "*_5.json.gz", "*_5.json")


def review_file(folder: Path) -> Path | None:
    """The reviews of a folder, if it holds exactly one such file."""
    found = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    found = {path for path in found if not path.name.startswith("meta_")}
    return found.pop() if len(found) == 1 else None


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return review_file(folder) is not None


def read_amazon_2014(
    reviews: str | Path,
    meta: str | Path | None = None,
    *,
    image_folder: str | Path | None = None,
    all_items: bool = False,
    **kwargs: Any,
) -> RecDataset:
    """Read the reviews and product metadata of 2014 or 2018. Addresses of pictures in them are never fetched.

    Metadata lines are Python literals in 2014 and JSON in 2018; both are read, neither is executed. Lines that parse
    as neither go to the quarantine.

    Args:
        reviews: the review file (`.json.gz` or `.json`), or a folder with one, and `meta_*.json.gz` beside it.
        meta: the metadata file, if it lies elsewhere. Without one, items have ids only.
        image_folder: local folder with pictures named `<asin>.jpg`.
        all_items: keep products nobody reviewed (most of the metadata).
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files.
    """
    source = Path(reviews)
    if source.is_dir():
        found = review_file(source)
        if found is None:
            raise ValueError(
                f"`reviews` {str(source)!r} does not hold exactly one reviews_*.json.gz or *_5.json.gz; name the file."
            )
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
    items, bad_meta = (_ITEM.empty_table(), q.empty()) if meta is None else read_meta(Path(meta), reviewed, all_items)
    if image_folder is not None:
        items = with_images(with_bare_rows(items, reviewed), image_folder)
    options: dict[str, Any] = {"timestamp_unit": "s", "unknown_items": "keep", **kwargs}
    return RecDataset.from_tables(events, items, quarantine=q.concat([bad, bad_meta]), **options)


def read_meta(path: Path, reviewed: set[str], all_items: bool) -> tuple[pa.Table, pa.Table]:
    """Item rows of a metadata file, and the quarantine of its bad lines."""

    def parse(line: str) -> dict[str, Any] | None:
        # Parsing a literal is slow and most products were never reviewed: look for the id first.
        found = _ASIN.search(line)
        if found and not all_items and found.group(1) not in reviewed:
            return None
        row = _literal_or_json(line)
        asin = row.get("asin")
        if not isinstance(asin, str) or not asin:
            raise ValueError("no asin")
        return product_row(row, asin) if all_items or asin in reviewed else None

    rows, bad = parse_lines(path, parse)
    return pa.Table.from_pylist(rows, schema=_ITEM), q.of_lines(bad, table=path.name)


def with_bare_rows(items: pa.Table, reviewed: set[str]) -> pa.Table:
    """The items, and a row without text for every reviewed id that the metadata lacks: it may have a picture."""
    missing = sorted(reviewed - set(items[ITEM_ID].to_pylist()))
    return pa.concat_tables([items, pa.table({ITEM_ID: pa.array(missing, pa.string())})], promote_options="default")


def _meta_beside(reviews: Path) -> Path | None:
    core = reviews.name.removesuffix(".gz").removesuffix(".json").removesuffix("_5").removeprefix("reviews_")
    for ending in (".json.gz", ".json"):
        candidate = reviews.with_name(f"meta_{core}{ending}")
        if candidate.is_file():
            return candidate
    return None


def _literal_or_json(line: str) -> dict[str, Any]:
    try:
        return json_object(line)
    except ValueError:
        pass  # 2014: a Python literal with single quotes
    try:
        row = ast.literal_eval(line)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError("neither JSON nor a Python literal") from error
    if not isinstance(row, dict):
        raise ValueError("not a mapping")
    return row
