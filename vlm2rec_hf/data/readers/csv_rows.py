"""The rows of delimited text as the parser sees them: in which line each begins, and which quotes are mere characters.

Our rules, which is what RFC 4180 leaves open: a line ends with LF, CR or both, and a quote that is never closed is no
quote.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator


def numbered_rows(data: bytes, separator: str, *, quoted: bool) -> Iterator[tuple[int, bytes]]:
    """The rows that are not blank, the header too, each with the number (from 1) of the line in which it begins.

    Args:
        data: the text, in UTF-8.
        separator: one character.
        quoted: whether quotes group a field, so that a row may hold line breaks.
    """
    quoted = quoted and b'"' in data
    mark = re.escape(separator.encode())
    field = rb'(?:"(?:[^"]++|"")*+"?)?[^%s\r\n]*+' % mark if quoted else rb"[^\r\n]*+"
    row = rb"%s(?:%s%s)*+" % (field, mark, field) if quoted else field
    number = 1
    for found in re.finditer(rb"(%s)(?:\r\n|\r|\n|\Z)" % row, data):
        if found[1]:
            yield number, found[1]
        number += _line_ends(found[0]) if quoted else 1


def with_stray_quotes_escaped(data: bytes, separator: str) -> tuple[bytes, list[int]]:
    """The text with quotes doubled where they only seem to open a field, and the lines (from 1) of these.

    A field that goes over a line break has to end with its closing quote. One that is never closed would take all
    rows that follow into itself. So would one whose next quote has text behind it, or, between tabs, one with tabs in
    it, if there is a line in it with as many separators as a row has: that line is taken for a row. In all these the
    opening quote is a character of its field, which ends where any other does.

    Args:
        data: the text, in UTF-8.
        separator: one character.
    """
    mark = re.escape(separator.encode())
    opening = re.compile(rb'(?<![^%s\r\n])"' % mark)
    grouped = re.compile(rb'"((?:[^"]++|"")*+)("?)([^%s\r\n]*+)' % mark)
    plain = re.compile(rb"[^%s\r\n]*+" % mark)
    to_line_end = re.compile(rb"[^\r\n]*+")
    separators = _separators(data, separator)

    def holds_a_row(field: re.Match[bytes]) -> bool:
        line_end = to_line_end.match(data, field.end())
        assert line_end is not None  # it matches nothing as well
        lines = data[field.start() : line_end.end()].splitlines()[1:]
        return any(line.count(separator.encode()) >= separators for line in lines)

    parts: list[bytes] = []
    lines = [1]
    done = place = 0
    while (start := opening.search(data, place)) is not None:
        field = grouped.match(data, start.start())
        assert field is not None  # it begins with the quote that was found
        inside, closing, rest = field.groups()
        place = field.end()
        if b"\n" not in inside and b"\r" not in inside:
            continue
        odd = rest.strip(b" ") or (separator == "\t" and b"\t" in inside)
        if not closing or (odd and holds_a_row(field)):
            alone = plain.match(data, start.start())
            assert alone is not None
            lines.append(lines[-1] + _line_ends(data[done : start.start()]))
            parts += [data[done : start.start()], b'"%s"' % alone[0].replace(b'"', b'""')]
            done = place = alone.end()
    return b"".join([*parts, data[done:]]), lines[1:]


def _separators(data: bytes, separator: str) -> int:
    """How many separators the first row has between its fields."""
    _, first = next(numbered_rows(data, separator, quoted=False), (1, b""))
    return len(next(csv.reader([first.decode("utf-8", "replace")], delimiter=separator))) - 1


def _line_ends(text: bytes) -> int:
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")
