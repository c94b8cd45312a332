"""A page of recommendations: one HTML file that needs nothing beside it, images included."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

IMAGE_PIXELS = 180
"""Longest side of an image on the page."""

# Titles and images come from data: whatever they hold, the page may neither run nor fetch anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 1.6em; } p { color: #555; }
ol { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 14px; }
li { width: 150px; border: 1px solid #ddd; border-radius: 8px; padding: 8px; }
li div { height: 180px; display: flex; align-items: center; justify-content: center; background: #f4f4f4; }
li img { max-width: 100%; max-height: 100%; } li div span { color: #999; }
li b { display: block; margin-top: 6px; overflow-wrap: anywhere; font-weight: 600; }
li small { color: #777; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class ShownItem:
    """One item as the page and the table show it.

    Attributes:
        item_id: raw id.
        title: its title, None where there is none.
        score: what it was ranked by, None in a history.
        image: decoded, None where there is none.
    """

    item_id: str
    title: str | None
    score: float | None = None
    image: Image.Image | None = None


def page(heading: str, note: str, history: Sequence[ShownItem], recommended: Sequence[ShownItem]) -> str:
    """The page as text; every title, id and note is escaped, every image a `data:` URI.

    Args:
        heading: of the page.
        note: one sentence below it: where the items come from.
        history: oldest first.
        recommended: best first.
    """
    sections = [("History, oldest first", history), ("Recommended, best first", recommended)]
    body = "\n".join(
        f"<h2>{title} ({len(items)})</h2>\n<ol>\n" + "\n".join(map(_card, items)) + "\n</ol>"
        for title, items in sections
        if items
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
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


def _card(item: ShownItem) -> str:
    title = html.escape(item.title or "(no title)")
    shown = f'<img src="{_data_uri(item.image)}" alt="{title}">' if item.image else "<span>no image</span>"
    score = "" if item.score is None else f" &middot; {item.score:.4g}"
    return f"<li><div>{shown}</div><b>{title}</b><small>{html.escape(item.item_id)}{score}</small></li>"


def _data_uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((IMAGE_PIXELS, IMAGE_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
