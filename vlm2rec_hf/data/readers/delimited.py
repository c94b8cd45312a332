"""CSV, TSV and JSON lines: `interactions.*` and, where there is one, `items.*`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dataset import RecDataset
from ..tables import ColumnMapping
from .file_tables import read_tables

SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def find(folder: Path, table: str) -> Path | None:
    """The file of a table in a folder, by the known endings."""
    return next((folder / f"{table}{s}" for s in SUFFIXES if (folder / f"{table}{s}").is_file()), None)


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return find(folder, "interactions") is not None


def read_delimited(
    interactions: str | Path,
    items: str | Path | None = None,
    *,
    column_mapping: ColumnMapping | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    image_pattern: str | None = None,
    text_columns: Sequence[str] | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read delimited, JSON-lines or parquet files of any name, the texts plain or gzipped.

    Lines that do not parse (wrong number of fields, no JSON object) go to the quarantine with their number. Only an
    empty field is null; of the items, columns are numbers where they read the same as numbers, all else is text.

    Args:
        interactions: a file, or a folder with `interactions.csv` (`.tsv`, `.jsonl`, each also `.gz`) and `items.*`.
        items: the file of the items, if they lie elsewhere.
        column_mapping: original to standard names, as in `RecDataset.from_tables`.
        separator: one character; by default the one that the first line shows: comma, tab, semicolon or `|`.
        encoding: of CSV and TSV files.
        image_folder: local folder with the images, named by item id.
        image_column: take file names inside `image_folder` from this item column (original or standard name) instead.
        image_pattern: paths inside `image_folder` instead, such as `"{item_id[:3]}/{item_id}.jpg"`; see
            `with_images_by_pattern`.
        text_columns: columns of the items (original or standard names) that are joined to their text, in this order.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files or columns, or a wrong encoding.
    """
    source = Path(interactions)
    if source.is_dir():
        file = find(source, "interactions")
        if file is None:
            raise ValueError(f"`interactions` {str(source)!r} has no file interactions with {', '.join(SUFFIXES)}.")
        items = items if items is not None else find(source, "items")
        kwargs.setdefault("name", source.name)
        source = file
    events, catalogue, bad, names = read_tables(
        source,
        items,
        column_mapping=column_mapping,
        separator=separator,
        encoding=encoding,
        image_folder=image_folder,
        image_column=image_column,
        image_pattern=image_pattern,
        text_columns=text_columns,
    )
    if text_columns is not None:
        kwargs["text_columns"] = [names.get(name, name) for name in text_columns]
    return RecDataset.from_tables(events, catalogue, quarantine=bad, **kwargs)
