"""The text of an Amazon product from its metadata, the same for all vintages of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..text import sound, without_markup


def product_row(meta: Mapping[str, Any], item_id: str, counts: Counter[str] | None = None) -> dict[str, str | None]:
    """The item row of a product: `title` and a `text` of title, brand, category, price and description.

    Fields that are missing or of another shape are left out; image addresses are never looked at.

    Args:
        meta: the parsed metadata line of any vintage.
        item_id: its id.
        counts: of what `without_markup` took out.
    """
    title = _words(meta.get("title"), counts)
    brand = _words(meta.get("brand"), counts) or _words(meta.get("store"), counts)
    category = _category(meta, counts)
    price = _price(meta.get("price"))
    description = _words(meta.get("description"), counts)
    parts = [
        title,
        f"Brand: {brand}" if brand else None,
        f"Category: {category}" if category else None,
        f"Price: {price}" if price else None,
        description,
    ]
    # Without a title the other fields still describe the product.
    text = ". ".join(part.rstrip(". ") for part in parts if part)
    return {
        "item_id": sound(item_id),
        "title": title,
        "brand": brand,
        "category": category,
        "text": f"{text}." if text else None,
    }


def _words(value: Any, counts: Counter[str] | None = None) -> str | None:
    if isinstance(value, (list, tuple)):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return None
    return " ".join(without_markup(sound(value), counts).split()) or None


def _category(meta: Mapping[str, Any], counts: Counter[str] | None) -> str | None:
    # 2014: `categories` is a list of paths; 2018: `category` is one path; 2023: `categories` is one path.
    value = meta.get("category") or meta.get("categories")
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        value = value[0]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return None
    levels = [_words(level, counts) for level in value]
    return " > ".join(level for level in levels if level) or None


def _price(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return f"${value:.2f}" if value > 0 else None
    # A page fragment instead of a price occurs in 2018; nothing that long is a price.
    text = _words(value)
    return text if text and len(text) <= 30 and any(c.isdigit() for c in text) else None
