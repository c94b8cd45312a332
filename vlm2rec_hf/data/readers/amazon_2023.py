"""Amazon Reviews 2023 (McAuley lab): `X.jsonl.gz` with `meta_X.jsonl.gz`; products are grouped by `parent_asin`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..dataset import RecDataset
from .amazon_files import LineParser, Vintage, first_file
from .amazon_text import product_row
from .jsonl import json_object


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
    """Read reviews and product metadata of 2023. Addresses of images in them are never fetched.

    Args:
        reviews: the review file (`.jsonl.gz` or `.jsonl`), or a folder with one, and `meta_*` beside it.
        meta: the metadata file, if it lies elsewhere. Without one, items have ids only.
        image_folder: local folder with images named `<parent_asin>.jpg`; by default `images` in the
            folder of the reviews, where a folder is named and it is there.
        all_items: keep products nobody reviewed.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files.
    """
    return _VINTAGE.read(reviews, meta, image_folder, all_items, kwargs)


def _meta_parser(reviewed: set[str], all_items: bool, counts: Counter[str]) -> LineParser:
    def parse(line: str) -> dict[str, Any] | None:
        row = json_object(line)
        key = row.get("parent_asin")
        if not isinstance(key, str) or not key:
            raise ValueError("no parent_asin")
        return product_row(row, key, counts) if all_items or key in reviewed else None

    return parse


def _meta_beside(reviews: Path) -> Path | None:
    core = reviews.name.removesuffix(".gz").removesuffix(".jsonl")
    return first_file(reviews.parent, [f"meta_{core}.jsonl.gz", f"meta_{core}.jsonl"])


_VINTAGE = Vintage(
    columns=("user_id", "parent_asin", "rating", "timestamp"),
    timestamp_unit="ms",
    layout="X.jsonl.gz with meta_X.jsonl.gz",
    review_file=review_file,
    meta_beside=_meta_beside,
    meta_parser=_meta_parser,
)
