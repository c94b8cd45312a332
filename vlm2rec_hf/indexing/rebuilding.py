"""Write a version of an index beside the one that serves, take over what changed meanwhile, and switch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from .item_index import ItemIndex
from .items_files import write_version
from .rows import IndexFacts
from .versions import IndexFolder

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


class RowSource(Protocol):
    """Where the rows of a new version come from."""

    facts: IndexFacts

    def tables(self, earlier: ItemIndex | None) -> Iterable[pa.Table]:
        """All rows, part by part: what `earlier` says of items goes before what the source says."""
        ...

    def again(self, table: pa.Table) -> pa.Table:
        """Rows of an earlier version with vectors of the new model."""
        ...


def write_index(output: str | os.PathLike[str], make_source: Callable[[], RowSource]) -> ItemIndex:
    """Write the first version of an index, or a new one, and make it the one in use.

    Killed at any moment, the version before stays in use with every change that was acknowledged.

    Args:
        output: folder of the index.
        make_source: called when nobody else builds this index; may take hours.

    Raises:
        ValueError: another process builds this index.
    """
    folder = IndexFolder(output)
    with folder.building():
        earlier = None
        if folder.current() is not None:
            folder.clear_up()
            earlier = ItemIndex.open(output)
        source = make_source()
        version = folder.next_name()
        deleted = () if earlier is None else earlier.deleted
        write_version(folder, version, source.facts, source.tables(earlier), deleted)
        if earlier is None:
            folder.switch(version)
        else:
            _switch(folder, version, source, earlier)
    return ItemIndex.open(output)


def _switch(folder: IndexFolder, version: str, source: RowSource, earlier: ItemIndex) -> None:
    new = ItemIndex.open_version(folder, version)
    _take_over(source, earlier, new)  # most of it, while others still write
    with folder.writing(str(earlier.version)):
        _take_over(source, earlier, new)
        folder.switch(version)
    logger.info(f"Switched {folder.path} from {earlier.version} to {version}.")


def _take_over(source: RowSource, earlier: ItemIndex, new: ItemIndex) -> None:
    since = earlier.edit_number
    earlier.refresh()
    changed, deleted = earlier.changes_since(since)
    if changed or deleted:
        new.take_over(source.again(earlier.rows(changed)), deleted)
