"""The folder of an index: one sub-folder per version, and a file that names the one in use.

    index.json               {"current": "v000002"}, replaced whole: this is the switch
    v000002/facts.json       which model made the vectors, what is there
    v000002/state.json       which items file is in use, up to which change it holds them, which ids were deleted
    v000002/items-8.arrow    the items (or `lance/`)
    v000002/edits/*.arrow    changes since, each a file

Who writes to a version holds the lock of its folder, who builds a version that of the whole folder. The system frees
both when a process ends, however it ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import is_being_written, locked, remove_folder, remove_leftovers, whole_file
from .rows import IndexFacts

POINTER = "index.json"
FOLD_WAITS = 30
KEPT_VERSIONS = 2
"""When a build begins: the version in use and the one before, which processes may still serve."""


@dataclass(frozen=True)
class VersionState:
    """Which items file a version uses.

    Attributes:
        items: name of the file or folder.
        folded: number of the last change that it holds.
        deleted: ids that were deleted, so that a rebuild from the dataset does not bring them back.
    """

    items: str
    folded: int = 0
    deleted: tuple[str, ...] = ()


class IndexFolder:
    """Versions of an index in a folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def current(self) -> str | None:
        """Name of the version in use; None where there is no index yet.

        Raises:
            ValueError: a damaged file.
        """
        try:
            text = (self.path / POINTER).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return str(json.loads(text)["current"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self.path / POINTER)!r} names no version ({error!r}); restore or remove it."
            ) from error

    def required(self) -> str:
        """Name of the version in use.

        Raises:
            ValueError: there is no index.
        """
        name = self.current()
        if name is None:
            raise ValueError(f"`index` {str(self.path)!r} holds no index; make one with `vlm2rec index`.")
        return name

    def facts(self, version: str) -> IndexFacts:
        """What a version holds."""
        return IndexFacts.from_dict(json.loads((self.path / version / "facts.json").read_text(encoding="utf-8")))

    def state(self, version: str) -> VersionState:
        """Which items file a version uses now."""
        values = json.loads((self.path / version / "state.json").read_text(encoding="utf-8"))
        return VersionState(values["items"], values["folded"], tuple(values["deleted"]))

    def set_state(self, version: str, state: VersionState) -> None:
        """Make a version use another items file, at once."""
        write_state(self.path / version, state)

    def versions(self) -> list[str]:
        """All versions on the disk, oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(p.name for p in self.path.iterdir() if p.is_dir() and not is_being_written(p))

    def next_name(self) -> str:
        """The name of a new version."""
        names = [name for name in self.versions() if name[1:].isdigit()]
        return f"v{max((int(name[1:]) for name in names), default=0) + 1:06d}"

    def switch(self, version: str) -> None:
        """Make a version the one in use, at once and for good."""
        with whole_file(self.path / POINTER) as partial:
            partial.write_text(json.dumps({"current": version}), encoding="utf-8")

    def clear_up(self) -> None:
        """Remove versions never switched to, all but the newest `KEPT_VERSIONS`, and what killed writers left."""
        remove_leftovers(self.path)
        used = self.required()
        names = self.versions()
        kept = [name for name in names if name <= used][-KEPT_VERSIONS:]
        for name in names:
            if name not in kept:
                remove_folder(self.path / name)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Build a version; only one process does at a time.

        Raises:
            ValueError: another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for attempt in range(FOLD_WAITS):
            with locked(self.path, wait=False) as mine:
                if mine or os.name != "posix":  # Windows does not lock folders
                    yield
                    return
            if attempt < FOLD_WAITS - 1:  # it may be a server that folds changes in
                time.sleep(0.1)
        raise ValueError(f"`output` {str(self.path)!r} is being built by another process; wait for its end.")

    @contextmanager
    def no_build(self) -> Iterator[bool]:
        """Keep others from building a version; yields False where one is being built already."""
        with locked(self.path, wait=False) as mine:
            yield mine or os.name != "posix"

    @contextmanager
    def writing(self, version: str) -> Iterator[None]:
        """Change a version; others wait."""
        with locked(self.path / version, wait=True):
            yield


def write_state(folder: Path, state: VersionState) -> None:
    """Write the state of a version into its folder."""
    _write_json(folder / "state.json", asdict(state))


def write_facts(folder: Path, facts: IndexFacts) -> None:
    """Write the facts of a version into its folder."""
    _write_json(folder / "facts.json", facts.to_dict())


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
