"""Files as tables, whatever they are called: CSV, TSV, JSON lines and parquet, bad lines kept aside."""

from __future__ import annotations

import codecs
import io
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...columns import DESCRIPTION, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..tables import ColumnMapping, concatenated, rename, split_mapping, standard_names, to_arrow
from ..text_tables import with_numbers
from .csv_rows import numbered_rows, with_stray_quotes_escaped
from .jsonl import json_object, open_bytes, parse_lines
from .named_images import with_named_images
from .table_files import shards

logger = logging.getLogger(__name__)
READING = (
    "column_mapping", "separator", "encoding", "image_folder", "image_column", "image_pattern", "text_columns",
)  # fmt: skip
"""Options of `read_tables`; all others are `RecDataset.from_tables`'s."""


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
    beside: Path | None = None,
) -> tuple[pa.Table | None, pa.Table | None, pa.Table, list[str] | None]:
    """The two files as tables under standard names, their bad lines, and `text_columns` under standard names.

    Images are in. Either file may be None. See `RecDataset.from_files` and `with_named_images` for the arguments and
    errors.
    """
    for argument, file in (("interactions", interactions), ("items", items)):
        if file is not None and not Path(file).is_file() and not shards(Path(file)):
            raise ValueError(f"`{argument}`: there is no file {str(file)!r}.")
    ids = id_columns(column_mapping)
    texts = {*text_names(column_mapping), *(text_columns or ())}
    events, bad_events = _table(interactions, separator, encoding, ids)
    catalogue, bad_items = _table(items, separator, encoding, ids, texts)
    images = {"image_folder": image_folder, "image_column": image_column, "image_pattern": image_pattern}
    events, catalogue, named = standardised(events, catalogue, column_mapping, text_columns, beside, images)
    return events, catalogue, q.concat([bad_events, bad_items]), named


def standardised(
    events: pa.Table | None,
    catalogue: pa.Table | None,
    column_mapping: ColumnMapping | None,
    text_columns: Sequence[str] | None,
    beside: Path | None,
    images: Mapping[str, Any],
) -> tuple[pa.Table | None, pa.Table | None, list[str] | None]:
    """Both tables under standard names, the items with their images, and `text_columns` under standard names.

    Args:
        events: the interactions as read, or None.
        catalogue: the items as read, or None.
        column_mapping: as in `RecDataset.from_files`, with the next one.
        text_columns: see there.
        beside: see `with_named_images`.
        images: its options `image_folder`, `image_column` and `image_pattern`.
    """
    for_events, for_items = split_mapping(column_mapping, pa.table({}) if events is None else events, catalogue)
    events = None if events is None else rename(events, for_events, "interactions")
    catalogue = None if catalogue is None else rename(catalogue, for_items, "items")
    named = None if text_columns is None else [for_items.get(name, name) for name in text_columns]
    return events, with_named_images(catalogue, for_items, beside, **images), named


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
        path: the file, or a folder of parquet shards.
        separator: one character, or None to go by the ending.
        encoding: of CSV, TSV and JSON lines.
        ids: columns to read as text.
        texts: of a file of items, see `read_csv_bytes`.

    Raises:
        ValueError: no such file, an empty one, or a wrong encoding.
    """
    if parts := shards(path):
        return concatenated([read_parquet_file(part) for part in parts], ids), q.empty()
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
    header = re.split(rb"[\r\n]", data, maxsplit=1)[0]
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
        quoted: whether double quotes group a field (see `with_stray_quotes_escaped` for those that do not).
        texts: columns that stay text. If given (if only empty), other columns become numbers only where nothing is
            lost by it ("0012", "1984-05-01" stay text); else types are guessed.

    Returns:
        The rows, and the quarantine of lines with a wrong number of fields.

    Raises:
        ValueError: nothing in the file, or a wrong encoding.
    """
    if not data.strip():
        raise ValueError(f"{name} is empty.")
    try:
        data = _in_utf8(data, encoding)
        table: pa.Table | None = None
        bad: list[tuple[int, str]] = []
        lines: list[int] = []
        try:
            table, bad = _parsed(data, separator, ids, columns, quoted, texts)
        except pa.ArrowInvalid:
            if not quoted:
                raise
        if quoted and (table is None or _over_lines(table, bad)):
            data, lines = with_stray_quotes_escaped(data, separator)
        if lines:
            logger.warning(
                f"{name}: quotes that seem to open a field and do not close it were read as characters "
                f"({len(lines):,}, the first in line {lines[0]})."
            )
        if table is None or lines:
            table, bad = _parsed(data, separator, ids, columns, quoted, texts)
    except (pa.ArrowInvalid, UnicodeDecodeError, LookupError) as error:
        raise ValueError(
            f"{name} cannot be read ({error}); check `separator` and `encoding` ({encoding!r})."
        ) from error
    table = with_numbers(table, {*ids, TITLE, TEXT, DESCRIPTION, *(texts or ())})
    return table, q.of_lines(_by_line(data, bad, separator, quoted), table=name)


def _in_utf8(data: bytes, encoding: str) -> bytes:
    return data if codecs.lookup(encoding).name == "utf-8" else data.decode(encoding).encode()


def _parsed(
    data: bytes,
    separator: str,
    ids: list[str],
    columns: list[str] | None,
    quoted: bool,
    texts: Collection[str] | None,
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """The rows, and those with a wrong number of fields, by their number among the rows that are not blank."""
    import pyarrow.csv as pc_csv

    bad: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        bad.append((int(row.number) if row.number is not None else 0, str(row.text)))
        return "skip"

    # One thread: only then does the parser know the numbers of bad lines.
    read = pc_csv.ReadOptions(use_threads=False, column_names=columns)
    parse = pc_csv.ParseOptions(
        delimiter=separator,
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
        invalid_row_handler=skip,
    )
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
    return pc_csv.read_csv(io.BytesIO(data), read_options=read, parse_options=parse, convert_options=convert), bad


def _over_lines(table: pa.Table, bad: list[tuple[int, str]]) -> bool:
    """Whether some field, a name of a column too, goes over a line break."""
    if any("\n" in text or "\r" in text for text in [*table.column_names, *(text for _, text in bad)]):
        return True
    fields = (column for column in table.columns if pa.types.is_string(column.type) or pa.types.is_binary(column.type))
    return any(pc.any(pc.match_substring_regex(column, r"[\n\r]")).as_py() for column in fields)


def _by_line(data: bytes, bad: list[tuple[int, str]], separator: str, quoted: bool) -> list[tuple[int, str]]:
    """Bad rows by the line in which they begin: the parser counts neither blank lines nor breaks within quotes."""
    if not bad:
        return bad
    wanted = {number for number, _ in bad}
    rows = enumerate(islice(numbered_rows(data, separator, quoted=quoted), max(wanted)), 1)
    lines = {count: line for count, (line, _) in rows if count in wanted}
    return [(lines.get(number, number), text) for number, text in bad]


def read_parquet_file(path: Path) -> pa.Table:
    """One file as a table.

    Raises:
        ValueError: it is no parquet file.
    """
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is no parquet file: {error}") from error
