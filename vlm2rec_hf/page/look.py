"""How the shop's page looks: shelves as HTML, the style sheet, the one script."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..recommending.cards import CARD_STYLE, SHARES_IN_WORDS, ShownItem, card
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
  width: 100% !important; max-width: 1240px !important; margin: 0 auto !important; padding: 0 20px 48px !important;
  background: #fff; color: var(--ink); }
.gradio-container main, .gradio-container .wrap { padding: 0 !important; max-width: none !important; }
.gradio-container.gradio-container h1, .gradio-container.gradio-container h2 { color: var(--ink); margin: 0; }
.gradio-container .html-container, .gradio-container .prose { padding: 0 !important; }
.mast { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 16px; padding: 22px 0 14px;
  border-bottom: 2px solid var(--ink); }
.mast h1 { font-size: 30px; font-weight: 800; letter-spacing: -.03em; line-height: 1.15; }
.mast p { margin: 0; color: var(--quiet); font-size: 15px; }
.shelf { padding: 4px 0; }
.shelf header { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: 4px 12px;
  margin-bottom: 12px; }
.shelf h2 { font-size: 20px; font-weight: 700; letter-spacing: -.01em; line-height: 1.3; }
.shelf .hint { margin: 0; color: var(--quiet); font-size: 14px; }
.card { transition: box-shadow .15s; } .card:hover { box-shadow: 0 4px 16px rgb(0 0 0 / .12); }
.card button { display: block; width: 100%; padding: 0; border: 0; background: none; color: inherit; font: inherit;
  text-align: left; cursor: pointer; }
.card b { color: var(--ink); }
.shelf button:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; border-radius: 12px; }
#recommended, #found { padding: 14px 16px 16px; border-radius: 16px; background: #f3f1ec; }
.strip .cards { display: flex; gap: 10px; overflow-x: auto; padding-bottom: 6px; scrollbar-width: thin; }
.strip .card { flex: 0 0 92px; } .strip .words { padding: 6px 8px 8px; } .strip small { display: none; }
.strip b { font-size: 12px; -webkit-line-clamp: 1; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; color: var(--quiet); font-size: 12px; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border-radius: 3px; }
.plain { border: 0; background: none; padding: 4px 2px; color: var(--accent); font-size: 14px; cursor: pointer;
  text-decoration: underline; }
.said { margin: 0; font-size: 14px; color: var(--ink); } #said:has(.said:empty) { margin: -10px 0; }
.said.bad { color: #a3281c; }
.searchbar { align-items: end !important; gap: 10px !important; }
.searchbar .block, .how .block { border: 0 !important; padding: 0 !important; min-width: 0 !important; }
.searchbar .form, .how .form { border: 0 !important; min-width: 0 !important; box-shadow: none !important;
  background: none !important; }
.searchbar textarea, .searchbar input { border: 1px solid #8d8b84 !important; border-radius: 10px !important;
  background: #fff !important; min-height: 44px; padding: 10px 14px !important; }
.searchbar button { min-height: 44px; white-space: nowrap; border-radius: 10px; font-size: 15px; }
.how { align-items: end !important; gap: 6px 32px !important; } .how input[type=number] { display: none; }
.how .block { max-width: 460px; overflow: visible !important; }
footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container { padding: 0 12px 40px !important; } .mast h1 { font-size: 26px; } .cards { gap: 10px; }
  .searchbar { flex-wrap: wrap !important; } .searchbar > .form, .searchbar > .block { flex: 1 1 100% !important; }
  .searchbar button { flex: 1 1 40% !important; min-width: 0 !important; padding: 0 8px; font-size: 14px; }
  .how { flex-direction: column !important; align-items: stretch !important; } .how .block { max-width: none; }
  #recommended, #found { margin: 0 -12px; padding: 14px 12px; border-radius: 0; }
  #recommended .cards, #found .cards { display: flex; overflow-x: auto; padding-bottom: 6px;
    scroll-snap-type: x proximity; }
  #recommended .card, #found .card { flex: 0 0 44%; scroll-snap-align: start; }
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
    hint = f'<p class="hint">{html.escape(hint)}</p>' if hint else legend(found)
    empty = "" if found.items else '<p class="hint">Nothing found.</p>'
    return _section(found.heading, hint, f'<ol class="cards">{cards}</ol>{empty}')


def legend(found: Shelf) -> str:
    """What the colours of the bars mean, as far as there are bars: what of the history meets what of the item."""
    names = dict.fromkeys(name for item in found.items if item.why for name in item.why.shares)
    if len(names) < 2:
        return ""
    return '<span class="legend">' + "".join(
        f'<span><i class="{html.escape(name)}"></i>{SHARES_IN_WORDS.get(name, html.escape(name))}</span>'
        for name in names
    ) + "</span>"  # fmt: skip


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
