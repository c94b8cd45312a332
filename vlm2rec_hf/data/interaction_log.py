"""Interactions as integer codes in user and time order: what filters, splits and sequences work on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import ITEM_ID, TIMESTAMP, USER_ID
from .ids import positions_in, to_objects
from .sequences import Sequences

POSITION = "position"
"""Optional column of the interactions: the order within the user, where timestamps alone leave ties."""
SPLIT = "split"
"""Column of the stored interactions: 0 train, 1 validation, 2 test."""

_CHUNK = 1_000_000
_SLOW_PASSES = 8
"""So many passes over all interactions may take out less than a tenth each."""


@dataclass(frozen=True)
class InteractionLog:
    """Interactions sorted by user id, then time; ids as codes, everything else as Arrow columns.

    Attributes:
        user_ids: `(n_users,)` strings in ascending (UTF-8) order, each with at least one interaction.
        item_ids: `(n_items,)` strings in catalogue order.
        user: `(n,)` int32 index into `user_ids`, never decreasing.
        item: `(n,)` int32 index into `item_ids`.
        split: `(n,)` int8, never decreasing within a user.
        columns: further columns by name, `(n,)` each: timestamp, position, rating, whatever came in.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    user: np.ndarray
    item: np.ndarray
    split: np.ndarray
    columns: dict[str, pa.ChunkedArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def timestamp(self) -> np.ndarray | None:
        """`(n,)` numbers, or None where the data only knows positions."""
        return self.columns[TIMESTAMP].to_numpy() if TIMESTAMP in self.columns else None

    @property
    def offsets(self) -> np.ndarray:
        """`(n_users + 1,)` int64: where each user's interactions begin and end."""
        return user_offsets(self.user, len(self.user_ids))

    def with_split(self, split: np.ndarray) -> InteractionLog:
        """The same interactions under another split."""
        return replace(self, split=split.astype(np.int8, copy=False))

    def keep(self, rows: np.ndarray) -> InteractionLog:
        """Only the interactions where `rows` `(n,)` is True; users left without any disappear, items stay."""
        user, user_ids = _compact(self.user[rows], self.user_ids)
        mask = pa.array(rows)
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return InteractionLog(user_ids, self.item_ids, user, self.item[rows], self.split[rows], columns)

    def restrict_items(self, items: np.ndarray) -> InteractionLog:
        """Cut the catalogue to `items` (ascending codes); every interaction must be with one of them."""
        lookup = np.full(len(self.item_ids), -1, dtype=np.int32)
        lookup[items] = np.arange(len(items), dtype=np.int32)
        return replace(self, item_ids=self.item_ids.take(pa.array(items)), item=lookup[self.item])

    def rows(self, mask: np.ndarray) -> pa.Table:
        """The interactions where `mask` is True, with their raw ids."""
        picked = np.flatnonzero(mask)
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            USER_ID: self.user_ids.take(pa.array(self.user[picked])),
            ITEM_ID: self.item_ids.take(pa.array(self.item[picked])),
        }
        for name, column in self.columns.items():
            columns[name] = column.filter(pa.array(mask))
        return pa.table(columns)

    def to_table(self) -> pa.Table:
        """All interactions with raw ids and the split, in chunks, so that long id columns do not overflow."""
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            USER_ID: _decode(self.user, self.user_ids),
            ITEM_ID: _decode(self.item, self.item_ids),
            **self.columns,
            SPLIT: pa.array(self.split),
        }
        return pa.table(columns)

    def to_sequences(self) -> Sequences:
        """The flat sequences that training and evaluation read."""
        return Sequences(to_objects(self.user_ids), to_objects(self.item_ids), self.offsets, self.item, self.split)


def log_from_stored(table: pa.Table, item_ids: pa.Array) -> InteractionLog:
    """The log of a table that `InteractionLog.to_table` wrote.

    Raises:
        ValueError: the rows are not in stored order or name unknown items.
    """
    from .ids import encode_stored_ids

    user, user_ids = encode_stored_ids(table[USER_ID])
    code, raw = encode_stored_ids(table[ITEM_ID])
    item = positions_in(raw, item_ids)[code] if len(raw) else code
    # First appearance is ascending id order in a stored table, so the codes rise by themselves.
    if np.any(np.diff(user) < 0) or np.any(user < 0) or np.any(item < 0):
        raise ValueError("The stored interactions are out of order or name unknown items; build the dataset again.")
    extra = {n: table[n] for n in table.column_names if n not in (USER_ID, ITEM_ID, SPLIT)}
    return InteractionLog(user_ids, item_ids, user, item, table[SPLIT].to_numpy(), extra)


def user_offsets(user: np.ndarray, n_users: int) -> np.ndarray:
    """CSR offsets of sorted user codes: `(n_users + 1,)` int64."""
    return np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))]).astype(np.int64)


def sort_order(user: np.ndarray, keys: list[np.ndarray]) -> np.ndarray | None:
    """The stable order by user, then `keys` in turn; None where the rows already stand so.

    Args:
        user: `(n,)` non-negative codes.
        keys: `(n,)` numbers each, most significant first.
    """
    if _is_sorted([user, *keys]):
        return None
    packed = _pack([user, *keys])
    if packed is not None:
        return np.argsort(packed, kind="stable")
    return np.lexsort(tuple(reversed([user, *keys])))


def order_users(codes: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Recode users so that codes follow ascending id order and every id occurs in `codes`."""
    codes, ids = _compact_unordered(codes, ids)
    by_id = pc.sort_indices(ids).to_numpy()
    rank = np.empty(len(by_id), dtype=np.int32)
    rank[by_id] = np.arange(len(by_id), dtype=np.int32)
    return rank[codes], ids.take(pa.array(by_id))


def k_core_rows(user: np.ndarray, item: np.ndarray, n_users: int, n_items: int, k: int) -> np.ndarray:
    """Which interactions are in the k-core: `(n,)` bool, in time that grows with their number only.

    Whole passes prune users and items while each takes a good part out; what unravels slower, as chains do, is
    followed from neighbour to neighbour.
    """
    slow = 0
    alive = np.arange(len(user))
    rows = np.zeros(len(user), dtype=bool)
    while True:
        users, items = user[alive], item[alive]
        good = np.bincount(users, minlength=n_users)[users] >= k
        good &= np.bincount(items, minlength=n_items)[items] >= k
        before, alive = len(alive), alive[good]
        slow += len(alive) > 0.9 * before
        if len(alive) < before and slow < _SLOW_PASSES:
            continue
        if len(alive) < before:
            alive = alive[_unravelled(user[alive], item[alive], n_users, n_items, k)]
        rows[alive] = True
        return rows


def _unravelled(user: np.ndarray, item: np.ndarray, n_users: int, n_items: int, k: int) -> np.ndarray:
    """The k-core by a queue: who falls short takes its interactions out, and they their other ends. `(n,)` bool."""
    ends = (user, item)
    by_end = [np.argsort(codes, kind="stable") for codes in ends]
    sizes = [np.bincount(codes, minlength=n) for codes, n in zip(ends, (n_users, n_items), strict=True)]
    starts = [np.concatenate([[0], np.cumsum(size)]) for size in sizes]
    alive = np.ones(len(user), dtype=bool)
    waiting = [
        (side, code) for side in (0, 1) for code in np.flatnonzero((sizes[side] > 0) & (sizes[side] < k)).tolist()
    ]
    left = [size.tolist() for size in sizes]
    while waiting:
        side, code = waiting.pop()
        out = by_end[side][starts[side][code] : starts[side][code + 1]]
        out = out[alive[out]]
        alive[out] = False
        other = 1 - side
        count = left[other]
        for neighbour in ends[other][out].tolist():
            count[neighbour] -= 1
            if count[neighbour] == k - 1:
                waiting.append((other, neighbour))
    return alive


def _is_sorted(keys: list[np.ndarray]) -> bool:
    # Lexicographic: some earlier key rises, or all are equal so far and this one does not fall.
    equal = np.ones(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys:
        before, after = key[:-1], key[1:]
        if np.any(equal & (after < before)):
            return False
        equal &= after == before
    return True


def _pack(keys: list[np.ndarray]) -> np.ndarray | None:
    """All integer keys in one int64 that sorts alike (one sort instead of several); None where it is too short."""
    packed: np.ndarray | None = None
    room = 2**62
    for key in keys:
        if not np.issubdtype(key.dtype, np.integer) or not len(key):
            return None
        low, high = int(key.min()), int(key.max())
        span = high - low + 1
        if span > room:
            return None
        room //= span
        # Shifted in the key's own type where it is wide: uint64 may not fit into int64 before.
        shifted = key - key.dtype.type(low) if key.dtype == np.uint64 else key.astype(np.int64) - low
        shifted = shifted.astype(np.int64, copy=False)
        if packed is None:
            packed = shifted
        else:
            packed *= span
            packed += shifted
    return packed


def _compact(user: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    if not len(user):
        return user.astype(np.int32), ids.slice(0, 0)
    starts = np.concatenate([[True], user[1:] != user[:-1]])
    if starts.sum() == len(ids):
        return user, ids
    return (np.cumsum(starts) - 1).astype(np.int32), ids.take(pa.array(user[starts]))


def _compact_unordered(codes: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    used = np.bincount(codes, minlength=len(ids)) > 0
    if used.all():
        return codes, ids
    lookup = np.cumsum(used).astype(np.int32) - 1
    return lookup[codes], ids.filter(pa.array(used))


def _decode(codes: np.ndarray, ids: pa.Array) -> pa.ChunkedArray:
    chunks = [ids.take(pa.array(codes[start : start + _CHUNK])) for start in range(0, len(codes), _CHUNK)]
    return pa.chunked_array(chunks, type=pa.string())
