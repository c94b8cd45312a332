"""Clicks on the disk: an append-only log that several processes write and follow.

    clicks-00000003.log     the log in use: the one with the highest number
    clicks-torn.log         what was cut off or could not be read, as it was

A line is a checksum and JSON, `1c2d3e4f ["user", ["item", ...]]`: items that a user clicked, oldest first. Who writes
holds the folder's lock and has the line on the disk (fsync) before it returns. A line without its end was torn by a
kill or a power cut and acknowledged to nobody: the next writer cuts it off, keeps it aside and counts it. Compaction
writes the next log whole, which then is the one in use, and deletes the earlier one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..files import locked, remove_leftovers, sync_folder, whole_file

logger = logging.getLogger(__name__)
_NAME = re.compile(r"clicks-(\d{8})\.log")
TORN = "clicks-torn.log"
Clicks = tuple[str, list[str]]


class ClickLog:
    """The log of a folder.

    Args:
        folder: made if it is not there.
        compact_bytes: a log of so many bytes is compacted, and again when it has doubled since.
    """

    def __init__(self, folder: str | Path, compact_bytes: int = 8_000_000) -> None:
        self.folder, self._compact_bytes = Path(folder), compact_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.torn = 0
        """Lines that were cut off or could not be read, as far as this object met them."""
        self._number, self._offset, self._compacted = 0, 0, 0
        with locked(self.folder, wait=True):
            remove_leftovers(self.folder)
            numbers = self._numbers()
            for number in numbers[:-1]:  # killed between the two steps of a compaction
                self._path(number).unlink()
            if numbers:
                self._mend(numbers[-1])

    def append(self, clicks: Sequence[Clicks]) -> None:
        """Write clicks; they are on the disk when this returns.

        Raises:
            OSError: the disk is full, among others; nothing is acknowledged then.
        """
        lines = b"".join(map(_line, clicks))
        with locked(self.folder, wait=True):
            numbers = self._numbers()
            path = self._path(numbers[-1] if numbers else 1)
            if numbers:
                self._mend(numbers[-1])
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                view = memoryview(lines)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            if not numbers:
                sync_folder(self.folder)

    def news(self, start_over: Callable[[], None]) -> list[Clicks]:
        """What was written since the last call, by any process; for one thread at a time.

        Args:
            start_over: is called where all that is known is written anew, because the log was compacted.
        """
        while True:
            numbers = self._numbers()
            if not numbers:
                return []
            begins = numbers[-1] != self._number
            try:
                with self._path(numbers[-1]).open("rb") as file:
                    file.seek(0 if begins else self._offset)
                    data = file.read()
            except FileNotFoundError:  # compacted in between
                continue
            if begins:
                start_over()
                self._number, self._offset, self._compacted = numbers[-1], 0, len(data)
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            return self._read(whole)

    @property
    def wants_compaction(self) -> bool:
        """Whether the log has grown enough."""
        return self._offset > max(self._compact_bytes, 2 * self._compacted)

    def compact(self, everything: Callable[[], Iterable[Clicks]]) -> None:
        """Write the log anew with what is to be kept; `news` reads it from its beginning, as in other processes.

        Args:
            everything: gives it, while nobody can write.
        """
        with locked(self.folder, wait=True):
            before = self._numbers()
            kept = list(everything())
            number = (before[-1] if before else 0) + 1
            with whole_file(self._path(number)) as partial:
                partial.write_bytes(b"".join(map(_line, kept)))
            for known in before:
                self._path(known).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        return sorted(int(found[1]) for name in os.listdir(self.folder) if (found := _NAME.fullmatch(name)))

    def _path(self, number: int) -> Path:
        return self.folder / f"clicks-{number:08d}.log"

    def _mend(self, number: int) -> None:
        """Cut off a torn last line; the caller holds the lock."""
        with self._path(number).open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                return
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.seek(end)
            self._aside(file.read())
            file.truncate(end)
            os.fsync(file.fileno())

    def _read(self, data: bytes) -> list[Clicks]:
        found: list[Clicks] = []
        for line in data.splitlines(keepends=True):
            try:
                user, items = json.loads(line[9:])
                if int(line[:8], 16) != zlib.crc32(line[9:-1]):
                    raise ValueError("checksum")
                found.append((str(user), list(map(str, items))))
            except (ValueError, TypeError):
                self._aside(line)
        return found

    def _aside(self, data: bytes) -> None:
        self.torn += 1
        with (self.folder / TORN).open("ab") as file:
            file.write(data.rstrip(b"\n") + b"\n")
        logger.warning(f"{self.folder} held a line of clicks that is torn or damaged; it is kept in {TORN}.")


def _line(clicks: Clicks) -> bytes:
    data = json.dumps(list(clicks), ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)
