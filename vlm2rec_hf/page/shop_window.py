"""What the shop's page shows, without any page: items to browse, lists for a history, search, new items."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.described_items import words_of
from ..data.images import ImageError, decode_image
from ..recommending.cards import ShownItem
from ..recommending.encoder_side import EncoderSide
from ..recommending.recommender import Recommender
from ..recommending.shop_lists import ListOptions, shop_lists, similar_lists
from .item_images import ItemImages

HISTORY = 20
"""Clicks that the page remembers; older ones are forgotten."""
RANKED = 1000
"""Among so many best items a new item's place is told."""
LONGEST_TEXT = 2000
"""Characters of a search or of a new item's text."""
LARGEST_IMAGE = 10_000_000
"""Bytes of an image that is searched by or put in."""
DETAILS = ("brand", "product_type", "category", "colour", "price")
"""Columns whose values stand below a title, if the items have them."""


@dataclass(frozen=True)
class Shelf:
    """Items in a row, and what is said about them.

    Attributes:
        items: best first.
        heading: over them.
        names: id -> title of the items that reasons name.
    """

    items: list[ShownItem]
    heading: str
    names: Mapping[str, str] = field(default_factory=dict)


class ShopWindow:
    """Answers the page's questions with items that are ready to be shown; for several visitors at a time.

    Args:
        recommender: of any kind of model; heads are searched by words and take no new items.
        k: how many items a list has.
        shelf: how many items a page of `browse` has.
        new_items: whether visitors may put items into the index.

    Raises:
        ValueError: `k` or `shelf` below 1.
    """

    def __init__(self, recommender: Recommender, *, k: int = 12, shelf: int = 24, new_items: bool = True) -> None:
        for name, value in (("k", k), ("shelf", shelf)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.recommender, self.k, self.shelf = recommender, k, shelf
        self.side: Any = recommender.side
        self.encodes = isinstance(self.side, EncoderSide)
        self.takes_items = self.encodes and new_items
        self._images = ItemImages(recommender.dataset, self.side)
        self._lock = threading.Lock()  # one model, one index: one question at a time
        self._order: list[str] = []
        self._order_of: Any = None
        self._put: list[str] = []
        facts = self.side.index.facts
        self.weighs = facts.summed and {"text", "image"} <= set(facts.views)

    def browse(self, number: int = 0) -> Shelf:
        """One page of the catalogue, in an order that mixes it (our choice); what was put in here comes first.

        Args:
            number: of the page, from 0; after the last one the first comes again.
        """
        with self._lock:
            self.side.follow()
            index = self.side.index
            now = (index.version, index.edit_number, len(index))
            if now != self._order_of:
                ids = sorted(set(index.item_ids()) - set(self._put))
                random.Random(0).shuffle(ids)
                self._order, self._order_of = [*sorted(index.has(self._put), reverse=True), *ids], now
            pages = max(1, -(-len(self._order) // self.shelf))
            start = number % pages * self.shelf
            return Shelf(self._shown(self._order[start : start + self.shelf]), f"The shop: {len(index):,} items")

    def shown(self, item_ids: Sequence[str]) -> list[ShownItem]:
        """Items by id, those that are there."""
        with self._lock:
            return self._shown(item_ids)

    def click(self, history: Sequence[str], item_id: Any) -> list[str]:
        """A history with one more item, which becomes the newest; unknown ids change nothing."""
        if not isinstance(item_id, str) or not self.side.knows([item_id]):
            return list(history)
        return [*(item for item in history if item != item_id), item_id][-HISTORY:]

    def recommend(self, history: Sequence[str], balance: float = 0.5, explain: bool = True) -> Shelf:
        """What is recommended after a history; what is popular where there is none.

        Args:
            history: raw ids, oldest first; unknown ones are left out.
            balance: 0: text alone counts; 1: images alone; 0.5: both as the model has it.
            explain: say why.

        Raises:
            ValueError: a history that says nothing in the view that counts.
        """
        with self._lock:
            (best,) = shop_lists(self.side, [list(history)], self._options(balance, explain=explain))
            names = {item.item_id: item.name for item in self._shown(history, images=False)}
            reasons = {reason.item_id: reason for reason in best.reasons or ()}
            items = self._shown(best.item_ids, best.scores, reasons)
        return Shelf(items, "Popular now" if best.source == "popularity" else "Recommended for you", names)

    def similar(self, item_id: str, balance: float = 0.5) -> Shelf:
        """What is most like an item.

        Raises:
            ValueError: an unknown item.
        """
        with self._lock:
            (best,) = similar_lists(self.side, [item_id], self._options(balance))
            (name, *_) = [item.name for item in self._shown([item_id], images=False)] or [item_id]
            return Shelf(self._shown(best.item_ids, best.scores), f"Like {name}")

    def search(self, text: str | None = None, image: bytes | None = None) -> Shelf:
        """What is most like a text or an image, by the embedder; with a head, titles that hold all of the words.

        Args:
            text: what a visitor wrote.
            image: an image file's content.

        Raises:
            ValueError: nothing to search by, an image that cannot be read, or a head asked with an image.
        """
        text = _text(text, "text")
        if not text and image is None:
            raise ValueError("Write what you look for, or choose an image.")
        heading = f"Found for “{text}”" if text else "Items like your image"
        with self._lock:
            self.side.follow()
            if not self.encodes:
                if image is not None:
                    raise ValueError("This model searches by words alone; it reads no images.")
                return Shelf(self._shown(self._with_words(text)), heading)
            query = {"text": text or None, "image": _image(image)}
            if self.side.view in query and query[self.side.view] is None:
                other = "an image" if self.side.view == "image" else "words"
                raise ValueError(f"This page compares items by their {self.side.view}s alone; search by {other}.")
            (best,) = similar_lists(self.side, [query], self._options(0.5))
            return Shelf(self._shown(best.item_ids, best.scores), heading)

    def put(self, text: str | None, image: bytes | None, history: Sequence[str] = ()) -> tuple[ShownItem, str]:
        """Put a new item into the index, where it is recommended from at once.

        Args:
            text: its title, or a description.
            image: an image file's content.
            history: after which its place is told.

        Returns:
            The item, and a sentence.

        Raises:
            ValueError: neither text nor image, an image that cannot be read, or a page that takes no items.
        """
        if not self.takes_items:
            raise ValueError("This page takes no new items.")
        text = _text(text, "text")
        if not text and image is None:
            raise ValueError("A new item needs a text or an image.")
        item_id = f"new-{uuid.uuid4().hex[:8]}"
        row: dict[str, Any] = {"item_id": item_id}
        if text:
            row["title" if "title" in self.side.index.facts.columns else "text"] = text
        decoded = _image(image)
        if decoded is not None:
            row["image"] = decoded
        with self._lock:
            self.recommender.upsert([row])
            self._put.append(item_id)
            options = ListOptions(min(RANKED, len(self.side.index)), False, on_unknown="skip")
            best: Any
            try:
                (best,) = shop_lists(self.side, [list(history)], options)
            except ValueError:  # a history that says nothing in the view that ranks; the item is there all the same
                best = None
            (shown,) = self._shown([item_id])
        size = len(self.side.index)
        if best is None:
            where = "your history says nothing that it could be ranked by"
        elif best.source == "popularity":
            where = "click an item, and it is ranked with the others"
        elif item_id in best.item_ids:
            where = f"after your history it is number {best.item_ids.index(item_id) + 1:,}"
        else:
            where = f"after your history it is not among the best {RANKED:,}"
        return shown, f"{shown.name} is in the shop, one of {size:,} items; {where}."

    def _options(self, balance: float, explain: bool = False) -> ListOptions:
        if not 0 <= balance <= 1:
            raise ValueError(f"`balance` must lie between 0 and 1, got {balance!r}.")
        weights = None
        if self.weighs and balance != 0.5:
            weights = {"text": min(1.0, 2 - 2 * balance), "image": min(1.0, 2 * balance)}
        return ListOptions(self.k, on_unknown="skip", explain=explain, view_weights=weights)

    def _shown(
        self,
        item_ids: Sequence[str],
        scores: Sequence[float] | None = None,
        reasons: Mapping[str, Any] | None = None,
        images: bool = True,
    ) -> list[ShownItem]:
        scored = {} if scores is None else dict(zip(item_ids, scores, strict=True))
        rows = self.side.index.metadata(list(dict.fromkeys(item_ids)))
        uris = self._images.of([row["item_id"] for row in rows]) if images else {}
        return [
            ShownItem(
                row["item_id"],
                row.get("title") or row["text"],
                scored.get(row["item_id"]),
                uris.get(row["item_id"]),
                _details(row),
                (reasons or {}).get(row["item_id"]),
            )
            for row in rows
        ]

    def _with_words(self, text: str) -> list[str]:
        words, found = text.casefold().split(), []
        ids = self.side.index.item_ids()
        for start in range(0, len(ids), 1000):
            for row in self.side.index.metadata(ids[start : start + 1000]):
                title = f"{row.get('title') or ''} {row['text'] or ''}".casefold()
                if all(word in title for word in words):
                    found.append(row["item_id"])
                    if len(found) == self.k:
                        return found
        return found


def _details(row: Mapping[str, Any]) -> str:
    """What stands below a title; the id where nothing else is known."""
    return " · ".join(words for name in DETAILS if (words := words_of(row.get(name)))) or row["item_id"]


def _text(text: str | None, name: str) -> str:
    text = (text or "").strip()
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"`{name}` has {len(text):,} characters; write at most {LONGEST_TEXT:,}.")
    return text


def _image(content: bytes | None) -> Any:
    if content is None:
        return None
    if len(content) > LARGEST_IMAGE:
        raise ValueError(f"`image` has {len(content):,} bytes; choose one of at most {LARGEST_IMAGE:,}.")
    try:
        return decode_image(content)
    except ImageError as error:
        raise ValueError(f"The image cannot be read: {error}") from error
