"""Features of images on disk for one vision tower: look-up over all segments, and what waits to be committed."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import remove_leftovers
from ..modeling.family_vlm2rec import ImageFeatures
from .vision_cache_files import (
    KEY_BYTES,
    DamagedSegment,
    Record,
    Segment,
    open_segment,
    segment_paths,
    set_aside,
    write_segment,
)

KEY = np.dtype(f"S{KEY_BYTES}")


class MissingImage(LookupError):
    """The store does not hold an image (any more)."""


class _Waiting:
    """What was added since the last commit, in memory; committed when the process ends in an orderly way."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder, self.dtype, self.owner = folder, dtype, os.getpid()
        self.clear()

    def clear(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.sources: dict[bytes, bytes] = {}
        self.n_bytes, self.since = 0, time.monotonic()

    def commit(self) -> None:
        # A forked process has inherited what its parent will write.
        if (not self.records and not self.sources) or self.owner != os.getpid():
            return
        shapes = {(record.values.shape[0] - 1, record.values.shape[2]) for record in self.records.values()}
        layers, width = shapes.pop() if shapes else (0, 0)
        if shapes:
            raise ValueError(
                f"The features of one vision tower differ in shape: {sorted({(layers, width), *shapes})}."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_segment(self.folder, self.records, self.sources, self.dtype, width, layers)
        self.clear()


class FeatureStore:
    """Key -> features for one tower, one preprocessing and one dtype, in a folder of segments.

    Several processes may read and write one folder at once: each commits segments of its own, and `refresh` takes in
    those of the others. A pickled store is a folder's name; it opens the folder again where it is unpickled.

    Args:
        folder: made at the first commit.
        dtype: `float32`, `float16` or `bfloat16`.
        segment_bytes: commit when this much waits in memory.
        commit_seconds: commit when something has waited for so long, so that a killed process loses no more.
    """

    def __init__(self, folder: Path, dtype: str, segment_bytes: int, commit_seconds: float) -> None:
        self.folder, self.dtype = folder, dtype
        self._segment_bytes, self._commit_seconds = segment_bytes, commit_seconds
        self._segments: dict[str, Segment] | None = None
        self._waiting = _Waiting(folder, dtype)
        weakref.finalize(self, self._waiting.commit)
        self._index()

    def __getstate__(self) -> dict[str, Any]:
        return {"args": (self.folder, self.dtype, self._segment_bytes, self._commit_seconds)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["args"])  # type: ignore[misc]

    def __len__(self) -> int:
        self._opened()
        return len(np.unique(self._keys)) + sum(not self._find(key) for key in self._waiting.records)

    def refresh(self) -> None:
        """Add segments that were committed since, and drop those that are gone."""
        known = self._segments or {}
        present: dict[str, Segment] = {}
        for path in segment_paths(self.folder):
            try:
                present[path.name] = known[path.name] if path.name in known else open_segment(path)
            except DamagedSegment as error:
                set_aside(path, str(error))
            except FileNotFoundError:  # set aside by another process just now
                continue
        if self._segments is None or present.keys() != known.keys():
            self._segments = present
            self._index()

    def has(self, key: bytes, *, verify: bool = False) -> bool:
        """Whether the features of an image are here; with `verify`, also whether they are what was written.

        A segment found damaged is set aside.
        """
        self._opened()
        if key in self._waiting.records:
            return True
        if not verify:
            return self._find(key) is not None
        try:
            self._read(key)
        except MissingImage:
            return False
        return True

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Which of many keys are in no segment: `(n,)` bool."""
        self._opened()
        if not len(self._keys):
            return np.ones(len(keys), dtype=bool)
        places = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        return self._keys[places] != keys

    def key_of_source(self, source: bytes) -> bytes | None:
        """The key of an image whose file's hash was seen before."""
        self._opened()
        if source in self._waiting.sources:
            return self._waiting.sources[source]
        wanted = np.array(source, dtype=KEY)
        place = int(self._sources["source"].searchsorted(wanted))
        if place == len(self._sources) or self._sources["source"][place] != wanted:
            return None
        return bytes(self._sources["key"][place]).ljust(KEY_BYTES, b"\0")  # NumPy drops trailing zeros

    def get(self, key: bytes) -> tuple[tuple[int, ...], ImageFeatures]:
        """Vision grid and features of an image; the tensors are mapped from the disk.

        Raises:
            MissingImage: they are not here; if they were damaged, they are set aside.
        """
        self._opened()
        waiting = self._waiting.records.get(key)
        grid, values = (waiting.grid, waiting.values) if waiting is not None else self._read(key)
        return grid, ImageFeatures(values[0], torch.tensor([grid]), tuple(values[1:]))

    def add(self, key: bytes, features: ImageFeatures) -> None:
        """Add an image's features; they are on disk after the next commit at the latest.

        Args:
            key: see `image_key`.
            features: of one image.

        Raises:
            ValueError: layers of another shape, or values that are infinite in float16.
            OSError: the disk is full; what waits is kept and `flush` may be tried again.
        """
        if any(layer.shape != features.tokens.shape for layer in features.layers):
            raise ValueError("Deeper layers of the vision tower have another shape than its output.")
        exact = torch.stack([features.tokens, *features.layers]).detach()
        values = exact.to(getattr(torch, self.dtype)).cpu()
        if self.dtype == "float16" and not values.isfinite().all() and exact.isfinite().all():
            raise ValueError(
                f"`dtype` 'float16' cannot hold features as large as {float(exact.abs().max()):.3g}; use 'bfloat16'."
            )
        if not self._waiting.records:
            self._waiting.since = time.monotonic()
        self._waiting.records[key] = Record(tuple(int(n) for n in features.grid[0].tolist()), values)
        self._waiting.n_bytes += values.nbytes
        waited = time.monotonic() - self._waiting.since
        if self._waiting.n_bytes >= self._segment_bytes or waited >= self._commit_seconds:
            self.flush()

    def add_source(self, source: bytes, key: bytes) -> None:
        """Remember that a file with the hash `source` holds the image `key`."""
        self._opened()
        self._waiting.sources[source] = key

    def flush(self) -> None:
        """Commit what waits, and take in what others have committed.

        Raises:
            OSError: the disk is full; nothing is lost, neither on disk nor what waits.
        """
        self._waiting.commit()
        self.refresh()

    def _opened(self) -> dict[str, Segment]:
        if self._segments is None:
            remove_leftovers(self.folder)
            self.refresh()
        assert self._segments is not None
        return self._segments

    def _index(self) -> None:
        """Sort the keys of all segments; an image in two segments is found in one of them."""
        self._order = list((self._segments or {}).values())
        keys = np.concatenate([np.zeros(0, KEY), *(segment.entries["key"] for segment in self._order)])
        order = np.argsort(keys, kind="stable")
        sizes = [len(segment.entries) for segment in self._order]
        self._keys = keys[order]
        self._segment_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        rows = [np.arange(size, dtype=np.int32) for size in sizes]
        self._row_of = np.concatenate([np.zeros(0, np.int32), *rows])[order]
        empty = np.zeros(0, [("source", KEY), ("key", KEY)])
        sources = np.concatenate([empty, *(segment.sources for segment in self._order)])
        self._sources = sources[np.argsort(sources["source"], kind="stable")]

    def _find(self, key: bytes) -> tuple[Segment, int] | None:
        wanted = np.array(key, dtype=KEY)
        place = int(self._keys.searchsorted(wanted))
        if place == len(self._keys) or self._keys[place] != wanted:
            return None
        return self._order[self._segment_of[place]], int(self._row_of[place])

    def _read(self, key: bytes) -> tuple[tuple[int, ...], torch.Tensor]:
        while (place := self._find(key)) is not None:
            segment, row = place
            try:
                return tuple(segment.entries["grid"][row].tolist()), segment.read(row)
            except DamagedSegment as error:
                set_aside(segment.path, str(error))
                self._opened().pop(segment.path.name)
                self._index()
        raise MissingImage(
            f"The vision cache in {str(self.folder)!r} does not hold the image {key.hex()} (any more): its file was "
            "damaged or deleted since; run again, or call `cache_features(model, cache)` again, to compute it."
        )
