"""An item as a card: image, title, and why it is recommended; the HTML of one file's page and of the shop's page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from .explaining import Explanation

IMAGE_PIXELS = 240
"""Longest side of an image on a card."""
SHARES_IN_WORDS = {
    "text_text": "text with text",
    "text_image": "text with image",
    "image_text": "image with text",
    "image_image": "image with image",
    "both": "history with item",
    "popularity": "popularity",
}
CARD_STYLE = """
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(160px, 43%), 1fr)); }
.card { display: flex; flex-direction: column; min-width: 0; margin: 0; border: 1px solid var(--line, #e2e2e6);
  border-radius: 12px; overflow: hidden; background: var(--paper, #fff); }
.card .shot { display: flex; align-items: center; justify-content: center; aspect-ratio: 1; background: #f6f5f3; }
.card .shot img { width: 100%; height: 100%; object-fit: contain; margin: 0; }
.card .shot span { color: #6b6b73; font-size: 13px; }
.card .words { display: block; padding: 10px 12px 12px; text-align: left; }
.card b { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  font-weight: 600; font-size: 14px; line-height: 1.35; overflow-wrap: anywhere; }
.card small { display: block; margin-top: 2px; color: var(--quiet, #62626a); font-size: 12px;
  overflow-wrap: anywhere; }
.why { display: block; padding: 0 12px 12px; color: var(--quiet, #62626a); font-size: 12px; line-height: 1.4; }
.why .bar { display: flex; gap: 1px; height: 7px; margin-bottom: 6px; border-radius: 4px; overflow: hidden;
  background: var(--line, #e2e2e6); }
.why .bar i { display: block; } .why .against { opacity: .35; }
.text_text, .both { background: #1f5fa8; } .text_image { background: #7a9fce; }
.image_text { background: #e8a26b; } .image_image { background: #c65a1e; } .popularity { background: #77746d; }
"""


@dataclass(frozen=True)
class ShownItem:
    """One item as a page and a table show it.

    Attributes:
        item_id: raw id.
        title: its title, None where there is none.
        score: what it was ranked by, None in a history.
        image: decoded, or a `data:` URI of `data_uri`; None where there is none.
        note: shown below the title; by default the id and the score.
        why: reasons for its score.
    """

    item_id: str
    title: str | None
    score: float | None = None
    image: Image.Image | str | None = None
    note: str | None = None
    why: Explanation | None = None

    @property
    def name(self) -> str:
        """What it is called on a page."""
        return self.title or "(no title)"


def card(item: ShownItem, names: Mapping[str, str] | None = None, action: tuple[str, str] | None = None) -> str:
    """One item as an `<li>`; every title, id and note is escaped, an image is a `data:` URI.

    Args:
        item: the item.
        names: id -> title of the items that reasons may name.
        action: makes the card a button: what it does, for the script of the page, and in words, for its label
            (`"Add"`).
    """
    title = html.escape(item.name)
    shown = '<span class="shot"><span>no image</span></span>'
    if item.image is not None:
        uri = item.image if isinstance(item.image, str) else data_uri(item.image)
        # A button is read out by its label.
        shown = f'<span class="shot"><img src="{uri}" alt="{"" if action else title}"></span>'
    score = "" if item.score is None else f" &middot; {item.score:.4g}"
    note = f"{html.escape(item.item_id)}{score}" if item.note is None else html.escape(item.note)
    body = f'{shown}<span class="words"><b>{title}</b><small>{note}</small></span>'
    if action is not None:
        does, label = (html.escape(part) for part in action)
        body = (
            f'<button type="button" data-do="{does}" data-item="{html.escape(item.item_id)}" '
            f'aria-label="{label}: {title}">{body}</button>'
        )
    return f'<li class="card">{body}{why(item.why, names or {})}</li>'


def why(explanation: Explanation | None, names: Mapping[str, str]) -> str:
    """Reasons as a bar of shares and one sentence; nothing where there are none."""
    if explanation is None:
        return ""
    return f'<span class="why">{_bar(explanation)}{html.escape(sentence(explanation, names))}</span>'


def sentence(explanation: Explanation, names: Mapping[str, str]) -> str:
    """The largest share, and the item of the history that pulls most, in the words of a shop.

    Args:
        explanation: of one item.
        names: id -> title.
    """
    best = max(explanation.shares, key=lambda name: explanation.shares[name])
    if list(explanation.shares) == ["popularity"]:
        return f"Popular: seen {explanation.score:.0f} times."
    total = sum(abs(share) for share in explanation.shares.values())
    text = "Fits your history"
    if len(explanation.shares) > 1 and total:
        text = f"{SHARES_IN_WORDS.get(best, best).capitalize()} {explanation.shares[best] / total:.0%}"
    if explanation.pulls and explanation.pulls[0].pull > 0:
        first = explanation.pulls[0]
        named = "your new item" if first.item_id is None else names.get(first.item_id, first.item_id)
        text += f", most because of {named[:60]}"
    return f"{text}."


def data_uri(image: Image.Image) -> str:
    """An image, made small, as a `data:` URI."""
    small = image.convert("RGB")
    small.thumbnail((IMAGE_PIXELS, IMAGE_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _bar(explanation: Explanation) -> str:
    """The shares side by side, those that count against the item pale."""
    total = sum(abs(share) for share in explanation.shares.values())
    if len(explanation.shares) < 2 or not total:
        return ""
    parts = "".join(
        f'<i class="{html.escape(name)}{" against" if share < 0 else ""}" style="width:{abs(share) / total:.1%}"></i>'
        for name, share in explanation.shares.items()
    )
    said = ", ".join(f"{SHARES_IN_WORDS.get(name, name)} {share:.2f}" for name, share in explanation.shares.items())
    said = html.escape(f"Score {explanation.score:.2f}: {said}")
    return f'<span class="bar" role="img" aria-label="{said}" title="{said}">{parts}</span>'
