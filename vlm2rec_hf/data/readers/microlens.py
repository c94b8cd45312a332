"""MicroLens as its authors ship it: `MicroLens-50k_pairs.csv` (or `.tsv`), titles, and a folder of covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ...columns import ITEM_ID, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..interaction_log import POSITION
from ..timestamps import is_calendar
from .file_tables import read_csv_bytes
from .image_folder import with_images
from .jsonl import blocks, line_text, open_bytes

_NAMES = {"user": USER_ID, "userID": USER_ID, "item": ITEM_ID, "itemID": ITEM_ID, "videoID": ITEM_ID}
_HEADERS = (*(name for name, new in _NAMES.items() if new == ITEM_ID), ITEM_ID)
_ITEM = pa.schema([(ITEM_ID, pa.string()), (TITLE, pa.string())])


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return bool(_pairs(folder))


def read_microlens(folder: str | Path, *, image_folder: str | Path | None = None, **kwargs: Any) -> RecDataset:
    """Read a MicroLens folder.

    Titles (`MicroLens-50k_titles.csv`, or `MicroLens-100k_title_en.csv`, which has no header and quotes nothing) and
    covers (`MicroLens-50k_covers/7.jpg`) are read where they are there. Comments, likes, views, tags, audio and videos
    are not.

    Args:
        folder: holds one `NAME_pairs.csv` with user, item and time, or `NAME_pairs.tsv` with a user and, separated by
            blanks, the items in order. The first is preferred.
        image_folder: the covers, if they lie elsewhere.
        **kwargs: passed to `RecDataset.from_tables`. `timestamp_unit` is "ms" where the times are numbers; items
            without a title are kept.

    Raises:
        ValueError: no pairs or several, several files of titles, or a column that is not there.
    """
    folder = Path(folder)
    pairs = _pairs(folder)
    if len(pairs) != 1:
        raise ValueError(f"`folder` {str(folder)!r} must hold one NAME_pairs.csv (or .tsv), it has {_names(pairs)}.")
    options: dict[str, Any] = {"name": pairs[0].name.rsplit("_", 1)[0], "unknown_items": "keep", **kwargs}
    if pairs[0].suffix == ".tsv":
        events, bad = _sequences(pairs[0])
    else:
        with open_bytes(pairs[0]) as file:
            exact = [*_NAMES, USER_ID, ITEM_ID, TIMESTAMP]
            events, bad = read_csv_bytes(file.read(), pairs[0].name, separator=",", ids=exact)
        events = events.rename_columns([_NAMES.get(name, name) for name in events.column_names])
        if TIMESTAMP in events.column_names and not is_calendar(events[TIMESTAMP]):
            options = {"timestamp_unit": "ms", **options}
    titles = sorted(folder.glob("*_title_en.csv")) or sorted(folder.glob("*_titles.csv"))
    if len(titles) > 1:
        raise ValueError(f"`folder` {str(folder)!r} must hold one file of titles, it has {_names(titles)}.")
    items, bad_titles = _titles(titles[0]) if titles else (_ITEM.empty_table(), q.empty())
    covers = next((path for path in sorted(folder.glob("*_covers")) if path.is_dir()), None)
    if image_folder is not None or covers is not None:
        items = _with_bare_rows(items, events)
        items = with_images(items, image_folder if image_folder is not None else covers)  # type: ignore[arg-type]
    return RecDataset.from_tables(events, items, quarantine=q.concat([bad, bad_titles]), **options)


def _pairs(folder: Path) -> list[Path]:
    return sorted(folder.glob("MicroLens*_pairs.csv")) or sorted(folder.glob("MicroLens*_pairs.tsv"))


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def _sequences(path: Path) -> tuple[pa.Table, pa.Table]:
    """A user and the items that follow one another, per line."""
    users: list[str] = []
    items: list[str] = []
    positions: list[int] = []
    bad: list[tuple[int, str]] = []
    for first, lines in blocks(path):
        for number, line in enumerate(lines, first):
            text, fits = line_text(line)
            text = text.strip("\r\n")
            user, tab, rest = text.partition("\t")
            sequence = rest.split()
            if not fits or not user.strip() or not tab or not sequence:
                bad += [(number, text)] if text.strip() else []
                continue
            users += [user.strip()] * len(sequence)
            items += sequence
            positions += range(len(sequence))
    table = pa.table({USER_ID: pa.array(users, pa.string()), ITEM_ID: pa.array(items, pa.string())})
    return table.append_column(POSITION, pa.array(positions, pa.int64())), q.of_lines(bad, table=path.name)


def _titles(path: Path) -> tuple[pa.Table, pa.Table]:
    """`id,title` per line. A title may hold commas and quotes; only one that is quoted as a whole is unquoted."""
    rows: list[dict[str, str | None]] = []
    bad: list[tuple[int, str]] = []
    for first, lines in blocks(path):
        for number, line in enumerate(lines, first):
            text, fits = line_text(line)
            text = text.strip("\r\n")
            item, comma, title = (part.strip() for part in text.partition(","))
            if number == 1 and item in _HEADERS:
                continue
            if not fits or not comma or not item.isdecimal():
                bad += [(number, text)] if text.strip() else []
                continue
            inside = title[1:-1]
            if len(title) > 1 and title[0] == title[-1] == '"' and '"' not in inside.replace('""', ""):
                title = inside.replace('""', '"')
            rows.append({ITEM_ID: item, TITLE: title or None})
    return pa.Table.from_pylist(rows, schema=_ITEM), q.of_lines(bad, table=path.name)


def _with_bare_rows(items: pa.Table, events: pa.Table) -> pa.Table:
    """Items without a title may have a cover: a row for each."""
    known = set(items[ITEM_ID].to_pylist())
    seen = set(events[ITEM_ID].unique().to_pylist()) if ITEM_ID in events.column_names else set()
    bare = sorted(seen - known - {None, ""})
    rows = pa.table({ITEM_ID: pa.array(bare, pa.string()), TITLE: pa.nulls(len(bare), pa.string())}, schema=_ITEM)
    return pa.concat_tables([items, rows])
