"""Items described by their columns: title, category, brand, price, whatever of them a catalogue has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..columns import IMAGE, TEXT, TITLE
from .items import text_of

if TYPE_CHECKING:
    from .dataset import RecDataset
    from .items import Item

DESCRIBING = (TITLE, "category", "brand", "price")
"""The columns of PixRec's paper."""


class DescribedItems(Sequence["Item"]):
    """A dataset's items as a lazy sequence whose text is made of columns, such as `red tent, price: 30`.

    Args:
        dataset: where the items live.
        columns: which columns, in order; those that hold nothing for an item are left out of its text. None at all
            (an empty list): the item's own text. By default `DESCRIBING`, where the dataset has any of them beside
            the title; else the item's own text.
        images: False: no image is decoded, no item has one.

    Raises:
        ValueError: a column the items do not have, or the image column.
    """

    def __init__(self, dataset: RecDataset, columns: Sequence[str] | None = None, *, images: bool = True) -> None:
        known = dataset.items.column_names
        if columns is not None:
            lacking = [name for name in columns if name not in known or name == IMAGE]
            if lacking:
                raise ValueError(
                    f"`columns` must name text or number columns of the items, got {list(columns)}; there are "
                    f"{[name for name in known if name != IMAGE]}."
                )
        else:
            columns = [name for name in DESCRIBING if name in known]
            columns = columns if set(columns) - {TITLE} else []
        self.columns = tuple(columns)
        self.images = images
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset.n_items

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if not self.images:
            return {"text": self._texts[index], "image": None}
        return {**self._dataset.item(index), "text": self._texts[index]}

    @property
    def item_ids(self) -> np.ndarray:
        """Raw ids in order: `(n_items,)`."""
        return self._dataset.item_ids

    def texts(self) -> Iterator[str | None]:
        """Every item's text without decoding an image."""
        return iter(self._texts)

    @cached_property
    def _texts(self) -> list[str | None]:
        if not self.columns:
            return self._dataset.item_texts()
        # The item's own text stands in where none of the columns says anything.
        own = [name for name in (TITLE, TEXT) if name in self._dataset.items.column_names]
        rows = self._dataset.items.select_columns(list(dict.fromkeys([*self.columns, *own])))
        return [describe(row, self.columns) for row in rows]


def describe(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """One item's text: the title bare, other columns by name, what is empty left out; `text_of` where nothing is left.

    Args:
        row: of the item table; lists (of categories) are joined.
        columns: in order.
    """
    parts = []
    for name in columns:
        words = words_of(row.get(name))
        if words:
            parts.append(words if name == TITLE else f"{name}: {words}")
    return ", ".join(parts) or text_of(row)


def _number(value: float) -> str:
    """The fewest digits that give the number back, in single precision if it was stored in single precision."""
    single = np.float32(value) if abs(value) < 1e38 else np.float32(0)
    return np.format_float_positional(single if float(single) == value else np.float64(value), trim="-")


def words_of(value: Any) -> str:
    """One value as words on one line, numbers written out; empty for what is not there."""
    if value is None or value != value:  # None and NaN
        return ""
    if isinstance(value, (list, tuple)):
        return " / ".join(words for words in map(words_of, value) if words)
    if isinstance(value, float):
        return _number(value)
    return " ".join(str(value).split())
