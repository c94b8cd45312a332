"""CSV, TSV and JSON lines: `interactions.*` and, where there is one, `items.*`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...columns import ITEM_ID, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..ids import id_strings
from ..tables import ColumnMapping, rename, split_mapping, to_arrow
from . import parquet
from .image_folder import with_images
from .image_pattern import with_images_by_pattern
from .jsonl import json_object, open_bytes, parse_lines

SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def find(folder: Path, table: str) -> Path | None:
    """The file of a table in a folder, by the known endings."""
    return next((folder / f"{table}{s}" for s in SUFFIXES if (folder / f"{table}{s}").is_file()), None)


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return find(folder, "interactions") is not None


def read_delimited(
    interactions: str | Path,
    items: str | Path | None = None,
    *,
    column_mapping: ColumnMapping | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    image_pattern: str | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read delimited, JSON-lines or parquet files of any name, the texts plain or gzipped.

    Lines that do not parse (wrong number of fields, no JSON object) go to the quarantine with their number.

    Args:
        interactions: a file, or a folder with `interactions.csv` (`.tsv`, `.jsonl`, each also `.gz`) and `items.*`.
        items: the file of the items, if they lie elsewhere.
        column_mapping: original to standard names, as in `RecDataset.from_tables`.
        separator: one character; by default the one that the first line shows: comma, tab, semicolon or `|`.
        encoding: of CSV and TSV files.
        image_folder: local folder with the images, named by item id.
        image_column: take file names inside `image_folder` from this item column (original or standard name) instead.
        image_pattern: paths inside `image_folder` instead, such as `"{item_id[:3]}/{item_id}.jpg"`; see
            `with_images_by_pattern`.
        **kwargs: passed to `RecDataset.from_tables`.

    Raises:
        ValueError: missing files or columns, or a wrong encoding.
    """
    source = Path(interactions)
    if source.is_dir():
        file = find(source, "interactions")
        if file is None:
            raise ValueError(f"`interactions` {str(source)!r} has no file interactions with {', '.join(SUFFIXES)}.")
        items = items if items is not None else find(source, "items")
        kwargs.setdefault("name", source.name)
        source = file
    events, catalogue, bad = read_tables(
        source,
        items,
        column_mapping=column_mapping,
        separator=separator,
        encoding=encoding,
        image_folder=image_folder,
        image_column=image_column,
        image_pattern=image_pattern,
    )
    return RecDataset.from_tables(events, catalogue, quarantine=bad, **kwargs)


def read_tables(
    interactions: str | Path | None,
    items: str | Path | None,
    *,
    column_mapping: ColumnMapping | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    image_pattern: str | None = None,
) -> tuple[pa.Table | None, pa.Table | None, pa.Table]:
    """The two files as tables under standard names, images in, and the quarantine of their bad lines.

    Either may be None. See `read_delimited` for the arguments and errors.
    """
    for argument, file in (("interactions", interactions), ("items", items)):
        if file is not None and not Path(file).is_file():
            raise ValueError(f"`{argument}`: there is no file {str(file)!r}.")
    ids = id_columns(column_mapping)
    events, bad_events = _table(interactions, separator, encoding, ids)
    catalogue, bad_items = _table(items, separator, encoding, ids)
    for_events, for_items = split_mapping(column_mapping, pa.table({}) if events is None else events, catalogue)
    events = None if events is None else rename(events, for_events, "interactions")
    catalogue = None if catalogue is None else rename(catalogue, for_items, "items")
    if image_folder is None:
        for option, value in (("image_pattern", image_pattern), ("image_column", image_column)):
            if value is not None:
                raise ValueError(f"`{option}` needs `image_folder`, the folder of the images.")
        return events, catalogue, q.concat([bad_events, bad_items])
    if catalogue is None or ITEM_ID not in catalogue.column_names:
        raise ValueError(f"`image_folder` needs `items` with a column `{ITEM_ID}`.")
    item_ids = id_strings(catalogue[ITEM_ID], ITEM_ID)
    catalogue = catalogue.set_column(catalogue.column_names.index(ITEM_ID), ITEM_ID, item_ids)
    if image_pattern is not None and image_column is not None:
        raise ValueError("Name at most one of `image_pattern` and `image_column`.")
    if image_pattern is not None:
        catalogue = with_images_by_pattern(catalogue, image_folder, image_pattern, names=for_items)
    else:
        column = None if image_column is None else for_items.get(image_column, image_column)
        catalogue = with_images(catalogue, image_folder, file_column=column)
    return events, catalogue, q.concat([bad_events, bad_items])


def _table(
    file: str | Path | None, separator: str | None, encoding: str, ids: list[str]
) -> tuple[pa.Table | None, pa.Table]:
    return (None, q.empty()) if file is None else read_file(Path(file), separator, encoding, ids)


def id_columns(mapping: ColumnMapping | None) -> list[str]:
    """The columns of a file that hold ids, under their original names: these must be read as text."""
    parts: list[Any] = [mapping or {}]
    parts += [part for part in parts[0].values() if isinstance(part, Mapping)]
    return [USER_ID, ITEM_ID, *(old for part in parts for old, new in part.items() if new in (USER_ID, ITEM_ID))]


def read_file(path: Path, separator: str | None, encoding: str, ids: list[str]) -> tuple[pa.Table, pa.Table]:
    """One file as a table, and the quarantine of its bad lines.

    Args:
        path: the file.
        separator: one character, or None to go by the ending.
        encoding: of CSV and TSV files.
        ids: columns to read as text.

    Raises:
        ValueError: no such file, an empty one, or a wrong encoding.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".parquet"):
        return parquet.read(path), q.empty()
    if name.endswith((".jsonl", ".ndjson", ".json")):
        rows, bad = parse_lines(path, json_object)
        return to_arrow(rows, path.name), q.of_lines(bad, table=path.name)
    with open_bytes(path) as file:
        data = file.read()
    if separator is None:
        separator = "\t" if name.endswith(".tsv") else _separator(data)
    return read_csv_bytes(data, path.name, separator=separator, encoding=encoding, ids=ids)


def _separator(data: bytes) -> str:
    """What separates the names in the first line: comma where there is one, else tab, semicolon or `|`."""
    header = data[: data.find(b"\n") + 1 or None]
    return next((mark for mark in ",\t;|" if mark.encode() in header), ",")


def read_csv_bytes(
    data: bytes,
    name: str,
    *,
    separator: str,
    ids: list[str],
    encoding: str = "utf-8",
    columns: list[str] | None = None,
    quoted: bool = True,
) -> tuple[pa.Table, pa.Table]:
    """Parse delimited text.

    Args:
        data: the file's bytes.
        name: the file's name, for the quarantine.
        separator: one character.
        ids: columns that stay text, so that "007" is not 7.
        encoding: of the text.
        columns: column names of a file without header line.
        quoted: whether double quotes group a field.

    Returns:
        The rows, and the quarantine of lines with a wrong number of fields.

    Raises:
        ValueError: nothing in the file, or a wrong encoding.
    """
    import pyarrow.csv as pc_csv

    if not data.strip():
        raise ValueError(f"{name} is empty.")
    bad: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        bad.append((int(row.number) if row.number is not None else 0, str(row.text)))
        return "skip"

    try:
        table = pc_csv.read_csv(
            io.BytesIO(data),
            # One thread: only then does the parser know the numbers of bad lines.
            read_options=pc_csv.ReadOptions(use_threads=False, encoding=encoding, column_names=columns),
            parse_options=pc_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=skip,
            ),
            convert_options=pc_csv.ConvertOptions(
                column_types={key: pa.string() for key in ids},
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(
            f"{name} cannot be read ({error}); check `separator` and `encoding` ({encoding!r})."
        ) from error
    return table, q.of_lines(_with_blank_lines(data, bad), table=name)


def _with_blank_lines(data: bytes, bad: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Bad lines by their number in the file: the parser does not count blank lines."""
    if not bad:
        return bad
    texts = dict(bad)
    filled = (number for number, line in enumerate(io.BytesIO(data), 1) if line.strip(b"\r\n"))
    return [(number, texts[count]) for count, number in enumerate(filled, 1) if count in texts]
