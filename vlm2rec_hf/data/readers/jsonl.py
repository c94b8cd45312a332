"""JSON lines, plain or gzipped: fast in blocks, line by line only where a block holds a bad one."""

from __future__ import annotations

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from .. import quarantine as q
from ..text import as_text

_BLOCK_BYTES = 16 << 20
_MAX_LINE = 8 << 20


def open_bytes(path: Path) -> IO[bytes]:
    """A file for reading bytes after its byte-order mark, unpacked where its name ends in `.gz`."""
    file: IO[bytes] = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
    try:
        start = file.read(len(codecs.BOM_UTF8))
        if start != codecs.BOM_UTF8:
            file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def read_json_lines(path: Path, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    """The fields of `schema` from a file with one JSON object per line.

    Args:
        path: the file, `.gz` or plain.
        schema: the wanted fields; others are skipped, missing ones are null. String fields take numbers as text.

    Returns:
        The rows, and the quarantine of the lines that are no such object, with their numbers.
    """
    import pyarrow.json as pj

    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    tables: list[pa.Table] = []
    bad: list[tuple[int, str]] = []
    for first, lines in blocks(path):
        data = b"".join(lines)
        if not data.strip():
            continue
        try:
            data.decode()  # pyarrow takes any bytes for text: ids of other bytes would become one
            table = pj.read_json(
                io.BytesIO(data), read_options=pj.ReadOptions(block_size=len(data) + 1), parse_options=options
            )
            # pyarrow takes several objects on one line for several rows; a block must give a row per line.
            if table.num_rows == sum(1 for line in lines if line.strip()):
                tables.append(table.select(schema.names))
                continue
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass  # some line of the block is bad: the loop below finds which
        rows = [row for row in _good_rows(first, lines, schema, bad) if row is not None]
        tables.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables([schema.empty_table(), *tables]), q.of_lines(bad, table=path.name)


def parse_lines(
    path: Path, parse: Callable[[str], dict[str, Any] | None], encoding: str = "utf-8"
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Parse a file line by line.

    Args:
        path: the file, `.gz` or plain.
        parse: gives the row of a line, or None to skip it; raises ValueError or OverflowError on a bad line.
        encoding: of the text; one in which a line ends with the byte 10.

    Returns:
        The rows, and the bad lines (such as those in another encoding) with their numbers from 1.

    Raises:
        ValueError: an unknown encoding, one with other line ends, or a file that is cut off.
    """
    _check_encoding(encoding)
    rows: list[dict[str, Any]] = []
    bad: list[tuple[int, str]] = []
    for first, lines in blocks(path):
        for number, line in enumerate(lines, first):
            text, fits = line_text(line, encoding)
            text = text.strip()
            if not text:
                continue
            try:
                if not fits:
                    raise ValueError(f"not {encoding}")
                if len(line) > _MAX_LINE:
                    raise ValueError(f"a line of {len(line)} bytes")
                row = parse(text)
            except (ValueError, OverflowError):
                bad.append((number, text[:_MAX_LINE]))
                continue
            if row is not None:
                rows.append(row)
    return rows, bad


def blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of a file in blocks of some megabytes, each with the number of its first line (from 1).

    Raises:
        ValueError: a gzip file that is damaged or cut off.
    """
    number = 1
    try:
        with open_bytes(path) as file:
            while lines := file.readlines(_BLOCK_BYTES):
                yield number, lines
                number += len(lines)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{str(path)!r} is damaged or cut off after line {number - 1}; download it again.") from error


def line_text(line: bytes, encoding: str = "utf-8") -> tuple[str, bool]:
    """A line as text, and whether it is in this encoding; if not, the bytes that do not fit stand in it as escapes."""
    try:
        return line.decode(encoding), True
    except UnicodeDecodeError:
        return line.decode(encoding, "backslashreplace"), False


def json_object(text: str) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ValueError: something else.
    """
    try:
        row = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _check_encoding(encoding: str) -> None:
    try:
        fits = "a\n".encode(encoding).endswith(b"a\n")
    except LookupError as error:
        raise ValueError(
            f"`encoding` {encoding!r} is no encoding of text that Python knows; give one such as 'utf-8' or 'latin-1'."
        ) from error
    if not fits:
        raise ValueError(
            f"`encoding` {encoding!r} ends lines otherwise than JSON lines do; write the file in 'utf-8' first."
        )


def _good_rows(
    first: int, lines: list[bytes], schema: pa.Schema, bad: list[tuple[int, str]]
) -> Iterator[dict[str, Any] | None]:
    for number, line in enumerate(lines, first):
        text, fits = line_text(line)
        text = text.strip()
        if not text:
            continue
        try:
            if not fits:
                raise ValueError("not UTF-8")
            row = json_object(text)
            yield {field.name: _cast(row.get(field.name), field.type) for field in schema}
        except (ValueError, TypeError, OverflowError):
            bad.append((number, text))


def _cast(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind):
        if isinstance(value, (dict, list)):
            raise ValueError("a nested value where text is expected")
        return as_text(value)
    if pa.types.is_integer(kind):
        number = int(str(value)) if isinstance(value, str) or int(value) != value else int(value)
        return pa.scalar(number, kind).as_py()  # OverflowError where the column has no room for it
    return float(value)
