"""Where commands write: whether they can is asked before the work begins."""

from __future__ import annotations

import os
from pathlib import Path


def check_folder(path: str | Path, option: str = "--output") -> Path:
    """A folder that may be there already or can be made.

    Raises:
        ValueError: a file lies there, or on the way there, or nothing may be written there.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"`{option}` {str(path)!r} is a file; name a folder.")
    _check_way(path if path.exists() else path.parent, path, option)
    return path


def check_new(path: str | Path, option: str = "--output", what: str = "folder", ending: str = "") -> Path:
    """A file or folder that is not there yet and can be made.

    Raises:
        ValueError: something is there, the name has another ending, or nothing may be written there.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"`{option}` {str(path)!r} exists; name a new {what} or move the old one away.")
    if ending and path.suffix != ending:
        raise ValueError(f"`{option}` must end in {ending}, got {str(path)!r}.")
    _check_way(path.parent, path, option)
    return path


def _check_way(folder: Path, path: Path, option: str) -> None:
    there = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not there.is_dir():
        raise ValueError(
            f"`{option}` {str(path)!r} leads through {str(there)!r}, which is a file; name another place."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"`{option}` {str(path)!r}: nothing may be written in {str(there)!r}; name another place.")
