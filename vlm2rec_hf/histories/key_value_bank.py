"""Keys and values of what has been run of many rows, in buffers that are written in place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SPARE_SLOTS = 64
SPARE_SHARE = 4


class KeyValueBank:
    """Keys and values per layer, `(rows, heads, capacity, head_dim)`; row `r` fills the slots `0..lengths[r]`.

    What lies behind a row's length is scratch, and cutting a row back means to use a smaller length. Who owns the bank
    keeps the lengths. Capacity grows by a quarter at least, so that appending tokens one by one copies each only a few
    times, and wastes a fifth at most.

    Args:
        rows: how many rows.
        layers: layers of the language model.
    """

    def __init__(self, rows: int, layers: int) -> None:
        self.rows = rows
        self.capacity = 0
        self.buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def nbytes(self) -> int:
        """Memory of the buffers."""
        return sum(part.numel() * part.element_size() for pair in self.buffers if pair for part in pair)

    def open(self, rows: Sequence[int], lengths: Sequence[int], new: int) -> "OpenRows":
        """A `transformers.Cache` of some rows, to run `new` more tokens (padding included) behind each of them.

        Args:
            rows: ascending.
            lengths: slots that each of these rows fills.
            new: tokens about to be run.
        """
        self._reserve(max(lengths) + new)
        return OpenRows(self, rows, lengths)

    def layer(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers of a layer; made where there are none, like the given states `(n, heads, tokens, head_dim)`."""
        pair = self.buffers[index]
        if pair is None:
            # Zeros: a masked slot has weight 0, and 0 times whatever an unwritten slot held could be NaN.
            pair = tuple(  # type: ignore[assignment]
                part.new_zeros(self.rows, part.shape[1], self.capacity, part.shape[3]) for part in (keys, values)
            )
            self.buffers[index] = pair
        return pair  # type: ignore[return-value]

    def _reserve(self, slots: int) -> None:
        if slots <= self.capacity:
            return
        self.capacity = max(slots + SPARE_SLOTS, self.capacity + self.capacity // SPARE_SHARE)
        self._replace(lambda part: _enlarged(part, part.shape[0], self.capacity))

    def add(self, rows: int) -> None:
        """Add empty rows behind the others."""
        self.rows += rows
        self._replace(lambda part: _enlarged(part, self.rows, part.shape[2]))

    def select(self, rows: Sequence[int]) -> "KeyValueBank":
        """A bank of its own with copies of some rows, in that order."""
        bank = KeyValueBank(len(rows), len(self.buffers))
        bank.capacity = self.capacity
        bank.buffers = list(self.buffers)
        bank._replace(lambda part: part[torch.tensor(rows, dtype=torch.long, device=part.device)])
        return bank

    def to(self, device: torch.device) -> None:
        """Move the buffers."""
        self._replace(lambda part: part.to(device))

    def _replace(self, change: Any) -> None:
        # Layer by layer, so that at no time both the old and the new buffers of all layers exist.
        for index, pair in enumerate(self.buffers):
            if pair is not None:
                self.buffers[index] = (change(pair[0]), change(pair[1]))

    def packed(self, lengths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Per layer, the filled slots of all rows behind one another on the CPU: `(tokens, heads, head_dim)` each."""
        filled = _filled(lengths, self.capacity)
        return [
            tuple(part.cpu().transpose(1, 2)[filled].contiguous() for part in pair)  # type: ignore[misc]
            for pair in self.buffers
            if pair is not None
        ]

    def unpack(self, packed: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int], device: torch.device) -> None:
        """Fill an empty bank with what `packed` gave."""
        if not packed:
            return
        self._reserve(max(lengths, default=0))
        filled = _filled(lengths, self.capacity)
        for index, pair in enumerate(packed):
            made = []
            for part in pair:
                buffer = part.new_zeros(self.rows, self.capacity, *part.shape[1:])
                buffer[filled] = part
                made.append(buffer.transpose(1, 2).contiguous().to(device))
            self.buffers[index] = (made[0], made[1])


class OpenRows(Cache):
    """Rows of a bank as the language model takes them: what they hold, then the new tokens behind the longest.

    Neighbouring rows are views into the bank, so nothing that was there is copied; others are gathered layer by layer.
    Nothing counts as part of the rows until `keep`.
    """

    def __init__(self, bank: KeyValueBank, rows: Sequence[int], lengths: Sequence[int]) -> None:
        self.bank = bank
        self.lengths = list(lengths)
        self.past = max(lengths)
        self.rows = list(rows)
        self.opened = [_OpenLayer(self, index) for index in range(len(bank.buffers))]
        super().__init__(layers=list(self.opened))

    @property
    def is_one_block(self) -> bool:
        """Whether the rows are neighbours."""
        return self.rows[-1] - self.rows[0] == len(self.rows) - 1

    def keep(self, count: int) -> None:
        """Put the first `count` new tokens of each row to the end of what the row filled before."""
        in_place = self.is_one_block and min(self.lengths) == self.past > 0
        if count and not in_place:
            device = self.opened[0].new[0].device
            rows = torch.tensor(self.rows, device=device)[:, None]
            slots = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(count, device=device)
            for index, layer in enumerate(self.opened):
                for buffer, new in zip(self.bank.layer(index, *layer.new), layer.new, strict=True):
                    buffer[rows, :, slots] = new[:, :, :count].transpose(1, 2)
        for layer in self.opened:
            layer.new = ()


class _OpenLayer(CacheLayerMixin):
    """One layer of `OpenRows`."""

    is_sliding = False

    def __init__(self, opened: OpenRows, index: int) -> None:
        super().__init__()
        self.opened = opened
        self.index = index
        self.new: Any = ()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the bank's buffers."""
        self.opened.bank.layer(self.index, key_states, value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What the rows held, the new tokens behind it: `(rows, heads, past + new, head_dim)` each."""
        self.lazy_initialization(key_states, value_states)
        self.new = (key_states, value_states)
        buffers = self.opened.bank.layer(self.index, key_states, value_states)
        keys, values = (self._joined(buffer, new) for buffer, new in zip(buffers, self.new, strict=True))
        return keys, values

    def _joined(self, buffer: Tensor, new: Tensor) -> Tensor:
        opened = self.opened
        if opened.past == 0:
            return new
        end = opened.past + new.shape[2]
        if opened.is_one_block:
            rows = buffer[opened.rows[0] : opened.rows[-1] + 1]
            rows[:, :, opened.past : end] = new
            return rows[:, :, :end]
        chosen = torch.tensor(opened.rows, device=buffer.device)
        return torch.cat([buffer[chosen, :, : opened.past], new], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a query sees, and the first one's slot."""
        return self.opened.past + query_length, 0

    def get_seq_length(self) -> int:
        """Slots before the new tokens."""
        return self.opened.past

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1


def _enlarged(part: Tensor, rows: int, capacity: int) -> Tensor:
    out = part.new_zeros(rows, part.shape[1], capacity, part.shape[3])
    out[: part.shape[0], :, : part.shape[2]] = part
    return out


def _filled(lengths: Sequence[int], capacity: int) -> Tensor:
    return torch.arange(capacity)[None] < torch.tensor(lengths, dtype=torch.long)[:, None]
