"""A folder with the table `interactions` as parquet, one file or a folder of shards, and `items` in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...columns import ITEM_ID, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..tables import concatenated, standard_names
from .file_tables import id_columns, read_file, standardised, text_names
from .table_files import candidates, find_table, shards


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return any(path.is_dir() or path.suffix == ".parquet" for path in candidates(folder, "interactions"))


def read_parquet(
    folder: str | Path,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    image_pattern: str | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read `interactions.parquet` and, where there is one, `items.parquet` (or folders of parquet shards).

    Args:
        folder: where they are. The items may be CSV, TSV or JSON lines as well.
        separator: of such items, as in `RecDataset.from_files`.
        encoding: likewise.
        image_folder: where the images lie, named by item id; by default `images` in the folder, where it is there and
            the items hold no images.
        image_column: as in `RecDataset.from_files`.
        image_pattern: likewise.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: no interactions, several files that can be a table, or tables that `RecDataset.from_tables`
            refuses.
    """
    folder = Path(folder)
    source = find_table(folder, "interactions")
    if source is None or not (source.is_dir() or source.suffix == ".parquet"):
        raise ValueError(
            f"`folder` {str(folder)!r} has no interactions.parquet (nor a folder interactions/ of shards)."
        )
    mapping, text_columns = kwargs.pop("column_mapping", None), kwargs.pop("text_columns", None)
    items = find_table(folder, "items")
    catalogue = None
    if items is not None:
        texts = {*text_names(mapping), *(text_columns or ())}
        catalogue, bad = read_file(items, separator, encoding, id_columns(mapping), texts=texts)
        parts = [kwargs["quarantine"]] if kwargs.get("quarantine") is not None else []
        kwargs["quarantine"] = q.concat([*parts, bad])
    kwargs.setdefault("name", folder.name)
    ids = standard_names(mapping, (USER_ID, ITEM_ID))
    files = shards(source) if source.is_dir() else [source]
    events = concatenated(_read_interactions(files), ids)
    images = {"image_folder": image_folder, "image_column": image_column, "image_pattern": image_pattern}
    events, catalogue, named = standardised(events, catalogue, mapping, text_columns, folder, images)
    return RecDataset.from_tables(events, catalogue, text_columns=named, **kwargs)


def _read_interactions(paths: list[Path]) -> list[pa.Table]:
    tables = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        # String columns stay coded as the file has them: millions of ids never become millions of strings.
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        tables.append(pq.read_table(path, read_dictionary=texts))
    return tables
