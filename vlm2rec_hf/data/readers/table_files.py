"""Where in a folder the tables `interactions` and `items` are: one rule for all formats that name their files so."""

from __future__ import annotations

import re
from pathlib import Path

TEXT_ENDINGS = tuple(
    f".{kind}{packed}" for packed in ("", ".gz") for kind in ("csv", "tsv", "jsonl", "ndjson", "json")
)
ENDINGS = (*TEXT_ENDINGS, ".parquet")


def candidates(folder: Path, table: str) -> list[Path]:
    """All that can be a table: its files with a known ending, and a folder of its name with parquet shards."""
    files = [folder / f"{table}{ending}" for ending in ENDINGS]
    return [path for path in files if path.is_file()] + ([folder / table] if shards(folder / table) else [])


def find_table(folder: Path, table: str) -> Path | None:
    """The file of a table, or the folder of its parquet shards; None where there is none.

    Each of the two tables may have its own format.

    Raises:
        ValueError: several fit.
    """
    found = candidates(folder, table)
    if len(found) > 1:
        names = [path.name for path in found]
        raise ValueError(
            f"`{table}` of the folder {str(folder)!r} can be any of {names}. Leave one of them there, or name "
            "the files with `RecDataset.from_files`."
        )
    return found[0] if found else None


def shards(folder: Path) -> list[Path]:
    """The parquet files of a folder, in the order of their numbers."""
    return sorted(folder.glob("*.parquet"), key=_in_numbers)


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts `part-2` before `part-10`: the order of the rows counts where nothing else orders events."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", path.name)]
