"""Histories that grow click by click: a new item costs its own tokens, not the whole history's."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..columns import VIEWS
from ..modeling.encoding_vlm2rec import Encoding
from ..modeling.family_vlm2rec import ImageFeatures, RowPrefix
from ..modeling.items_vlm2rec import ITEM_KEYS, PreparedItem
from ..modeling.passes_vlm2rec import fuse, last_token_pool, unit
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .history_checks import check_fit, checked_views, weights_stamp
from .history_files import load_history, save_history
from .history_items import evaluating, joined_features, kept_items
from .history_rows import HistoryRow, RowLayout, UserHistory, groups_of_like_length
from .key_value_bank import KeyValueBank

User = int | str
MAX_TOKENS = 16_384
"""New tokens run at once, padding included, unless a single row has more."""


class HistoryState:
    """Growing histories of some users, equal at any time to `encode_histories` of the same items (1e-5 in float32).

    Each view's row (instruction, items, an end token behind each) is kept as keys and values of the language model: a
    row is the beginning of the next click's row. `append` only notes an item, its image passes the vision tower at
    once; `embedding` runs what is new. The last `processor.max_history` items of each user are kept as token ids and
    vision features. Once the window slides, every item stands in another place, so the rows are run anew from the
    kept items: exact, at the cost of the language model's pass over the window, never of the vision tower's.

    The state belongs to the weights at hand: once they change (or adapters are switched), its methods raise.
    Gradients do not flow, and dropout is off whatever mode the model is in.

    Args:
        model: a `VLM2RecEmbedder`.
        processor: made for its backbone.
        users: ids of the users, integers or strings, each once; one user, 0, by default.
        views: views to keep rows for. External fusion needs its two and gives all three. Internal fusion has a row of
            its own for each (default: only `"both"`); views that were not asked for come out as NaN.

    Raises:
        ValueError: a processor of another backbone or fusion, an unknown view, repeated or reserved user ids, or a
            backbone with sliding-window attention.
    """

    def __init__(
        self, model: Any, processor: VLM2RecProcessor, users: Iterable[User] = (0,), views: Sequence[str] | None = None
    ) -> None:
        config = model.config.vlm_config
        check_fit(model, processor)
        self.model = model
        self.processor = processor
        self.views = checked_views(views, processor.fusion)
        self.max_history = processor.max_history
        self._layouts = {
            view: RowLayout(processor, model.family, config, view) for view in self.views if self._has_row(view)
        }
        layers = config.get_text_config().num_hidden_layers
        self._banks = {view: KeyValueBank(0, layers) for view in self._layouts}
        self._vectors = {view: torch.zeros(0, model.config.hidden_size) for view in self._layouts}
        self._places: dict[User, int] = {}
        self._histories: list[UserHistory] = []
        self._stamp = weights_stamp(model)
        self.add(users)

    def _has_row(self, view: str) -> bool:
        return self.processor.fusion == "internal" or view != "both"

    @property
    def users(self) -> list[User]:
        """Ids of the users, in the order of `embedding`'s rows."""
        return list(self._places)

    def __len__(self) -> int:
        return len(self._histories)

    def __repr__(self) -> str:
        return f"HistoryState({len(self)} users, views={self.views}, {self.nbytes / 1e6:.1f} MB)"

    @property
    def lengths(self) -> list[int]:
        """Items kept of each user, at most `max_history`."""
        return [len(history.window) for history in self._histories]

    @property
    def device(self) -> torch.device:
        """Where keys and values lie, or will lie."""
        held = [pair[0].device for bank in self._banks.values() for pair in bank.buffers if pair]
        return held[0] if held else self.model.device

    @property
    def nbytes(self) -> int:
        """Memory of keys, values, vision features and vectors.

        Keys and values are per view `users * capacity * layers * 2 * kv_heads * head_dim * bytes`, where `capacity` is
        what the widest run so far needed (its longest kept row and its longest new part), plus a quarter or 64 tokens
        at most; a row is at most `max_history` items long.
        """
        features = {id(one): one for one in self._features()}.values()
        held: tuple[Any, ...] = (*features, *self._vectors.values(), *self._banks.values())
        return sum(one.nbytes for one in held)

    def _features(self) -> Iterable[ImageFeatures]:
        kept = (item for history in self._histories for _, item in history.window)
        return (item.features for item in kept if item.features is not None)

    def append(self, items: Any, users: Sequence[User] | None = None) -> None:
        """Note one new item each.

        Args:
            items: a list with one item (`as_item`, or a `PreparedItem`) or `None` per user, or a mapping from user ids
                to items; for a single user also the bare item. A mapping that holds "text", "image" or
                "image_features" is an item.
            users: whose items the list holds; all users in order by default.

        Raises:
            ValueError: unknown users, another number of items than of users, an item without content, or weights that
                are not those that the state was started with. Nothing has been appended then.
            TypeError: something that is no item.
        """
        if isinstance(items, Mapping) and not ITEM_KEYS & set(items):
            if users is not None:
                raise ValueError("`users` goes with a list of items; a mapping names its users itself.")
            users, items = list(items), list(items.values())
        named = self.users if users is None else list(users)
        if not isinstance(items, (list, tuple)):
            if len(named) != 1:
                raise ValueError(
                    f"`items` is a single {type(items).__name__} for {len(named)} users; pass a list with one item or "
                    "None per user, or a mapping from users to items."
                )
            items = [items]
        self.extend([[] if item is None else [item] for item in items], users=named)

    def extend(self, histories: Any, users: Sequence[User] | None = None) -> None:
        """Note several new items each: lists of items, oldest first, otherwise as `append`."""
        if isinstance(histories, Mapping):
            if users is not None:
                raise ValueError("`users` goes with lists of items; a mapping names its users itself.")
            users, histories = list(histories), list(histories.values())
        named = self.users if users is None else list(users)
        places = self._places_of(named)
        self._check_weights()  # the vision tower is about to run
        if len(histories) != len(named):
            raise ValueError(f"`items` has {len(histories)} entries for {len(named)} users; pass one (or None) each.")
        recent = []
        for history in histories:
            if not isinstance(history, (list, tuple)):
                raise TypeError(f"`histories` holds a {type(history).__name__}; pass a list of items per user.")
            recent.append(list(history)[-self.max_history :])
        flat = [item for history in recent for item in history]
        prepared = iter(kept_items(self.model, self.processor, flat))
        for place, history in zip(places, recent, strict=True):
            self._histories[place].extend([next(prepared) for _ in history], self._layouts, self.max_history)

    def embedding(self, users: Sequence[User] | None = None) -> Encoding:
        """Vectors of the users' histories as they are now.

        Args:
            users: whose vectors, in this order; all users by default. Nothing is run for the others, nor for those
                to whom nothing was appended since their last embedding.

        Returns:
            `Encoding` on the CPU in float32, as `encode_histories` gives it. A view without content is zero, a user
            without any item is zero in every view.

        Raises:
            ValueError: unknown users, or weights that are not those that the state was started with.
        """
        places = self._places_of(self.users if users is None else list(users))
        self._check_weights()
        with evaluating(self.model):
            for view in self._layouts:
                self._refresh(view, sorted(set(places)))
        vectors = {view: self._vectors[view][places] for view in self._layouts}
        if self.processor.fusion == "external":
            vectors["both"] = fuse(vectors["text"], vectors["image"])
        width = self.model.config.hidden_size
        histories = [self._histories[place] for place in places]
        return Encoding(
            **{view: vectors.get(view, torch.full((len(places), width), torch.nan)) for view in VIEWS},
            has_text=torch.tensor([history.has_text for history in histories], dtype=torch.bool),
            has_image=torch.tensor([history.has_image for history in histories], dtype=torch.bool),
        )

    def _refresh(self, view: str, places: list[int]) -> None:
        """Compute the vectors of a view that are not up to date."""
        lengths = {}
        for place in places:
            row = self._histories[place].rows[view]
            if row.waiting:
                lengths[place] = sum(len(piece.ids) for piece in row.waiting)
            elif not row.pieces:
                self._vectors[view][place] = 0
        for group in groups_of_like_length(lengths, MAX_TOKENS):
            self._run(view, group)

    def _run(self, view: str, places: list[int]) -> None:
        """Run and keep the pending pieces of some rows; the last one ends in the token whose state is the vector."""
        rows = [self._histories[place].rows[view] for place in places]
        tokens = [[token for piece in row.waiting for token in piece.ids] for row in rows]
        longest = max(len(row) for row in tokens)
        pad = tokens[0][-1]
        device = self.model.device
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in tokens], device=device)
        sizes = torch.tensor([len(row) for row in tokens], device=device)
        mask = (torch.arange(longest, device=device)[None] < sizes[:, None]).long()
        lengths = [row.length for row in rows]
        cache = self._banks[view].open(places, lengths, longest)
        held = torch.arange(cache.past, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
        prefix = RowPrefix(cache, held.long(), torch.tensor([row.position for row in rows], device=device))
        images = joined_features([piece.image for row in rows for piece in row.waiting], device)
        states = self.model.family.run(self.model.vlm, ids, mask, images, prefix)
        self._vectors[view][places] = unit(last_token_pool(states, mask)).cpu()
        cache.keep(longest)
        for row in rows:
            row.keep(len(row.pieces))

    def add(self, users: Iterable[User]) -> None:
        """Add users without items, after the present ones.

        Raises:
            ValueError: ids that are there already or reserved.
        """
        if isinstance(users, str):
            raise ValueError(f"`users` must be a list of ids, got the text {users!r}; wrap it in a list.")
        new = list(users)
        for user in new:
            if isinstance(user, bool) or not isinstance(user, (int, str)) or user in ITEM_KEYS:
                raise ValueError(f"`users` must be integers or strings other than {sorted(ITEM_KEYS)}, got {user!r}.")
        if len({*new, *self._places}) != len(new) + len(self):
            raise ValueError("`users` names a user twice, or one that is there already; ids must differ.")
        for user in new:
            self._places[user] = len(self._histories)
            self._histories.append(self._without_items())
        for view, bank in self._banks.items():
            bank.add(len(new))
            added = torch.zeros(len(new), self.model.config.hidden_size)
            self._vectors[view] = torch.cat([self._vectors[view], added])

    def select(self, users: Sequence[User]) -> "HistoryState":
        """A separate state of some users, in that order; appending to one does not change the other."""
        places = self._places_of(list(users))
        state = HistoryState(self.model, self.processor, users, self.views)
        state._stamp = self._stamp
        for history, place in zip(state._histories, places, strict=True):
            source = self._histories[place]
            history.window, history.appended = list(source.window), source.appended
            history.rows = {view: replace(row, pieces=list(row.pieces)) for view, row in source.rows.items()}
        state._banks = {view: bank.select(places) for view, bank in self._banks.items()}
        state._vectors = {view: vectors[places] for view, vectors in self._vectors.items()}
        return state

    def clear(self, users: Sequence[User]) -> None:
        """Forget the items of some users, who stay: their next item is their first. Nothing is copied or freed.

        Args:
            users: whose.

        Raises:
            ValueError: unknown users.
        """
        for place in self._places_of(list(users)):
            self._histories[place] = self._without_items()
            for vectors in self._vectors.values():
                vectors[place] = 0

    def _without_items(self) -> UserHistory:
        return UserHistory(rows={view: HistoryRow() for view in self._layouts})

    def drop(self, users: Sequence[User]) -> None:
        """Forget some users and free what was kept of them."""
        gone = set(self._places_of(list(users)))
        rest = self.select([user for user, place in self._places.items() if place not in gone])
        self.__dict__.update(rest.__dict__)

    def to(self, device: Any) -> "HistoryState":
        """Move keys, values and features, after the model was moved."""
        device = torch.device(device)
        for bank in self._banks.values():
            bank.to(device)
        moved: dict[int, tuple[ImageFeatures, ImageFeatures]] = {}  # with the old ones, so that no id comes again

        def placed(item: PreparedItem) -> PreparedItem:
            """A new object: a catalogue, or another state, may hold the old ones."""
            old = item.features
            if old is None:
                return item
            if id(old) not in moved:
                moved[id(old)] = old, old.to(device)
            return replace(item, features=moved[id(old)][1])

        for history in self._histories:
            history.window = [(number, placed(item)) for number, item in history.window]
            for row in history.rows.values():
                row.pieces = [
                    piece if piece.image is None else replace(piece, image=placed(piece.image)) for piece in row.pieces
                ]
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to one safetensors file, which appears whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, in which it becomes `history_state.safetensors`.

        Returns:
            The file's path.
        """
        return save_history(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any, processor: VLM2RecProcessor) -> "HistoryState":
        """Read what `save` wrote, onto the model's device.

        Args:
            path: the file, or the folder it lies in.
            model: with the weights (and active adapters, and dtype) that the state was made with.
            processor: with the settings that the state was made with.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file or another kind of file, other weights, another architecture or other settings.
        """
        return load_history(cls, model, path, processor)

    def _places_of(self, users: list[User]) -> list[int]:
        unknown = [user for user in users if user not in self._places]
        if unknown:
            raise ValueError(
                f"`users` holds {unknown[0]!r}, whom this state does not know; take in new users with `add`."
            )
        if len(set(users)) != len(users):
            raise ValueError("`users` names a user twice; give several items of one user to `extend`.")
        return [self._places[user] for user in users]

    def _check_weights(self) -> None:
        if self.device != self.model.device:
            raise ValueError(
                f"The model is on {self.model.device}, this history state on {self.device}; move it with `state.to()`."
            )
        if weights_stamp(self.model) != self._stamp:
            raise ValueError(
                "The model's weights, adapters or dtype have changed since this history state was started; what it "
                "holds belongs to the old ones. Start a new one with `HistoryState(model, processor, ...)`."
            )
