"""One consistent state of an index: the items of one version, and the changes that are not folded in yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .changed_items import ChangedItems
from .edit_log import EditLog, last_edits
from .exact_items import Found
from .items_files import open_items
from .rows import IndexFacts, edit_schema, kept_rows, schema_of
from .scoring import Query
from .versions import IndexFolder

if TYPE_CHECKING:
    import pyarrow as pa


class ItemStore(Protocol):
    """Where the bulk of an index's items is: `ExactItems` or `LanceItems`."""

    def __len__(self) -> int: ...

    def has(self, item_ids: Sequence[str]) -> set[str]:
        """Which of some items are here."""
        ...

    def all_ids(self) -> list[str]:
        """Every id."""
        ...

    def rows(self, item_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in their order; unknown ones are left out."""
        ...

    def search(
        self,
        query: Query | None,
        k: int,
        *,
        condition: Any = None,
        within: Sequence[Sequence[str]] | None = None,
        without: Sequence[Sequence[str]] | None = None,
        hidden: frozenset[str] | set[str] = frozenset(),
        n_questions: int = 1,
    ) -> list[Found]:
        """The best items of every question, with exact scores."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """One consistent state; replaced, never changed, so that searches need no lock.

    Attributes:
        version: name of the version; None in memory.
        facts: what the rows are.
        base: the items without the changes.
        folded: number of the last change that is in `base`.
        seen: number of the last change that is in `edits`.
        edits: the last change of every changed item.
        overlay: changed and new items.
        hidden: ids in `base` that were changed or deleted.
        deleted: ids that were deleted and not put back.
    """

    version: str | None
    facts: IndexFacts
    base: ItemStore
    folded: int
    seen: int
    edits: pa.Table
    overlay: ChangedItems
    hidden: frozenset[str]
    deleted: frozenset[str]


def open_snapshot(folder: IndexFolder, version: str) -> Snapshot:
    """A version as it is on the disk now.

    Raises:
        FileNotFoundError: files were folded together or cleared away while they were read; try again.
    """
    facts, state = folder.facts(version), folder.state(version)
    base = open_items(folder.path / version, facts, state)
    log = EditLog(folder.path / version / "edits")
    numbers = [number for number in log.numbers() if number > state.folded]
    edits = [log.read(number) for number in numbers]
    if folder.state(version) != state:
        raise FileNotFoundError(version)
    seen = max([state.folded, *numbers])
    return with_edits(version, facts, base, state.folded, seen, edits, frozenset(state.deleted))


def with_edits(
    version: str | None,
    facts: IndexFacts,
    base: ItemStore,
    folded: int,
    seen: int,
    tables: list[pa.Table],
    deleted: frozenset[str],
) -> Snapshot:
    """A state of items and changes to them.

    Args:
        version: name of the version; None in memory.
        facts: what the rows are.
        base: the items without the changes.
        folded: number of the last change that is in `base`.
        seen: number of the last change in `tables`.
        tables: changes, oldest first.
        deleted: ids that were deleted before these changes.
    """
    edits = last_edits([edit_schema(facts).empty_table(), *tables])
    ids, gone = edits["item_id"].to_pylist(), edits["_deleted"].to_pylist()
    overlay = kept_rows(edits, ~np.array(gone, bool)).select(schema_of(facts).names)
    now = {item for item, out in zip(ids, gone, strict=True) if out}
    return Snapshot(
        version, facts, base, folded, seen, edits, ChangedItems(overlay, facts),
        frozenset(base.has(ids)), frozenset((deleted - set(ids)) | now),
    )  # fmt: skip


def retried(read: Any, tries: int = 100) -> Any:
    """Read what another process may be replacing."""
    for attempt in range(tries):
        try:
            return read()
        except FileNotFoundError:
            if attempt == tries - 1:
                raise
    raise AssertionError("unreachable")
