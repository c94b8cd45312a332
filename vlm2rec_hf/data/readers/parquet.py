"""A folder with the tables `interactions` and `items` as parquet, one file or a folder of shards each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..dataset import RecDataset


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return bool(_shards(folder, "interactions"))


def read_parquet(folder: str | Path, **kwargs: Any) -> RecDataset:
    """Read `interactions.parquet` and, where there is one, `items.parquet` (or folders of parquet shards).

    Args:
        folder: where they are.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: no interactions, or tables that `RecDataset.from_tables` refuses.
    """
    folder = Path(folder)
    shards = _shards(folder, "interactions")
    if not shards:
        raise ValueError(
            f"`folder` {str(folder)!r} has no interactions.parquet (nor a folder interactions/ of shards)."
        )
    items = _shards(folder, "items")
    kwargs.setdefault("name", folder.name)
    return RecDataset.from_tables(_read_interactions(shards), _read(items) if items else None, **kwargs)


def read(path: Path) -> pa.Table:
    """One file as a table.

    Raises:
        ValueError: it is no parquet file.
    """
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is no parquet file: {error}") from error


def _shards(folder: Path, table: str) -> list[Path]:
    single = folder / f"{table}.parquet"
    return [single] if single.is_file() else sorted((folder / table).glob("*.parquet"))


def _read(paths: list[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in paths], promote_options="default")


def _read_interactions(paths: list[Path]) -> pa.Table:
    tables = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        # String columns stay coded as the file has them: millions of ids never become millions of strings.
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        tables.append(pq.read_table(path, read_dictionary=texts))
    return pa.concat_tables(tables, promote_options="default") if len(tables) > 1 else tables[0]
