"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
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
