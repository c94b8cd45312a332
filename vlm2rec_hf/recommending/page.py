"""A page of recommendations: one HTML file that needs nothing beside it, images included."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from .cards import CARD_STYLE, ShownItem, card

# Titles and images come from data: whatever they hold, the page may neither run nor fetch anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 1.6em; } p { color: #555; }
"""


def page(heading: str, note: str, history: Sequence[ShownItem], recommended: Sequence[ShownItem]) -> str:
    """The page as text; every title, id and note is escaped, every image a `data:` URI.

    Args:
        heading: of the page.
        note: one sentence below it: where the items come from.
        history: oldest first.
        recommended: best first.
    """
    sections = [("History, oldest first", history), ("Recommended, best first", recommended)]
    names = {item.item_id: item.name for item in history}
    body = "\n".join(
        f'<h2>{title} ({len(items)})</h2>\n<ol class="cards">\n'
        + "\n".join(card(item, names) for item in items)
        + "\n</ol>"
        for title, items in sections
        if items
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{STYLE}{CARD_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(heading)}</h1>\n<p>{html.escape(note)}</p>\n{body}\n</body>\n</html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page; it appears whole or not at all.

    Raises:
        ValueError: `path` exists.
    """
    from ..files import whole_file

    check_new(path)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_new(path: Path) -> None:
    """Refuse a page that is there already.

    Raises:
        ValueError: `path` exists.
    """
    if path.exists():
        raise ValueError(f"`html` {str(path)!r} exists; name a new file or move the old one away.")
