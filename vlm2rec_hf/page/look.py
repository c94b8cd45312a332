"""How the shop's page looks: shelves as HTML, the style sheet, the one script."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..recommending.cards import CARD_STYLE, ShownItem, card
from .shop_window import Shelf

CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (button) trigger('click', { do: button.dataset.do, item: button.dataset.item || '' });
});
"""
"""Tells Python which button of a shelf was pressed; pressing it by keyboard is a click, too."""

STYLE = (
    CARD_STYLE
    + """
.gradio-container { --line: #e4e3df; --paper: #fff; --quiet: #5f5e59; --ink: #1c1b19; --accent: #1f5fa8;
  max-width: 1180px !important; margin: 0 auto !important; padding: 0 20px 48px !important; color: var(--ink); }
.gradio-container.gradio-container h1, .gradio-container.gradio-container h2 { color: var(--ink); margin: 0; }
.mast { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 16px; padding: 20px 0 4px; }
.mast h1 { font-size: 28px; font-weight: 750; letter-spacing: -.02em; line-height: 1.2; }
.mast p { margin: 0; color: var(--quiet); font-size: 15px; }
.shelf { padding: 10px 0 6px; }
.shelf header { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: 4px 12px;
  margin-bottom: 12px; }
.shelf h2 { font-size: 19px; font-weight: 700; letter-spacing: -.01em; line-height: 1.3; }
.shelf .hint { margin: 0; color: var(--quiet); font-size: 14px; }
.card { transition: box-shadow .15s; } .card:hover { box-shadow: 0 4px 16px rgb(0 0 0 / .12); }
.card button { display: block; width: 100%; padding: 0; border: 0; background: none; color: inherit; font: inherit;
  text-align: left; cursor: pointer; }
.card b { color: var(--ink); }
.shelf button:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; border-radius: 12px; }
.strip .cards { display: flex; gap: 10px; overflow-x: auto; padding-bottom: 6px; scrollbar-width: thin; }
.strip .card { flex: 0 0 92px; } .strip .words { padding: 6px 8px 8px; } .strip small { display: none; }
.strip b { font-size: 12px; -webkit-line-clamp: 1; }
.plain { border: 0; background: none; padding: 4px 2px; color: var(--accent); font-size: 14px; cursor: pointer;
  text-decoration: underline; }
.said { min-height: 1.5em; margin: 0; font-size: 14px; color: var(--ink); } .said.bad { color: #a3281c; }
.searchbar { align-items: end !important; gap: 10px !important; }
.searchbar button { min-height: 44px; white-space: nowrap; }
.how { align-items: center !important; gap: 8px 24px !important; }
footer.gradio-container-footer, footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container { padding: 0 12px 40px !important; } .mast h1 { font-size: 24px; } .cards { gap: 10px; }
  .searchbar { flex-wrap: wrap !important; } .searchbar > .block, .searchbar > .form { flex: 1 1 100% !important; }
  .searchbar button { flex: 1 1 40% !important; }
}
@media (prefers-reduced-motion: reduce) { .card { transition: none; } }
"""
)


def mast(title: str) -> str:
    """The top of the page."""
    return (
        f'<div class="mast"><h1>{html.escape(title)}</h1>'
        "<p>Click what you like: what is recommended follows you.</p></div>"
    )


def shelf(found: Shelf, hint: str = "", action: tuple[str, str] = ("add", "Add to your history")) -> str:
    """Items as cards, each a button.

    Args:
        found: the items.
        hint: shown beside the heading.
        action: what a card does, and in words.
    """
    cards = "".join(card(item, found.names, action) for item in found.items)
    hint = f'<p class="hint">{html.escape(hint)}</p>' if hint else ""
    empty = "" if found.items else '<p class="hint">Nothing found.</p>'
    return _section(found.heading, hint, f'<ol class="cards">{cards}</ol>{empty}')


def strip(history: Sequence[ShownItem]) -> str:
    """The history as small cards, oldest first; each takes itself out."""
    if not history:
        return _section("Your history", '<p class="hint">Empty. Click items below to fill it.</p>', "", "strip")
    cards = "".join(card(item, action=("remove", "Take out of your history")) for item in history)
    again = '<button type="button" class="plain" data-do="clear">Start over</button>'
    return _section("Your history", again, f'<ol class="cards">{cards}</ol>', "strip")


def said(text: str, bad: bool = False) -> str:
    """A sentence that screen readers read out when it changes."""
    return f'<p class="said{" bad" if bad else ""}" role="status">{html.escape(text)}</p>'


def _section(heading: str, beside: str, body: str, extra: str = "") -> str:
    heading = html.escape(heading)
    return (
        f'<section class="shelf {extra}" aria-label="{heading}">'
        f"<header><h2>{heading}</h2>{beside}</header>{body}</section>"
    )
