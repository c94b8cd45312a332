"""PixelRec as its authors ship it: `Pixel200K.csv` of interactions, another of items, and a folder of covers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...columns import DESCRIPTION, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..timestamps import is_calendar
from .file_tables import read_csv_bytes
from .image_folder import with_images
from .jsonl import open_bytes

_TAG = "tag"
_COVERS = ("cover", "covers", "images")
_ITEM_FILES = ("item_info.csv",)


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return bool(_tables(folder)[0])


def read_pixelrec(
    folder: str | Path, *, subset: str | None = None, image_folder: str | Path | None = None, **kwargs: Any
) -> RecDataset:
    """Read a PixelRec folder. The text of an item is its title, tag and description (our choice).

    The tables of one subset have one name in two folders (`pixelrec_interaction/Pixel200K.csv` and
    `pixelrec_iteminfo/Pixel200K.csv`, or `dataset` and `information`): their first lines tell which is which. The
    items may also be called `item_info.csv`, and the tables may lie in the folder itself.

    Args:
        folder: holds the tables, at most one folder down.
        subset: such as "Pixel1M", where there are several.
        image_folder: covers named by item id (`i7.jpg`); by default `cover`, `covers` or `images` in the folder.
        **kwargs: passed to `RecDataset.from_tables`. `timestamp_unit` is "s" where the times are numbers.

    Raises:
        ValueError: no interactions, or several and no `subset`.
    """
    folder = Path(folder)
    interactions, items = _tables(folder)
    chosen = [path for path in interactions if subset is None or path.stem == subset]
    if len(chosen) != 1:
        there = sorted(path.stem for path in interactions)
        raise ValueError(f"`subset` {subset!r} must name one of the interactions of {str(folder)!r}: {there}.")
    events, bad_events = _read(chosen[0], [USER_ID, ITEM_ID, TIMESTAMP])
    named = sorted((path for path in items if path.stem == chosen[0].stem), key=str)
    # One item table serves all subsets: ids are the same everywhere.
    item_file = next(iter(named), None) or next((path for path in items if path.name in _ITEM_FILES), None)
    if item_file is None:
        catalogue, bad_items = pa.table({ITEM_ID: events[ITEM_ID].unique().drop_null()}), q.empty()
    else:
        catalogue, bad_items = _read(item_file, [ITEM_ID, TITLE, _TAG, DESCRIPTION])
        catalogue = _with_text(catalogue)
    covers = next((folder / name for name in _COVERS if (folder / name).is_dir()), None)
    if image_folder is not None or covers is not None:
        catalogue = with_images(catalogue, image_folder if image_folder is not None else covers)  # type: ignore[arg-type]
    unit = "s" if not is_calendar(events[TIMESTAMP]) else None
    options: dict[str, Any] = {"name": chosen[0].stem, "timestamp_unit": unit, **kwargs}
    return RecDataset.from_tables(events, catalogue, quarantine=q.concat([bad_events, bad_items]), **options)


def _tables(folder: Path) -> tuple[list[Path], list[Path]]:
    """The tables of interactions and those of items, by what their first line names."""
    files = [
        path for depth in ("", "*/") for name in ("Pixel*.csv", *_ITEM_FILES) for path in folder.glob(depth + name)
    ]
    interactions, items = [], []
    for path in files:
        names = set(_header(path))
        if {ITEM_ID, USER_ID, TIMESTAMP} <= names:
            interactions.append(path)
        elif {ITEM_ID, TITLE} <= names:
            items.append(path)
    return interactions, items


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with open_bytes(path) as file:
        line = file.readline(65536).decode("utf-8", "replace")
    return next(csv.reader(io.StringIO(line)), [])


def _read(path: Path, texts: list[str]) -> tuple[pa.Table, pa.Table]:
    with open_bytes(path) as file:
        return read_csv_bytes(file.read(), path.name, separator=",", ids=texts)


def _with_text(items: pa.Table) -> pa.Table:
    import polars as pl

    frame = pl.DataFrame({name: pl.Series(items[name].combine_chunks()) for name in items.column_names})
    parts = [name for name in (TITLE, _TAG, DESCRIPTION) if name in frame.columns]
    sentences = [pl.col(name).str.strip_chars().str.strip_chars_end(".").replace("", None) + "." for name in parts]
    frame = frame.with_columns(pl.concat_str(sentences, separator=" ", ignore_nulls=True).alias(TEXT))
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
