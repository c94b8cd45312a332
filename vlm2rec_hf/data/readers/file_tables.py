"""Files as tables, whatever they are called: CSV, TSV, JSON lines and parquet, bad lines kept aside."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...columns import DESCRIPTION, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..ids import id_strings
from ..tables import ColumnMapping, rename, split_mapping, standard_names, to_arrow
from ..text_tables import with_numbers
from .image_folder import with_images
from .image_pattern import with_images_by_pattern
from .jsonl import json_object, open_bytes, parse_lines


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
    text_columns: Sequence[str] | None = None,
) -> tuple[pa.Table | None, pa.Table | None, pa.Table, list[str] | None]:
    """The two files as tables under standard names, their bad lines, and `text_columns` under standard names.

    Images are in. Either file may be None. See `RecDataset.from_files` for the arguments and errors.
    """
    for argument, file in (("interactions", interactions), ("items", items)):
        if file is not None and not Path(file).is_file():
            raise ValueError(f"`{argument}`: there is no file {str(file)!r}.")
    ids = id_columns(column_mapping)
    texts = {*text_names(column_mapping), *(text_columns or ())}
    events, bad_events = _table(interactions, separator, encoding, ids)
    catalogue, bad_items = _table(items, separator, encoding, ids, texts)
    for_events, for_items = split_mapping(column_mapping, pa.table({}) if events is None else events, catalogue)
    events = None if events is None else rename(events, for_events, "interactions")
    catalogue = None if catalogue is None else rename(catalogue, for_items, "items")
    named = None if text_columns is None else [for_items.get(name, name) for name in text_columns]
    if image_folder is None:
        for option, value in (("image_pattern", image_pattern), ("image_column", image_column)):
            if value is not None:
                raise ValueError(f"`{option}` needs `image_folder`, the folder of the images.")
        return events, catalogue, q.concat([bad_events, bad_items]), named
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
    return events, catalogue, q.concat([bad_events, bad_items]), named


def _table(
    file: str | Path | None, separator: str | None, encoding: str, ids: list[str], texts: Collection[str] | None = None
) -> tuple[pa.Table | None, pa.Table]:
    return (None, q.empty()) if file is None else read_file(Path(file), separator, encoding, ids, texts=texts)


def id_columns(mapping: ColumnMapping | None) -> list[str]:
    """The columns of a file with ids and times, under their original names: these must be read as text.

    "007" is not 7, and a parser that guesses types makes floats of long numbers and cuts fractions of seconds off.
    """
    return sorted(standard_names(mapping, (USER_ID, ITEM_ID, TIMESTAMP)))


def text_names(mapping: ColumnMapping | None) -> set[str]:
    """The columns of a file of items that are text whatever they hold, under their original names."""
    return standard_names(mapping, (TITLE, TEXT, DESCRIPTION))


def read_file(
    path: Path, separator: str | None, encoding: str, ids: list[str], *, texts: Collection[str] | None = None
) -> tuple[pa.Table, pa.Table]:
    """One file as a table, and the quarantine of its bad lines.

    Args:
        path: the file.
        separator: one character, or None to go by the ending.
        encoding: of CSV, TSV and JSON lines.
        ids: columns to read as text.
        texts: of a file of items, see `read_csv_bytes`.

    Raises:
        ValueError: no such file, an empty one, or a wrong encoding.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".parquet"):
        return read_parquet_file(path), q.empty()
    if name.endswith((".jsonl", ".ndjson", ".json")):
        rows, bad = parse_lines(path, json_object, encoding)
        return to_arrow(rows, path.name, ids), q.of_lines(bad, table=path.name)
    with open_bytes(path) as file:
        data = file.read()
    if separator is None:
        separator = "\t" if name.endswith(".tsv") else _separator(data)
    return read_csv_bytes(data, path.name, separator=separator, encoding=encoding, ids=ids, texts=texts)


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
    texts: Collection[str] | None = None,
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
        texts: columns that stay text. If given (if only empty), other columns become numbers only where nothing is
            lost by it ("0012", "1984-05-01" stay text); else types are guessed.

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

    # One thread: only then does the parser know the numbers of bad lines.
    read = pc_csv.ReadOptions(use_threads=False, encoding=encoding, column_names=columns)
    parse = pc_csv.ParseOptions(
        delimiter=separator,
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
        invalid_row_handler=skip,
    )
    try:
        as_text = {*ids, TITLE, TEXT, DESCRIPTION}
        if texts is not None:
            as_text |= {
                *texts,
                *pc_csv.open_csv(io.BytesIO(data), read_options=read, parse_options=parse).schema.names,
            }
            bad.clear()
        convert = pc_csv.ConvertOptions(
            column_types={key: pa.string() for key in as_text},
            # Only an empty field is null: `NA` and `null` may be ids and titles.
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        table = pc_csv.read_csv(io.BytesIO(data), read_options=read, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(
            f"{name} cannot be read ({error}); check `separator` and `encoding` ({encoding!r})."
        ) from error
    table = with_numbers(table, {*ids, TITLE, TEXT, DESCRIPTION, *(texts or ())})
    return table, q.of_lines(_with_blank_lines(data, bad), table=name)


def _with_blank_lines(data: bytes, bad: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Bad lines by their number in the file: the parser does not count blank lines."""
    if not bad:
        return bad
    texts = dict(bad)
    filled = (number for number, line in enumerate(io.BytesIO(data), 1) if line.strip(b"\r\n"))
    return [(number, texts[count]) for count, number in enumerate(filled, 1) if count in texts]


def read_parquet_file(path: Path) -> pa.Table:
    """One file as a table.

    Raises:
        ValueError: it is no parquet file.
    """
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is no parquet file: {error}") from error
