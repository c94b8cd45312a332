"""Small HTML tables for notebooks; whatever the cells hold, they stay text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
LONGEST_CELL = 120
"""Characters of a cell; longer texts are cut and end in an ellipsis."""


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a caption.

    Args:
        caption: one line about the table.
        header: names of the columns.
        rows: cells in the order of `header`; `None` is an empty cell.

    Returns:
        One `<table>` element in which every value is escaped.
    """
    lines = [f"<table><caption>{_cell(caption, None)}</caption>", _row("th", header)]
    return "\n".join([*lines, *(_row("td", row) for row in rows), "</table>"])


def _row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_cell(cell, LONGEST_CELL)}</{tag}>' for cell in cells)}</tr>"


def _cell(value: object, longest: int | None) -> str:
    text = "" if value is None else _UNPRINTABLE.sub(" ", str(value))
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return html.escape(text)
