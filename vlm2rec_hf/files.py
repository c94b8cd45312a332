"""Files and folders that appear whole or not at all, also when the machine loses its power."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: Path, suffix: str) -> Iterator[Path]:
    """A temporary sibling to write to and then rename with `os.replace`; removed if it was not.

    Args:
        folder: where the final file will stand, so that renaming stays on one file system; made if absent.
        suffix: of the temporary file's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", suffix=suffix, dir=folder)
    os.close(handle)
    os.chmod(name, 0o644)  # mkstemp makes files private; results are to be shared
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def durable(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write to; at the end it is flushed to the disk and renamed, on an error removed.

    The sibling's name is fixed, so a killed writer leaves at most one, which the next writer replaces. The caller
    holds the claim on `path`: there must be one writer at a time.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename outlives a power cut."""
    if os.name == "nt":  # folders cannot be opened there; the file system journals renames itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def retire(folder: Path) -> None:
    """Remove a folder: it vanishes from its place at once, whatever happens while its files are deleted."""
    clear_retired(folder)
    if folder.exists():
        folder.rename(_retired(folder))
        clear_retired(folder)


def clear_retired(folder: Path) -> None:
    """Delete what a killed `retire` left."""
    shutil.rmtree(_retired(folder), ignore_errors=True)


def _retired(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.retired")
