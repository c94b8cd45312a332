"""A folder with the tables `interactions` and `items` as parquet, one file or a folder of shards each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...columns import ITEM_ID, USER_ID
from ..dataset import RecDataset
from ..tables import concatenated, standard_names


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
    ids = standard_names(kwargs.get("column_mapping"), (USER_ID, ITEM_ID))
    catalogue = concatenated([pq.read_table(path) for path in items], ids) if items else None
    return RecDataset.from_tables(concatenated(_read_interactions(shards), ids), catalogue, **kwargs)


def _shards(folder: Path, table: str) -> list[Path]:
    single = folder / f"{table}.parquet"
    return [single] if single.is_file() else sorted((folder / table).glob("*.parquet"), key=_in_numbers)


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts `part-2` before `part-10`: the order of the rows counts where nothing else orders events."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", path.name)]


def _read_interactions(paths: list[Path]) -> list[pa.Table]:
    tables = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        # String columns stay coded as the file has them: millions of ids never become millions of strings.
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        tables.append(pq.read_table(path, read_dictionary=texts))
    return tables
