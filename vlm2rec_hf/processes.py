"""Processes that share work: who works on what, and workers that end with the process that started them.

Claims are file locks that the operating system frees the moment their holder dies.

A claim is a `flock` on a file of its own. Its text (host and process) is only for people; what counts is the lock.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.2


class Claims:
    """Claims in one folder.

    Args:
        folder: shared by all who work on the same job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def attempt(self, name: str) -> Iterator[bool]:
        """Try to claim `name`; yields whether it worked. Free again at the end of the block or of the process.

        The file stays: removing it would let two processes lock two files of one name.
        """
        with (self.folder / f"{name}.lock").open("a+", encoding="utf-8") as file:
            mine = _lock(file, exclusive=True, wait=False)
            if mine:
                file.truncate(0)
                file.write(f"{socket.gethostname()} {os.getpid()}\n")
                file.flush()
            yield mine

    @contextmanager
    def wait(self, name: str) -> Iterator[None]:
        """Claim `name`, however long another holds it."""
        while True:
            with self.attempt(name) as mine:
                if mine:
                    yield
                    return
            time.sleep(POLL_SECONDS)

    def enter(self) -> IO[str]:
        """Register as working here; until the returned file is closed, `alone` is false for all others.

        The folder is made where it is absent, and again where the last one to leave has just removed it.
        """
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = (self.folder / "present.lock").open("a+", encoding="utf-8")
            except FileNotFoundError:
                continue
            _lock(file, exclusive=False, wait=True)
            try:
                if os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
                    return file
            except FileNotFoundError:
                pass
            file.close()  # that was a file of a folder that is no longer there

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody has entered (the caller must have left); until the end of the block nobody can."""
        try:
            file = (self.folder / "present.lock").open("a+", encoding="utf-8")
        except FileNotFoundError:
            yield False  # the other one to leave was alone and has cleared up
            return
        with file:
            yield _lock(file, exclusive=True, wait=False)


def follow_parent() -> None:
    """End this process when the one that started it has ended, however that came about; waits: run it in a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _lock(file: IO[str], *, exclusive: bool, wait: bool) -> bool:
    """Lock a file; returns whether that worked.

    Raises:
        OSError: the system or the file system has no locks.
    """
    if fcntl is None:
        raise OSError("Jobs need the file locks of Linux or macOS (`flock`), which this system does not have.")
    kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            f"`--output` lies on a file system without locks ({error.strerror}, {file.name}); choose a folder on "
            "another one."
        ) from error
    return True
