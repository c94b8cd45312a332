"""The items file of a version: written with the version, and anew when changes are folded in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file, whole_folder
from .edit_log import map_table, write_table
from .exact_items import ExactItems
from .rows import IndexFacts, kept_rows, schema_of
from .versions import IndexFolder, VersionState, write_facts, write_state

if TYPE_CHECKING:
    import pyarrow as pa

LANCE = "lance"


def write_version(
    folder: IndexFolder, version: str, facts: IndexFacts, tables: Iterable[pa.Table], deleted: Iterable[str] = ()
) -> None:
    """Write a version, whole or not at all; it is not used before `IndexFolder.switch`.

    Args:
        folder: of the index.
        version: its name.
        facts: what it holds.
        tables: its rows, part by part.
        deleted: ids that a rebuild shall not bring back.
    """
    import pyarrow as pa

    with whole_folder(folder.path / version) as partial:
        (partial / "edits").mkdir()
        if facts.store == LANCE:
            from .lance_items import create_lance

            create_lance(partial / LANCE, facts, tables)
            name = LANCE
        else:
            name = _name(0)
            write_table(partial / name, pa.concat_tables([schema_of(facts).empty_table(), *tables]))
        write_facts(partial, facts)
        write_state(partial, VersionState(name, 0, tuple(sorted(deleted))))


def open_items(path: Path, facts: IndexFacts, state: VersionState) -> Any:
    """The items of a version, ready to be searched."""
    if facts.store == LANCE:
        from .lance_items import LanceItems

        return LanceItems(path / state.items, facts)
    return ExactItems(map_table(path / state.items), facts)


def fold_items(
    folder: IndexFolder,
    version: str,
    facts: IndexFacts,
    base: Any,
    edits: pa.Table,
    number: int,
    deleted: Iterable[str],
) -> None:
    """Write changes into a version's items; the caller holds its lock and deletes the changes' files afterwards.

    A kill before the new state is written leaves the old items (LanceDB: some or all of the changes in them, where
    they are applied once more and change nothing), and all of the changes' files.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    live = kept_rows(edits, ~edits["_deleted"].to_numpy()).select(schema_of(facts).names)
    if facts.store == LANCE:
        gone = edits.filter(edits["_deleted"])["item_id"].to_pylist()
        base.apply(live, gone)
        name = LANCE
    else:
        changed = pc.is_in(base.table["item_id"], value_set=edits["item_id"].combine_chunks())
        kept = kept_rows(base.table, ~changed.to_numpy())
        name = _name(number)
        with whole_file(folder.path / version / name) as partial:
            write_table(partial, pa.concat_tables([kept, live]))
    folder.set_state(version, VersionState(name, number, tuple(sorted(deleted))))
    if facts.store != LANCE:
        for old in (folder.path / version).glob("items-*.arrow"):
            if old.name != name:
                old.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"items-{number}.arrow"
