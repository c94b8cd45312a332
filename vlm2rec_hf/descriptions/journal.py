"""What has been written so far: a manifest and one line per chunk of items, each on the disk before the next begins.

FOLDER/manifest.json   what is described by what; another job in the same folder is refused
FOLDER/chunks.jsonl    `{"chunk": 3, "records": [...]}` per line; a line that a kill cut short is written again
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..files import json_bytes, whole_file

try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs at once are the user's to avoid there
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1


class Journal:
    """Chunks of a job that are done; a context manager that holds the folder for one process.

    Args:
        folder: of the job; created.
        settings: plain data that decides what is written.

    Raises:
        ValueError: the folder belongs to another job, is damaged, or is in use.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.done: dict[int, list[dict[str, Any]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = (folder / "chunks.jsonl").open("ab+")
        try:
            self._claim()
            self._check(settings)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # which releases the lock

    def add(self, chunk: int, records: list[dict[str, Any]]) -> None:
        """Note a chunk; it is on the disk when this returns.

        Raises:
            ValueError: the chunk is there already.
        """
        if chunk in self.done:
            raise ValueError(f"`chunk` {chunk} is in {self.folder} already.")
        line = json.dumps({"chunk": chunk, "records": records}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[chunk] = records

    def _claim(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"`output`: {str(self.folder)!r} is in use by another process; wait for it.") from error

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / "manifest.json"
        wanted = {"format_version": FORMAT_VERSION, **json.loads(json.dumps(settings))}
        if not path.exists():
            with whole_file(path) as partial:
                partial.write_bytes(json_bytes(wanted))
            return
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"`output`: {str(path)!r} is damaged ({error}); delete {self.folder}.") from error
        changed = [name for name in sorted({*recorded, *wanted}) if recorded.get(name) != wanted.get(name)]
        if changed:
            said = ", ".join(f"{name} was {recorded.get(name)!r} and is {wanted.get(name)!r}" for name in changed)
            raise ValueError(
                f"`output`: {str(self.folder)!r} holds the begun work of another job ({said}); continue with the same "
                "settings, name another `output`, or delete that folder."
            )

    def _read(self) -> None:
        """Read whole lines, and cut off what a kill left of the last one."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                chunk, records = entry["chunk"], entry["records"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"`output`: line {number} of {str(self.folder / 'chunks.jsonl')!r} is damaged ({error!r}); "
                    "delete that line to have its items described again."
                ) from error
            self.done[chunk] = records
        self._file.truncate(whole)
