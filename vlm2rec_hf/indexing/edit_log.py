"""Changes of an index, one file each: there, whole and on the disk, before a change is acknowledged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import whole_file
from .rows import kept_rows

if TYPE_CHECKING:
    import pyarrow as pa

_ENDING = ".arrow"


class EditLog:
    """Numbered files in a folder; a higher number is a later change.

    Args:
        folder: of a version of an index; made by who writes first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """The numbers of the changes that are there, ascending."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in os.scandir(self.folder) if entry.name.endswith(_ENDING))
        return sorted(int(name.removesuffix(_ENDING)) for name in names)

    def nbytes(self) -> int:
        """How large the changes' files are together; the caller holds the version's lock."""
        if not self.folder.is_dir():
            return 0
        return sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.name.endswith(_ENDING))

    def append(self, edit: pa.Table, after: int) -> int:
        """Write a change, whole or not at all; the caller holds the version's lock.

        Args:
            edit: rows as `edit_schema` has them.
            after: the number of the last change that was folded into the items, so that no number comes twice.

        Returns:
            Its number.
        """
        number = max([after, *self.numbers()]) + 1
        with whole_file(self._path(number)) as partial:
            write_table(partial, edit)
        return number

    def read(self, number: int) -> pa.Table:
        """A change.

        Raises:
            FileNotFoundError: it was folded into the items meanwhile.
        """
        import pyarrow as pa

        with pa.OSFile(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()

    def remove_through(self, number: int) -> None:
        """Delete changes up to a number, which the items hold by now."""
        for known in self.numbers():
            if known <= number:
                self._path(known).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}{_ENDING}"


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file of one batch, which can be mapped into memory."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def map_table(path: Path) -> pa.Table:
    """A table that `write_table` wrote, mapped into memory: processes that read it share its pages."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def last_edits(tables: list[pa.Table]) -> pa.Table:
    """Several changes as one: of every item only its last row, in the order of these. They are not copied."""
    import pyarrow as pa

    last: dict[str, tuple[int, int]] = {}
    for number, table in enumerate(tables):
        last |= {item: (number, row) for row, item in enumerate(table["item_id"].to_pylist())}
    kept = [np.zeros(len(table), bool) for table in tables]
    for number, row in last.values():
        kept[number][row] = True
    parts = [kept_rows(table, mask) for table, mask in zip(tables, kept, strict=True) if mask.any()]
    return pa.concat_tables(parts) if parts else tables[0].schema.empty_table()
