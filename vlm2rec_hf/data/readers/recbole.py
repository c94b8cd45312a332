"""The atomic files of RecBole and MMRec: `NAME.inter` and, where there is one, `NAME.item`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...columns import ITEM_ID, RATING, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..given_split import OWN_SPLIT
from ..tables import ColumnMapping, rename, split_mapping
from .csv_rows import numbered_rows
from .file_tables import read_csv_bytes

if TYPE_CHECKING:
    import polars as pl

SUFFIX = ".inter"
SPLIT_LABEL = "x_label"
"""MMRec's column with 0, 1, 2 for train, validation, test."""

_TYPES = ("token", "token_seq", "float", "float_seq")
_MMREC_TYPES = {RATING: "float", TIMESTAMP: "float", SPLIT_LABEL: "float"}  # its headers have no types
_MMREC_NAMES = {"userID": USER_ID, "itemID": ITEM_ID}


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return any(folder.glob(f"*{SUFFIX}"))


def read_recbole(
    interactions: str | Path,
    *,
    column_mapping: ColumnMapping | None = None,
    separator: str = "\t",
    encoding: str = "utf-8",
    text_columns: Sequence[str] | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read the atomic files of RecBole (`user_id:token`, `timestamp:float`, ...) or of MMRec (`userID`, `x_label`).

    Where the standard names are missing, the types find them (our choice): the first `token` columns of the
    interactions are user and item; the item has the same name in the items, where the first `token_seq` is the title
    if there is no `text`. Everything else keeps its name. Lines with a wrong number of fields, or with a word where a
    `float` belongs, go to the quarantine with their number. Equal times are ordered by the split. Feature files
    (`.npy`) are not read.

    Args:
        interactions: a folder with one `NAME.inter`, or that file. `NAME.item` is looked for beside it.
        column_mapping: original (without type) to standard names, as in `RecDataset.from_tables`.
        separator: one character.
        encoding: of the files.
        text_columns: columns of the items (original or standard names) that are joined to their text, in this order.
        **kwargs: passed to `RecDataset.from_tables`. `split_column` is `"x_label"` where there is one; `None` leaves
            it an ordinary column.

    Raises:
        ValueError: no `.inter` file or several, an unknown type in a header, a missing column, or a split that goes
            back in time for some user, as MMRec's random ones do.
    """
    file = Path(interactions)
    if file.is_dir():
        found = sorted(file.glob(f"*{SUFFIX}"))
        if len(found) != 1:
            names = [path.name for path in found]
            raise ValueError(f"`interactions` {str(file)!r} must hold one .inter file, it has {names}; name the file.")
        file = found[0]
    events, types, bad_events = _read(file, separator, encoding)
    item_file = file.with_suffix(".item")
    no_items: tuple[None, dict[str, str], pa.Table] = (None, {}, q.empty())
    items, item_types, bad_items = _read(item_file, separator, encoding) if item_file.is_file() else no_items

    for_events, for_items = split_mapping(column_mapping, events, items)
    for_events = _with_found(_MMREC_NAMES | dict(for_events), types, {USER_ID: "token", ITEM_ID: "token"})
    events = _typed(rename(events, for_events, "interactions"), types, for_events)
    if items is not None:
        same = {old: ITEM_ID for old, new in for_events.items() if new == ITEM_ID and old in item_types}
        for_items = same | dict(for_items)
        has_text = TEXT in (for_items.get(name, name) for name in item_types)
        for_items = _with_found(for_items, item_types, {} if has_text else {TITLE: "token_seq"})
        items = _typed(rename(items, for_items, "items"), item_types, for_items)
    label = for_events.get(SPLIT_LABEL, OWN_SPLIT)
    options: dict[str, Any] = {"name": file.stem, "split_column": label, **kwargs}
    if text_columns is not None:
        options["text_columns"] = [for_items.get(name, name) for name in text_columns]
    return RecDataset.from_tables(events, items, quarantine=q.concat([bad_events, bad_items]), **options)


def _read(path: Path, separator: str, encoding: str) -> tuple[pa.Table, dict[str, str], pa.Table]:
    """One file as texts without types in their names, the type of each column, and the quarantine of its bad lines."""
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    data = path.read_bytes()
    _, first = next(numbered_rows(data, separator, quoted=False), (0, b""))
    header = first.removeprefix(b"\xef\xbb\xbf").decode(encoding, "replace")
    # Everything as text: one broken number must not make its whole column text.
    titles = header.split(separator)
    table, bad = read_csv_bytes(data, path.name, separator=separator, ids=titles, encoding=encoding, quoted=False)
    types: dict[str, str] = {}
    for title in titles:
        name, _, kind = title.partition(":")
        types[name] = kind or _MMREC_TYPES.get(name, "token")
        if types[name] not in _TYPES:
            raise ValueError(f"{path.name} has the column {title!r}; its type must be one of {', '.join(_TYPES)}.")
    if len(types) < len(titles):
        raise ValueError(f"{path.name} has two columns of one name: {titles}; rename one in its first line.")
    table = table.rename_columns(list(types))
    broken = np.zeros(table.num_rows, dtype=bool)
    for name, kind in types.items():
        if kind == "float":
            broken |= _numbers(table[name]).is_null().to_numpy() & table[name].is_valid().to_numpy()
    if not broken.any():
        return table, types, bad
    lines = list(_lines_of(data, set(np.flatnonzero(broken).tolist()), set(bad["number"].to_pylist()), encoding))
    return table.filter(pa.array(~broken)), types, q.concat([bad, q.of_lines(lines, table=path.name)])


def _typed(table: pa.Table, types: dict[str, str], names: dict[str, str]) -> pa.Table:
    """The `float` columns as numbers; but times stay texts, whose digits a float cannot always hold."""
    for old, kind in types.items():
        name = names.get(old, old)
        if kind == "float" and name != TIMESTAMP:
            numbers = pa.chunked_array([_numbers(table[name]).to_arrow()])
            table = table.set_column(table.column_names.index(name), name, numbers)
    return table


def _numbers(column: pa.ChunkedArray) -> pl.Series:
    import polars as pl

    return pl.Series(column).cast(pl.Float64, strict=False)


def _lines_of(data: bytes, rows: set[int], skipped: set[int], encoding: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that became `rows` of the table; `skipped` and blank lines became none."""
    row = -1  # the header
    for number, line in numbered_rows(data, "\t", quoted=False):
        if number not in skipped:
            if row in rows:
                yield number, line.decode(encoding, "replace")
            row += 1


def _with_found(mapping: dict[str, str], types: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    """`mapping` plus, for each wanted standard name that no column has, the first free column of its type."""
    names = {name: mapping.get(name, name) for name in types}
    for standard, kind in wanted.items():
        free = (name for name, new in names.items() if types[name] == kind and new == name and name not in wanted)
        if standard not in names.values() and (found := next(free, None)) is not None:
            names[found] = standard
    return names
