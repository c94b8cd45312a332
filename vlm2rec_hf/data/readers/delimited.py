"""CSV, TSV and JSON lines: `interactions.*` and, where there is one, `items.*`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dataset import RecDataset

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
    **kwargs: Any,
) -> RecDataset:
    """Read delimited, JSON-lines or parquet files of any name, the texts plain or gzipped.

    Lines that do not parse (wrong number of fields, no JSON object) go to the quarantine with their number. Only an
    empty field is null; of the items, columns are numbers where they read the same as numbers, all else is text.

    Args:
        interactions: a file, or a folder with `interactions.csv` (`.tsv`, `.jsonl`, each also `.gz`) and `items.*`.
        items: the file of the items, if they lie elsewhere.
        **kwargs: passed to `RecDataset.from_files`: how the files are read, where the images are, and arguments of
            `from_tables`.

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
    return RecDataset.from_files(source, items, **kwargs)
