"""The one rule for text: sound Unicode, no page source; numbers and dates are text, only nothing is nothing.

Every table goes through it (`RecDataset.from_tables`), whatever container or file it came from.
"""

from __future__ import annotations

import datetime as dt
import html
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

MARKUP, HIDDEN = "texts_with_markup", "script_and_style_bodies"
"""What was mended, as it is counted: texts with page source (now what a browser would show), and bodies of scripts and
styles (dropped)."""

# Elements that stand in a line of text; all others begin a new one, so that words around them stay apart.
_INLINE = (
    "a abbr acronym b bdi bdo big blink cite code data del dfn em font i ins kbd mark q s samp small span strike "
    "strong sub sup time tt u var wbr"
).split()
_BLOCK = (
    "address area article aside audio base blockquote body br button canvas caption center col colgroup datalist dd "
    "details dialog dir div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head "
    "header hgroup hr html iframe img input label legend li link main map marquee menu meta meter nav nobr noframes "
    "noscript object ol optgroup option output p param picture pre progress script section select source style "
    "summary svg table tbody td template textarea tfoot th thead title tr track ul video"
).split()
# No part goes past the next "<": however broken the source, it is read in linear time.
_ATTRIBUTES = r"""(?=[\s/>])(?:[^<>"']*(?:(?:"[^"<]*"|'[^'<]*')[^<>"']*)*|[^<>]*)>"""
_TAG = re.compile(rf"</?({'|'.join(sorted((*_INLINE, *_BLOCK), key=len, reverse=True))}){_ATTRIBUTES}", re.IGNORECASE)
# As browsers do: a body that is never closed goes to the end.
_BODY = re.compile(rf"<(script|style){_ATTRIBUTES}.*?(?:</\1\s*[^<>]*>|\Z)", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|<!doctype\b[^<>]*>|<!\[CDATA\[|\]\]>|<\?xml\b[^<>]*>", re.I | re.DOTALL)
# Without their semicolon only those that no address and no "R&D" holds by chance.
_ENTITY = re.compile(
    r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});|&(?:amp|lt|gt|quot|nbsp)\b(?!=)"
)
_REPEATED = re.compile(r"&(?:amp;)+(?=amp;)")
_ROUNDS = 20
SUSPECT = r"[<&]|\]\]>"
"""A pattern that every text with page source matches."""


def sound(text: str) -> str:
    """The text with its lone surrogates as U+FFFD; two halves of one character that met are put together."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def all_sound(value: Any) -> Any:
    """A value as JSON gives it, every text in it `sound`, names of fields too."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, Mapping):
        return {all_sound(key): all_sound(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_sound(part) for part in value]
    return value


def without_markup(text: str, counts: Counter[str] | None = None) -> str:
    """What a browser would show of a text: no tags, no bodies of scripts and styles, entities as characters.

    What is no element of HTML stays (`I <3 you`, `a < b`). Source that was escaped, even twice, is read as well, so
    that doing it again changes nothing. Text without any of it is left as it is, blanks included.

    Args:
        text: any text.
        counts: `MARKUP` and `HIDDEN` are added to it.
    """
    before, bodies = text, 0
    for _ in range(_ROUNDS):
        last = text
        text, found = _BODY.subn(" ", text)
        bodies += found
        text = _TAG.sub(_space, _COMMENT.sub(" ", text))
        text = _ENTITY.sub(_character, _REPEATED.sub("&", text))
        if text == last:
            break
    if text == before:
        return text
    if counts is not None:
        counts[MARKUP] += 1
        counts[HIDDEN] += bodies
    return " ".join(text.split())


def _space(tag: re.Match[str]) -> str:
    return "" if tag[1].lower() in _INLINE else " "


def _character(entity: re.Match[str]) -> str:
    # A name that HTML does not know stays as it is.
    shown = html.unescape(entity[0])
    if shown == "\u00ad":  # a hyphen that only shows at the end of a line
        return ""
    blank = len(shown) == 1 and unicodedata.category(shown) in ("Zs", "Zl", "Zp", "Cc")
    return " " if blank else shown


def joined(parts: Iterable[str | None]) -> str | None:
    """Parts of a text as sentences, `A. B. C`; None and blank ones are left out."""
    kept = [part.strip() for part in parts if part and part.strip()]
    ends = [part if part.endswith((".", "!", "?", ":", ";")) else f"{part}." for part in kept[:-1]]
    return " ".join([*ends, *kept[-1:]]) or None


def is_nothing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, pandas' NA and NaT. Words such as "NA" are words."""
    if value is None:
        return True
    if isinstance(value, (str, bytes, Mapping, list, tuple, np.ndarray)):
        return False
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, Decimal)) and bool(value != value)


def number_text(value: float | np.floating[Any]) -> str:
    """A number as people write it: whole ones without a point (`12`, not `12.0`), others with the digits they need."""
    number = float(value)
    if math.isfinite(number) and number == math.floor(number):
        return str(int(number))
    # In the precision it came in: a single-precision 0.1 is not 0.10000000149011612.
    return str(value) if isinstance(value, np.floating) else repr(number)


def as_text(value: Any) -> str | None:
    """Any cell as text: texts as they are (but `sound`), numbers and dates as written, all else as JSON."""
    if is_nothing(value):
        return None
    if isinstance(value, str):
        return sound(str(value))
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)):
        return number_text(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (Mapping, list, tuple, np.ndarray)):
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return sound(json.dumps(plain, ensure_ascii=False, default=as_text))
    return sound(str(value))
