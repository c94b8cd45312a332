"""Values inside Markdown: whatever they hold, they stay words, code or table cells, and never become layout."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_LINE_START = re.compile(r"^(\d*)([#+\-=:]|[.)](?=\s|$))")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class Markdown(str):
    """Text that is Markdown already. Templates escape everything else (`escape`)."""


def one_line(value: object) -> str:
    """A value as text on one line: line breaks, control characters and runs of blanks become one blank."""
    return " ".join(_UNPRINTABLE.sub(" ", str(value)).split())


def escape(value: object) -> Markdown:
    """A value as plain words: no Markdown, no HTML, one line; numbers are written out with at most 6 digits.

    Raises:
        ValueError: None, which would read as a fact.
    """
    if isinstance(value, Markdown):
        return value
    if value is None:
        raise ValueError("`value` is None: a card must say in words what is not known; test for it in the template.")
    if isinstance(value, bool):
        return Markdown("yes" if value else "no")
    if isinstance(value, int):
        return Markdown(f"{value:,}")
    if isinstance(value, float):
        return Markdown(f"{value:.6g}")
    text = html.escape(one_line(value), quote=False)
    return Markdown(_LINE_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text)))


def code(value: object) -> Markdown:
    """A value as inline code, in a fence of backticks longer than any run inside it; fit for table cells too.

    One with a `|` stands in tags: between backticks a backslash before it would be shown, but not in a table, where
    it ends the cell without one.
    """
    text = one_line(value)
    if "|" in text:
        return Markdown(f"<code>{escape(text)}</code>")
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if not text or text[0] == "`" or text[-1] == "`" else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")


def fenced(text: str, language: str) -> Markdown:
    """Text as a code block that nothing in it can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def json_block(value: object) -> Markdown:
    """A value as an indented JSON block."""
    return fenced(_escaped(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)), "json")


def python_string(value: str) -> Markdown:
    """A value as a Python literal on one line, for snippets."""
    return Markdown(_escaped(json.dumps(value, ensure_ascii=False)))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers_from: int = 1) -> Markdown:
    """A Markdown table; every cell is escaped, columns from `numbers_from` on stand right."""
    align = [Markdown("---" if place < numbers_from else "---:") for place in range(len(header))]
    lines: list[Sequence[Any]] = [header, align, *rows]
    return Markdown("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))


def _escaped(text: str) -> str:
    """JSON leaves some characters raw that end a line for some readers, or that no file can hold."""
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _cell(value: Any) -> str:
    return "–" if value is None else escape(value)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
