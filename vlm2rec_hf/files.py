"""Files and folders that appear whole or not at all, also when the process is killed or the machine loses its power.

What is being written lies in a hidden folder `.writing-...` beside its place until it is whole and on the disk; then
it is renamed. The writer holds a lock on that folder, which the system frees when the process ends, however it ends.
So the next writer tells the folders of dead writers from those of living ones, and removes the former.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: what a killed writer leaves there stays until somebody deletes it
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".writing-"


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file that replaces `path` at the end of the block; several processes may do so at once.

        with whole_file("report.json") as partial:
            partial.write_text("{}")

    Args:
        path: where the file will be; its folder is made if absent.

    Yields:
        A path of the same name to write to. After an error nothing of it remains, and `path` is as it was.

    Raises:
        OSError: the disk is full, or the block wrote no file, among others.
    """
    path = Path(path)
    with _staging(path) as staging:
        partial = staging / "new" / path.name
        yield partial
        # Some writers make private files, whatever the user's umask; the folder's mode shows that umask.
        partial.chmod(staging.stat().st_mode & 0o666)
        _sync_file(partial)
        os.replace(partial, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a folder that replaces `path` at the end of the block; several processes may do so at once.

    A folder that is there already is moved aside for the moment between two renames. Whoever is killed in that moment
    leaves nothing at `path`; the next writer beside it puts the earlier folder back.

    Args:
        path: where the folder will be; its parent is made if absent.

    Yields:
        An empty folder of the same name to write to. After an error nothing of it remains, and `path` is as it was.

    Raises:
        OSError: the disk is full, among others.
    """
    path = Path(os.path.abspath(path))
    with _staging(path) as staging:
        partial = staging / "new" / path.name
        partial.mkdir()
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync_file(Path(folder, name))
            sync_folder(Path(folder))
        if path.exists():
            (staging / "old").mkdir()
            os.rename(path, staging / "old" / path.name)
        os.rename(partial, path)
        sync_folder(path.parent)


def json_bytes(content: Any) -> bytes:
    """Plain data as the bytes of a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def remove_folder(path: Path) -> None:
    """Remove a folder with all it holds: it vanishes from its place at once, whatever happens while files are deleted.

    Does nothing where there is no such folder.
    """
    if path.exists():
        with _staging(path) as staging:
            os.rename(path, staging / "new" / path.name)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what killed writers left in a folder; every writer of this module does so before it begins.

    Returns:
        What was deleted; nothing where the system or the file system has no locks.
    """
    removed = []
    for staging in sorted(folder.glob(f"{_PREFIX}*/")):
        # Another user's leftovers may be theirs alone to remove.
        with locked(staging, wait=False) as mine, contextlib.suppress(PermissionError):
            if mine:
                _remove(staging)
                removed += [] if staging.exists() else [staging]
    return removed


def is_being_written(path: Path) -> bool:
    """Whether a path is the hidden folder of a writer, living or dead, and not a result."""
    return path.name.startswith(_PREFIX)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename outlives a power cut."""
    # Windows cannot open folders, and some file systems refuse to flush them. The rename is done all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A new hidden folder beside `path`, locked and with a folder `new` in it; deleted at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    while True:
        staging = path.with_name(f"{_PREFIX}{uuid.uuid4().hex}")
        staging.mkdir()
        with locked(staging, wait=True):
            # Another writer may have taken the folder for a leftover in the moment before it was locked.
            if not staging.exists():
                continue
            try:
                (staging / "new").mkdir()
                yield staging
            finally:
                _remove(staging)
            return


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder against other holders of its lock, threads included, and yield whether that worked.

    Args:
        folder: must exist; nothing in it changes.
        wait: until another holder lets go; else it does not work.
    """
    if fcntl is None:
        yield False
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # it is gone, or another user's
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except OSError:  # held by a living writer, or a file system without locks: then nothing is ever removed
            mine = False
        yield mine
    finally:
        os.close(handle)


def _remove(staging: Path) -> None:
    """Delete a writer's folder; an earlier folder that was moved aside and not replaced returns to its place."""
    for old in staging.glob("old/*"):
        if not (staging.parent / old.name).exists():
            os.rename(old, staging.parent / old.name)
    shutil.rmtree(staging, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
