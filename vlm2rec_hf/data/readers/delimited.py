"""CSV, TSV and JSON lines: `interactions.*` and, where there is one, `items.*`."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...columns import DESCRIPTION, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..ids import id_strings
from ..tables import ColumnMapping, rename, split_mapping, standard_names, to_arrow
from ..text_tables import with_numbers
from .image_folder import with_images
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
    text_columns: Sequence[str] | None = None,
    **kwargs: Any,
) -> RecDataset:
    """Read delimited or JSON-lines files, plain or gzipped.

    Lines that do not parse (wrong number of fields, no JSON object) go to the quarantine with their number. Only an
    empty field is null; of the items, columns are numbers where they read the same as numbers, all else is text.

    Args:
        interactions: a file, or a folder with `interactions.csv` (`.tsv`, `.jsonl`, each also `.gz`) and `items.*`.
        items: the file of the items, if they lie elsewhere.
        column_mapping: original to standard names, as in `RecDataset.from_tables`.
        separator: one character; default by ending: comma, or tab for `.tsv`.
        encoding: of CSV and TSV files.
        image_folder: local folder with the images, named by item id.
        image_column: take file names inside `image_folder` from this item column (original or standard name) instead.
        text_columns: columns of the items (original or standard names) that are joined to their text, in this order.
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
    ids = id_columns(column_mapping)
    events, bad_events = read_file(source, separator, encoding, ids)
    catalogue, bad_items = None, q.empty()
    if items is not None:
        texts = {*text_names(column_mapping), *(text_columns or ())}
        catalogue, bad_items = read_file(Path(items), separator, encoding, ids, texts=texts)
    for_events, for_items = split_mapping(column_mapping, events, catalogue)
    events = rename(events, for_events, "interactions")
    if catalogue is not None:
        catalogue = rename(catalogue, for_items, "items")
    if text_columns is not None:
        kwargs["text_columns"] = [for_items.get(name, name) for name in text_columns]
    if image_folder is not None:
        if catalogue is None or ITEM_ID not in catalogue.column_names:
            raise ValueError(f"`image_folder` needs `items` with a column `{ITEM_ID}`.")
        item_ids = id_strings(catalogue[ITEM_ID], ITEM_ID)
        catalogue = catalogue.set_column(catalogue.column_names.index(ITEM_ID), ITEM_ID, item_ids)
        column = None if image_column is None else for_items.get(image_column, image_column)
        catalogue = with_images(catalogue, image_folder, file_column=column)
    return RecDataset.from_tables(events, catalogue, quarantine=q.concat([bad_events, bad_items]), **kwargs)


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
        encoding: of CSV and TSV files.
        ids: columns to read as text.
        texts: of a file of items, see `read_csv_bytes`.

    Raises:
        ValueError: no such file, an empty one, or a wrong encoding.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        rows, bad = parse_lines(path, json_object)
        return to_arrow(rows, path.name, ids), q.of_lines(bad, table=path.name)
    if separator is None:
        separator = "\t" if name.endswith(".tsv") else ","
    with open_bytes(path) as file:
        return read_csv_bytes(file.read(), path.name, separator=separator, encoding=encoding, ids=ids, texts=texts)


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
