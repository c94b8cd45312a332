"""What an embedder has read of users' histories, kept within a budget: a click costs one item, not all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from ..columns import VIEWS
from ..histories.history_state import HistoryState

if TYPE_CHECKING:
    from ..modeling.encoding_vlm2rec import Encoding
    from ..modeling.processing_vlm2rec import VLM2RecProcessor

SHRINK_TO = 0.75
"""Beyond the budget, users go until so much of it is used: making room copies what stays."""
GROW_BY = 4
"""Places are made for a quarter more users at a time, as that copies, too."""

Row = Sequence[tuple[Hashable, Any]]
"""A history, oldest first: what tells an item from others (and from itself with another text), and the item."""


class KeptHistories:
    """A `HistoryState` of the users who were asked for last. One thread at a time.

    Vectors are those of `encode_histories` (1e-5 in float32). Of a history that begins as the kept one, also after its
    oldest items left the window, only what is new is appended; any other is read anew.

    Args:
        model: a `VLM2RecEmbedder`.
        processor: made for its backbone.
        memory_bytes: budget of keys, values, image features and vectors; who was asked for longest ago goes first.
            While room is made for more of them, up to twice as much is needed.

    Raises:
        ValueError: as `HistoryState`, for backbones that cannot keep histories.
    """

    def __init__(self, model: Any, processor: VLM2RecProcessor, memory_bytes: float) -> None:
        self._model, self._processor, self._budget = model, processor, memory_bytes
        self._forget_all()
        self.forgotten = 0
        """Users who went because the budget was used up."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Memory used."""
        return self._state.nbytes

    def _forget_all(self) -> None:
        views = None if self._processor.fusion == "external" else VIEWS
        self._state = HistoryState(self._model, self._processor, (), views)
        self._places: OrderedDict[str, int] = OrderedDict()
        self._keys: dict[int, list[Hashable]] = {}
        self._free: list[int] = []
        self._made = 0

    def encode(self, users: Sequence[str], rows: Sequence[Row]) -> Encoding:
        """Vectors of users' histories.

        Args:
            users: whose; each once.
            rows: their histories, at most `max_history` items, none empty.

        Raises:
            ValueError: an item without content, or other weights than before. What was kept is forgotten then.
        """
        try:
            self._make_room(users)
            places, new = [], []
            for user, row in zip(users, rows, strict=True):
                place = self._place_of(user)
                keys = [key for key, _ in row]
                count = self._unread(place, keys)
                if count is None:
                    self._state.clear([place])
                    count = len(row)
                places.append(place)
                new.append([item for _, item in row[len(row) - count :]])
                self._keys[place] = keys
            self._state.extend(new, users=places)
            encoded = self._state.embedding(places)
        except BaseException:
            self._forget_all()
            raise
        if any(new):  # else nothing has grown, and counting what is used walks over every user's items
            self._shrink()
        return encoded

    def _place_of(self, user: str) -> int:
        """Of a user, now the one asked for last; a free one for a new user."""
        if user not in self._places:
            self._places[user] = self._free.pop()
        self._places.move_to_end(user)
        return self._places[user]

    def _unread(self, place: int, keys: list[Hashable]) -> int | None:
        """How many items at the end of a history are new; `None` where it does not go on from what was read."""
        read = self._keys.get(place, [])
        for gone in range(len(read) + 1):
            stays = len(read) - gone
            new = len(keys) - stays
            window = max(0, len(read) + new - self._state.max_history)
            if new >= 0 and gone == window and read[gone:] == keys[:stays] and (stays or not read):
                return new
        return None

    def _make_room(self, users: Sequence[str]) -> None:
        """Have a free place for each new user."""
        lacking = sum(user not in self._places for user in users) - len(self._free)
        if lacking <= 0:
            return
        each = self.nbytes / max(len(self._state), 1)
        room = int(self._budget / each) - len(self._state) if each else lacking
        oldest = [user for user in self._places if user not in users]
        for user in oldest[: max(0, lacking - max(room, 0))]:
            self._free_place(user)
            lacking -= 1
        if lacking > 0:
            more = max(lacking, min(room, len(self._state) // GROW_BY))
            made = list(range(self._made, self._made + more))
            self._state.add(made)
            self._made += more
            self._free += made

    def _free_place(self, user: str) -> None:
        place = self._places.pop(user)
        self._keys.pop(place, None)
        self._state.clear([place])
        self._free.append(place)
        self.forgotten += 1

    def _shrink(self) -> None:
        """Keep within the budget, which a longer row than any before may have broken."""
        if self.nbytes <= self._budget:
            return
        keep = int(len(self._state) * SHRINK_TO * self._budget / self.nbytes)
        newest = list(self._places.items())[-keep:] if keep else []
        self.forgotten += len(self._places) - len(newest)
        if not newest:
            self._forget_all()
            return
        self._state = self._state.select([place for _, place in newest])
        self._places, self._free = OrderedDict(newest), []
        self._keys = {place: self._keys[place] for _, place in newest}
