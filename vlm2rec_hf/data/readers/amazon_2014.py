"""Amazon reviews of 2014 and 2018 (McAuley lab): `reviews_X_5.json.gz` or `X_5.json.gz`, with `meta_X.json.gz`."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..dataset import RecDataset
from .amazon_files import LineParser, Vintage, first_file
from .amazon_text import product_row
from .jsonl import json_object

_ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""")
_PATTERNS = ("reviews_*.json.gz", "reviews_*.json", "*_5.json.gz", "*_5.json")


def review_file(folder: Path) -> Path | None:
    """The reviews of a folder, if it holds exactly one such file."""
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    paths = {path for path in paths if not path.name.startswith("meta_")}
    return paths.pop() if len(paths) == 1 else None


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
    """Read the reviews and product metadata of 2014 or 2018. Addresses of images in them are never fetched.

    Metadata lines are Python literals in 2014 and JSON in 2018; both are read, neither is executed. Lines that parse
    as neither go to the quarantine.

    Args:
        reviews: the review file (`.json.gz` or `.json`), or a folder with one, and `meta_*.json.gz` beside it.
        meta: the metadata file, if it lies elsewhere. Without one, items have ids only.
        image_folder: local folder with images named `<asin>.jpg`; by default `images` in the
            folder of the reviews, where a folder is named and it is there.
        all_items: keep products nobody reviewed (most of the metadata).
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files.
    """
    return _VINTAGE.read(reviews, meta, image_folder, all_items, kwargs)


def _meta_parser(reviewed: set[str], all_items: bool, counts: Counter[str]) -> LineParser:
    def parse(line: str) -> dict[str, Any] | None:
        # Parsing a literal is slow and most products were never reviewed: look for the id first.
        match = _ASIN.search(line)
        if match and not all_items and match.group(1) not in reviewed:
            return None
        row = _literal_or_json(line)
        asin = row.get("asin")
        if not isinstance(asin, str) or not asin:
            raise ValueError("no asin")
        return product_row(row, asin, counts) if all_items or asin in reviewed else None

    return parse


def _meta_beside(reviews: Path) -> Path | None:
    core = reviews.name.removesuffix(".gz").removesuffix(".json").removesuffix("_5").removeprefix("reviews_")
    return first_file(reviews.parent, [f"meta_{core}.json.gz", f"meta_{core}.json"])


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


_VINTAGE = Vintage(
    columns=("reviewerID", "asin", "overall", "unixReviewTime"),
    timestamp_unit="s",
    layout="reviews_*.json.gz or *_5.json.gz",
    review_file=review_file,
    meta_beside=_meta_beside,
    meta_parser=_meta_parser,
)
