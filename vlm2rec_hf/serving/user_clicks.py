"""Users' clicks in memory, within a budget, in front of the log on the disk."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from .click_log import ClickLog, Clicks

PER_USER, PER_CLICK = 300, 8
"""Bytes that a user and a click take, beside the user's id; items' ids are shared."""


class UserClicks:
    """Histories that grow click by click. Threads may share one; processes share a log.

    Args:
        memory_bytes: budget; users whose clicks were not used for longest go first.
        length: newest clicks that are kept per user.
        log: where clicks are kept; None: in memory alone.
    """

    def __init__(self, memory_bytes: float, length: int = 1000, log: ClickLog | None = None) -> None:
        self._budget, self._length, self._log = memory_bytes, length, log
        self._users: OrderedDict[str, list[str]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self.forgotten = 0
        """Users who went because the budget was used up."""
        self.follow()

    def __len__(self) -> int:
        return len(self._users)

    @property
    def torn(self) -> int:
        """Damaged lines that were met in the log."""
        return 0 if self._log is None else self._log.torn

    def add(self, clicks: Sequence[Clicks]) -> list[int]:
        """Add clicks; with a log they are on the disk when this returns.

        Args:
            clicks: pairs of a user and the items clicked, oldest first.

        Returns:
            How many clicks of each of these users are kept now.
        """
        if self._log is None:
            with self._lock:
                self._take(clicks)
        else:
            self._log.append(clicks)
            self.follow()
            if self._log.wants_compaction:
                self._log.compact(self._everything)
        with self._lock:
            return [len(self._users.get(user, ())) for user, _ in clicks]

    def of(self, user: str) -> list[str]:
        """A user's clicks, oldest first; empty for an unknown one."""
        self.follow()
        with self._lock:
            if user in self._users:
                self._users.move_to_end(user)
            return list(self._users.get(user, ()))

    def follow(self) -> None:
        """See what other processes wrote."""
        if self._log is not None:
            with self._lock:
                self._take(self._log.news(self._forget_all))

    def _everything(self) -> Iterable[Clicks]:
        with self._lock:
            self.follow()
            return list(self._users.items())

    def _forget_all(self) -> None:
        self._users.clear()
        self._bytes = 0

    def _take(self, clicks: Iterable[Clicks]) -> None:
        for user, items in clicks:
            history = self._users.pop(user, None)
            self._bytes -= 0 if history is None else _cost(user, history)
            history = [] if history is None else history
            history += map(sys.intern, items)
            del history[: -self._length]
            self._users[user] = history
            self._bytes += _cost(user, history)
            while self._bytes > self._budget and len(self._users) > 1:
                oldest, gone = self._users.popitem(last=False)
                self._bytes -= _cost(oldest, gone)
                self.forgotten += 1


def _cost(user: str, history: Sequence[str]) -> int:
    return PER_USER + sys.getsizeof(user) + PER_CLICK * len(history)
