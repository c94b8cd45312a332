"""H&M's fashion data as Kaggle ships it: `transactions_train.csv`, `articles.csv`, `images/010/0108775015.jpg`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...columns import DESCRIPTION, IMAGE, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..images import ImagePath
from ..interaction_log import POSITION, sort_order, user_offsets
from ..items import IMAGE_TYPE, image_cell
from ..timestamps import parse_timestamps
from .file_tables import read_csv_bytes
from .jsonl import blocks, open_bytes

if TYPE_CHECKING:
    import polars as pl

TRANSACTIONS, ARTICLES, IMAGES = "transactions_train.csv", "articles.csv", "images"

_EVENTS = {"customer_id": USER_ID, "article_id": ITEM_ID, "t_dat": TIMESTAMP}
_ATTRIBUTES = {
    "product_type_name": "product_type",
    "colour_group_name": "colour",
    "graphical_appearance_name": "appearance",
    "department_name": "department",
}
_ITEMS = {"article_id": ITEM_ID, "prod_name": TITLE, **_ATTRIBUTES, "detail_desc": DESCRIPTION}
_BOUGHT = "n_ratings"
_PLAIN_ID = re.compile(r"[0-9A-Za-z_-]+")


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return (folder / TRANSACTIONS).is_file() and (folder / ARTICLES).is_file()


def read_hm(
    folder: str | Path, *, image_folder: str | Path | None = None, all_items: bool = False, **kwargs: Any
) -> RecDataset:
    """Read the H&M folder.

    A day is all that the file says of the time: `timestamp` is its midnight (UTC) in seconds, and `position` keeps the
    order of the file within a user. A second line of one user, article and day has the position of the first, so that
    `duplicates` finds it. Of the articles, name, type, colour, appearance, department and description are read, and
    joined to the item's `text` (our choice); `n_ratings` is how many lines name the article. Prices, channels and the
    codes beside the names are not read; for those, name the columns to `read_delimited`.

    Args:
        folder: holds `transactions_train.csv` and `articles.csv`.
        image_folder: images as `010/0108775015.jpg`; by default `images` in the folder, where it is there. They are
            read whole: the 30 GB of the competition are better made smaller first.
        all_items: keep articles that nobody bought, too.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: a file or column that is not there, or `image_folder` is no folder.
    """
    folder = Path(folder)
    if not matches(folder):
        raise ValueError(f"`folder` {str(folder)!r} has no {TRANSACTIONS} and {ARTICLES}.")
    images = folder / IMAGES if image_folder is None else Path(image_folder)
    if image_folder is not None and not images.is_dir():
        raise ValueError(f"`image_folder` {str(image_folder)!r} is not a folder.")
    events, bad_events = _transactions(folder / TRANSACTIONS)
    bought = pc.value_counts(events[ITEM_ID].cast(pa.string()))
    counts = dict(zip(bought.field(0).to_pylist(), bought.field(1).to_pylist(), strict=True))
    items, bad_items = _articles(folder / ARTICLES, counts, all_items)
    if images.is_dir():
        items = items.append_column(IMAGE, _images(items[ITEM_ID].to_pylist(), images))
    unit = "s" if pa.types.is_integer(events[TIMESTAMP].type) else None
    options: dict[str, Any] = {"name": folder.name, "timestamp_unit": unit, **kwargs}
    return RecDataset.from_tables(events, items, quarantine=q.concat([bad_events, bad_items]), **options)


def _transactions(path: Path) -> tuple[pa.Table, pa.Table]:
    """User and item as categories, timestamp, position; and the quarantine. Millions of long ids never lie there."""
    import polars as pl

    parts: dict[str, list[pl.Series]] = {name: [] for name in _EVENTS.values()}
    bad: list[pa.Table] = []
    for rows, lines in _csv_blocks(path, list(_EVENTS)):
        bad.append(lines)
        for old, new in _EVENTS.items():
            parts[new].append(pl.Series(new, rows[old].combine_chunks()).cast(pl.Categorical))
    columns = {name: pl.concat(part, rechunk=True) for name, part in parts.items()}
    events = pl.DataFrame(columns).to_arrow(compat_level=pl.CompatLevel.oldest())
    times = parse_timestamps(events[TIMESTAMP], argument="t_dat")
    if times.unit != "ms" or np.any(times.values % 1000):
        return events, q.concat(bad)  # no days: the rule for all tables does better
    if not times.ok.all():
        lost = events.filter(pa.array(~times.ok)).cast(pa.schema([(n, pa.string()) for n in events.column_names]))
        rows = np.flatnonzero(~times.ok)
        bad.append(q.of_rows(lost, rows, table="interactions", reason="bad_timestamp", column=TIMESTAMP))
        events = events.filter(pa.array(times.ok))
        columns = {name: column.filter(pl.Series(times.ok)) for name, column in columns.items()}
    seconds = times.values[times.ok] // 1000
    events = events.set_column(events.column_names.index(TIMESTAMP), TIMESTAMP, pa.array(seconds))
    # Rows without an id are among no user's: they have a code of their own.
    user, item = (columns[name].to_physical().cast(pl.Int64).fill_null(-1) + 1 for name in (USER_ID, ITEM_ID))
    position = _positions(user, item, seconds)
    return events.append_column(POSITION, pa.array(position)), q.concat(bad)


def _csv_blocks(path: Path, needed: list[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """A large file without line breaks in its fields, some megabytes at a time: rows as text, and bad lines."""
    with open_bytes(path) as file:
        header = file.readline()
    names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").rstrip("\r\n").split(",")]
    _require(path, names, needed)
    for first, lines in blocks(path):
        data = b"".join(lines[1:] if first == 1 else lines)
        if not data.strip():
            continue
        rows, bad = read_csv_bytes(data, path.name, separator=",", ids=names, columns=names)
        numbers = pc.add(bad["number"], first - 1 + (first == 1))
        yield rows.select(needed), bad.set_column(bad.column_names.index("number"), "number", numbers)


def _positions(user: pl.Series, item: pl.Series, seconds: np.ndarray) -> np.ndarray:
    """The place of each row within its user by time and file; repeated rows share that of the first."""
    import polars as pl

    order = sort_order(user.to_numpy(), [seconds])
    order = np.arange(len(user)) if order is None else order
    users = user.to_numpy()[order]
    offsets = user_offsets(users, int(users.max(initial=-1)) + 1)
    position = np.empty(len(user), dtype=np.int64)
    position[order] = np.arange(len(user)) - offsets[users]
    frame = pl.DataFrame({"user": user, "item": item, "seconds": seconds}).with_row_index("row")
    first = frame.select(pl.col("row").min().over("user", "item", "seconds"))["row"]
    return position[first.to_numpy()]


def _articles(path: Path, counts: dict[str, int], all_items: bool) -> tuple[pa.Table, pa.Table]:
    import polars as pl

    with open_bytes(path) as file:
        table, bad = read_csv_bytes(file.read(), path.name, separator=",", ids=list(_ITEMS))
    _require(path, table.column_names, ["article_id", "prod_name"])
    there = {old: new for old, new in _ITEMS.items() if old in table.column_names}
    items = pl.DataFrame({new: pl.Series(table[old].combine_chunks()) for old, new in there.items()})
    # A row without id stays: it is counted with the others that have none.
    bought = items[ITEM_ID].replace_strict(counts, default=0, return_dtype=pl.Int64)
    items = items.with_columns(bought.alias(_BOUGHT))
    if not all_items:
        items = items.filter((pl.col(_BOUGHT) > 0) | pl.col(ITEM_ID).is_null())
    attributes = [new for new in _ATTRIBUTES.values() if new in items.columns]
    sentences = [pl.col(TITLE) + "."]
    if attributes:
        sentences.append(pl.concat_str(attributes, separator=", ", ignore_nulls=True).replace("", None) + ".")
    if DESCRIPTION in items.columns:
        sentences.append(pl.col(DESCRIPTION))
    items = items.with_columns(pl.concat_str(sentences, separator=" ", ignore_nulls=True).alias(TEXT))
    return items.to_arrow(compat_level=pl.CompatLevel.oldest()), bad


def _images(ids: list[str | None], folder: Path) -> pa.ChunkedArray:
    def cell(item: str | None) -> dict[str, Any] | None:
        # An id is no path: what could lead out of the folder names no image.
        path = folder / item[:3] / f"{item}.jpg" if item and _PLAIN_ID.fullmatch(item) else None
        return image_cell(ImagePath(path), 0) if path is not None and path.is_file() else None

    chunks = [pa.array(map(cell, ids[start : start + 1024]), IMAGE_TYPE) for start in range(0, len(ids), 1024)]
    return pa.chunked_array(chunks, IMAGE_TYPE)


def _require(path: Path, names: list[str], needed: list[str]) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(f"{path.name} has no columns {missing}; its columns are {names}.")
