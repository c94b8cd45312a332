"""Recommendations as a person sees them: titles and images of items, a table, one sentence about the list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .cards import ShownItem
from .page import page, write_page

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..modeling.catalogue_seqrec import HeadCatalogue, Recommendation

TITLE_WIDTH = 60


class ShownItems:
    """Titles and images of items by raw id.

    Args:
        catalogue: the head's, which may know titles.
        dataset: where titles and images come from, if there is one.
        best: a recommendation that brings titles of its own, as those from an index do.
    """

    def __init__(
        self, catalogue: HeadCatalogue | None, dataset: RecDataset | None, best: Recommendation | None = None
    ) -> None:
        self.dataset = dataset
        self.place = {} if dataset is None else {str(item): i for i, item in enumerate(dataset.item_ids)}
        self.titles = {} if catalogue is None else dict(zip(catalogue.ids, catalogue.titles, strict=True))
        self.titles |= {} if best is None else dict(zip(best.item_ids, best.titles, strict=True))

    def item(self, item_id: str) -> ShownItem:
        """One item of a history, without image."""
        return ShownItem(item_id, self._title(item_id))

    def recommended(self, recommendation: Recommendation) -> list[ShownItem]:
        """The recommended items with their scores and reasons, without images."""
        reasons = getattr(recommendation, "reasons", None) or [None] * len(recommendation.item_ids)
        rows = zip(recommendation.item_ids, recommendation.scores, reasons, strict=True)
        return [ShownItem(item, self._title(item), score, why=why) for item, score, why in rows]

    def with_image(self, item: ShownItem) -> ShownItem:
        """The item with its image, where the dataset has one that decodes."""
        if self.dataset is None or item.item_id not in self.place:
            return item
        return replace(item, image=self.dataset.item(self.place[item.item_id]).get("image"))

    def _title(self, item_id: str) -> str | None:
        if self.dataset is not None and item_id in self.place:
            names = [name for name in ("title", "text") if name in self.dataset.items.column_names]
            row = self.dataset.items.select_columns(names)[self.place[item_id]] if names else {}
            for name in names:
                if isinstance(row[name], str) and row[name].strip():
                    return row[name]
        return self.titles.get(item_id)


def table(items: Sequence[ShownItem]) -> str:
    """Place, id, score and title, one item a line; control characters and line breaks in titles become spaces."""
    ids = [printable(item.item_id) for item in items]
    width = max([len("item"), *map(len, ids)])
    lines = [f"{'#':>3}  {'item':<{width}}  {'score':>10}  title"]
    for number, (item, item_id) in enumerate(zip(items, ids, strict=True), start=1):
        title = printable(item.title or "-")
        title = title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 3] + "..."
        lines.append(f"{number:>3}  {item_id:<{width}}  {item.score:>10.4g}  {title}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """One line without control characters: a title must not move the cursor of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def note_of(recommendation: Recommendation, n_history: int) -> str:
    """One sentence: what the list is based on."""
    skipped = f" ({recommendation.n_unknown} unknown ids left out)" if recommendation.n_unknown else ""
    if recommendation.source == "popularity":
        return f"No known history{skipped}: these are the most popular items; the score is how often each was seen."
    read = n_history - recommendation.n_unknown
    return f"Ranked after a history of {read} item{'' if read == 1 else 's'}{skipped}."


def write_recommendations(
    path: str | Path,
    heading: str,
    note: str,
    shown: ShownItems,
    history: Sequence[str],
    best: Recommendation,
    *,
    newest: int | None = None,
) -> Path:
    """Write a history and what is recommended after it as one HTML page, images included.

    Args:
        path: of the page; must not exist.
        heading: of the page.
        note: one sentence below it.
        shown: titles and images of the items.
        history: raw ids, oldest first.
        best: the recommendation.
        newest: only this many newest items of the history are shown, which the note says; all by default.

    Raises:
        ValueError: `path` exists.
    """
    past = [shown.item(item) for item in (history if newest is None else history[-newest:])]
    if len(past) < len(history):
        note += f" The page shows the newest {len(past)} of them."
    images = ([*map(shown.with_image, items)] for items in (past, shown.recommended(best)))
    write_page(Path(path), page(heading, note, *images))
    return Path(path)
