"""Files that appear whole or not at all, also when the machine loses its power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
