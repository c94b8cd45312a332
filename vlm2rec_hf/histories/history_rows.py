"""A history's rows as pieces, and how many of them have been run: what a new item changes and what it does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..modeling.family_vlm2rec import BackboneFamily
from ..modeling.items_vlm2rec import PreparedItem
from ..modeling.processing_vlm2rec import VLM2RecProcessor

NumberedItem = tuple[int, PreparedItem]
"""An item and the number it got when it was appended; equal numbers mean the same item."""


@dataclass(frozen=True)
class Piece:
    """Part of a row: the instruction, or an item with its end token.

    Attributes:
        item: number of the item, -1 for the instruction.
        ids: its tokens.
        image: the item, if an image stands in the piece.
        positions: by how much the piece moves the position of what follows.
    """

    item: int
    ids: tuple[int, ...]
    image: PreparedItem | None
    positions: int

    def is_same(self, other: "Piece") -> bool:
        """Whether both put the same states into a cache, given that the same stands before them."""
        return self.item == other.item and self.ids == other.ids


@dataclass
class HistoryRow:
    """One row of one user.

    Attributes:
        pieces: the row; without any it is absent.
        done: leading pieces whose keys and values are in the cache.
        length: tokens of the pieces that are done.
        position: position of the token behind them.
    """

    pieces: list[Piece] = field(default_factory=list)
    done: int = 0
    length: int = 0
    position: int = 0

    @property
    def waiting(self) -> list[Piece]:
        """Pieces still to be run."""
        return self.pieces[self.done :]

    def keep(self, done: int) -> None:
        """Count the first `done` pieces, and no others, as run."""
        self.done = done
        self.length = sum(len(piece.ids) for piece in self.pieces[:done])
        self.position = sum(piece.positions for piece in self.pieces[:done])


class RowLayout:
    """How items become the rows of one view; the same tokens as `VLM2RecProcessor.collate`.

    Args:
        processor: lays out histories.
        family: of the backbone.
        config: the backbone's.
        view: `"text"`, `"image"`, or, with internal fusion, `"both"`.
    """

    def __init__(self, processor: VLM2RecProcessor, family: BackboneFamily, config: Any, view: str) -> None:
        self.processor = processor
        self.family = family
        self.config = config
        self.view = view
        self.is_internal = processor.fusion == "internal"

    def extend(self, row: HistoryRow, appended: Sequence[NumberedItem], earlier: Sequence[NumberedItem] = ()) -> None:
        """Put items behind a row of which nothing was dropped; `earlier` are those that the history had.

        As everywhere, only items that say something in this view take a number.
        """
        place = sum(map(self._says_something, earlier))
        for number, item in filter(self._says_something, appended):
            place += 1
            piece = self._piece(number, self._shown(item), place)
            if piece is not None:
                if not row.pieces:
                    row.pieces.append(self._instruction())
                row.pieces.append(piece)

    def rebuild(self, row: HistoryRow, window: Sequence[NumberedItem]) -> None:
        """Lay a row out again; pieces that were run stay valid up to the first one that changed."""
        new = HistoryRow()
        self.extend(new, window)
        same = 0
        for old_piece, new_piece in zip(row.pieces[: row.done], new.pieces, strict=False):
            if not old_piece.is_same(new_piece):
                break
            same += 1
        row.pieces = new.pieces
        row.keep(same)

    def _instruction(self) -> Piece:
        ids = tuple(self.processor.instruction_tokens(self.processor.user_instruction))
        return Piece(-1, ids, None, self.family.positions_taken(self.config, len(ids), None))

    def _shown(self, item: PreparedItem) -> PreparedItem:
        """An item as the view sees it: with internal fusion without what the other view is of."""
        if self.is_internal and self.view == "text":
            return replace(item, grid=None, features=None)
        return replace(item, text=None) if self.is_internal and self.view == "image" else item

    def _says_something(self, numbered: NumberedItem) -> bool:
        shown = self._shown(numbered[1])
        return bool(shown.text) or shown.grid is not None

    def _piece(self, number: int, item: PreparedItem, place: int) -> Piece | None:
        """What an item, as it is shown, puts into the row as the `place`th of the history."""
        text, image = self.processor.item_tokens(item, "user", place)
        ids = tuple(image if self.view == "image" and not self.is_internal else text)
        if not ids:
            return None
        shown = item.grid is not None and (self.is_internal or self.view == "image")
        taken = self.family.positions_taken(self.config, len(ids), item.grid if shown else None)
        return Piece(number, ids, item if shown else None, taken)


@dataclass
class UserHistory:
    """What is kept of one user.

    Attributes:
        window: the most recent items, oldest first.
        appended: items appended so far, those that have left the window included.
        rows: one per view.
    """

    window: list[NumberedItem] = field(default_factory=list)
    appended: int = 0
    rows: dict[str, HistoryRow] = field(default_factory=dict)

    @property
    def has_text(self) -> bool:
        """Whether any kept item has a text."""
        return any(item.text is not None for _, item in self.window)

    @property
    def has_image(self) -> bool:
        """Whether any kept item has an image."""
        return any(item.grid is not None for _, item in self.window)

    def extend(self, items: Sequence[PreparedItem], layouts: dict[str, RowLayout], max_history: int) -> None:
        """Add items, oldest first, and lay the rows out for the window that results."""
        earlier = self.window
        numbered = [(self.appended + i, item) for i, item in enumerate(items)]
        self.appended += len(items)
        self.window = [*self.window, *numbered][-max_history:]
        for view, layout in layouts.items():
            if len(earlier) + len(items) > max_history:
                layout.rebuild(self.rows[view], self.window)
            else:
                layout.extend(self.rows[view], numbered, earlier)


def groups_of_like_length(lengths: dict[int, int], max_tokens: int) -> list[list[int]]:
    """Rows to run together: at most half of a group is padding, and at most `max_tokens` are run at once.

    Args:
        lengths: tokens to run, by row.
        max_tokens: of a group, padding included; a row longer than that stands alone.

    Returns:
        Groups of rows, each ascending.
    """
    groups: list[list[int]] = []
    shortest = 0
    for row in sorted(lengths, key=lengths.__getitem__):
        longest = lengths[row]
        if groups and longest <= 2 * shortest + 16 and (len(groups[-1]) + 1) * longest <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
            shortest = longest
    return [sorted(group) for group in groups]
