"""CSV, TSV and JSON lines: `interactions.*` and, where there is one, `items.*`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dataset import RecDataset
from .file_tables import READING, read_tables
from .table_files import ENDINGS, TEXT_ENDINGS, candidates, find_table


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return any(path.name.endswith(TEXT_ENDINGS) for path in candidates(folder, "interactions"))


def read_delimited(
    interactions: str | Path,
    items: str | Path | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read delimited, JSON-lines or parquet files of any name, the texts plain or gzipped.

    Lines that do not parse (wrong number of fields, no JSON object, another encoding) go to the quarantine with their
    number. Only an empty field is null, and a quote opens a field only where another closes it; of the items, columns
    are numbers where they read the same as numbers, all else is text.

    Args:
        interactions: a file, or a folder with `interactions.csv` (`.tsv`, `.jsonl`, `.ndjson`, `.json`, each also
            `.gz`) and `items.*`: such a file, `items.parquet`, or a folder `items/` of parquet shards. Its folder
            `images`, if there is one, is the `image_folder` where none is named.
        items: the file of the items, if they lie elsewhere.
        **kwargs: passed to `RecDataset.from_files`: how the files are read, where the images are, and arguments of
            `from_tables`.

    Raises:
        ValueError: missing files or columns, several files that can be a table, or a wrong encoding.
    """
    source = Path(interactions)
    if source.is_dir():
        file = find_table(source, "interactions")
        if file is None or file.is_dir():
            raise ValueError(f"`interactions` {str(source)!r} has no file interactions with {', '.join(ENDINGS)}.")
        items = items if items is not None else find_table(source, "items")
        kwargs.setdefault("name", source.name)
        reading = {name: kwargs.pop(name) for name in READING if name in kwargs}
        events, catalogue, bad, texts = read_tables(file, items, beside=source, **reading)
        return RecDataset.from_tables(events, catalogue, quarantine=bad, text_columns=texts, **kwargs)
    return RecDataset.from_files(source, items, **kwargs)
