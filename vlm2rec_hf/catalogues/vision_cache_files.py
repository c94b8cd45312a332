"""Segment files of the vision cache: written whole or not at all, checked when they are opened and when they are read.

One segment is one file: the features of its images, then the entries (key, vision grid, place, checksum), then the
file hashes known for those images, a JSON header and a trailer of fixed size. The trailer comes last, so that a
file that ends with it was complete when it was written. Our own format: features must be mapped at their place.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import whole_file

KEY_BYTES = 20
ENTRY = np.dtype(
    [("key", f"S{KEY_BYTES}"), ("grid", "<i4", (3,)), ("tokens", "<i4"), ("place", "<i8"), ("crc", "<u4")]
)
SOURCE = np.dtype([("source", f"S{KEY_BYTES}"), ("key", f"S{KEY_BYTES}")])
SUFFIX, DAMAGED = ".segment", ".damaged"
FORMAT_VERSION = 1
_TRAILER = struct.Struct("<8sQI")
_MAGIC = b"VLM2VIS1"

# What stands in the file (mapped through NumPy, which has no bfloat16) and what it is read as.
_STORED = {
    "float32": (torch.float32, torch.float32),
    "float16": (torch.int16, torch.float16),
    "bfloat16": (torch.int16, torch.bfloat16),
}
DTYPES = tuple(_STORED)


class DamagedSegment(ValueError):
    """A segment file that cannot be trusted; the message says what is wrong with it."""


@dataclass
class Record:
    """Features of one image, ready to be written.

    Attributes:
        grid: vision grid `(t, h, w)`.
        values: `(1 + layers, tokens, width)` in the dtype of the segment; the tower's output, then the deeper layers.
    """

    grid: tuple[int, ...]
    values: Tensor


class Segment:
    """An open segment: its index in memory, its features mapped.

    Attributes:
        path: the file.
        entries: `(images,)` array of `ENTRY`.
        sources: `(hashes,)` array of `SOURCE`.
    """

    def __init__(self, path: Path, header: dict[str, Any], entries: np.ndarray, sources: np.ndarray) -> None:
        self.path, self.entries, self.sources = path, entries, sources
        self._width, self._layers = int(header["width"]), int(header["layers"])
        stored, self._dtype = _STORED[header["dtype"]]
        count = int(header["feature_bytes"]) // stored.itemsize
        # Mapped copy-on-write: nothing written to a feature can reach the file. Keeps no file descriptor.
        mapped = torch.from_file(str(path), shared=False, size=count, dtype=stored) if count else torch.empty(0)
        self._values = mapped.numpy()
        self._sound = np.zeros(len(entries), dtype=bool)

    def read(self, row: int) -> Tensor:
        """Features of an entry as a mapped view `(1 + layers, tokens, width)`.

        Its storage is the record alone, so a pickle of it does not carry the segment.

        Raises:
            DamagedSegment: they are not what was written.
        """
        raw = self._raw(row)
        if not self._sound[row]:
            if zlib.crc32(raw.view(np.uint8).data) != self.entries["crc"][row]:
                raise DamagedSegment("the checksum of an image's features does not match")
            self._sound[row] = True
        return torch.from_numpy(raw).view(self._dtype).reshape(1 + self._layers, -1, self._width)

    def _raw(self, row: int) -> np.ndarray:
        start = int(self.entries["place"][row])
        return self._values[start : start + (1 + self._layers) * int(self.entries["tokens"][row]) * self._width]


def write_segment(
    folder: Path, records: Mapping[bytes, Record], sources: Mapping[bytes, bytes], dtype: str, width: int, layers: int
) -> Path:
    """Write a segment under a name of its own, whole and on the disk when this returns.

    Args:
        folder: exists.
        records: by key.
        sources: hash of an image file -> key.
        dtype: one of `DTYPES`.
        width: of a feature vector.
        layers: deeper layers per image.

    Raises:
        OSError: the disk is full, among others; no segment is left behind then.
    """
    entries, sizes = np.zeros(len(records), dtype=ENTRY), []
    final = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    try:
        with whole_file(final) as partial, partial.open("wb") as file:
            place = 0
            for row, (key, record) in enumerate(records.items()):
                data = bytes_of(record.values)
                file.write(data)
                entries[row] = (key, record.grid, record.values.shape[1], place, zlib.crc32(data))
                place += record.values.numel()
                sizes.append(data.nbytes)
            tail = entries.tobytes() + np.array(list(sources.items()), dtype=SOURCE).tobytes()
            header = {"format": FORMAT_VERSION, "dtype": dtype, "width": width, "layers": layers,
                      "feature_bytes": sum(sizes), "entries": len(records), "sources": len(sources),
                      "index_crc": zlib.crc32(tail)}  # fmt: skip
            text = json.dumps(header).encode()
            file.write(tail + text + _TRAILER.pack(_MAGIC, len(text), zlib.crc32(text)))
    except OSError as error:
        raise _explained(error, folder, sum(record.values.nbytes for record in records.values())) from error
    return final


def open_segment(path: Path) -> Segment:
    """Open a segment; its size and index are checked, its features when they are read.

    Raises:
        DamagedSegment: not a whole segment of a format this version reads.
        FileNotFoundError: it is gone.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TRAILER.size:
            raise DamagedSegment(f"it has only {size} bytes")
        file.seek(size - _TRAILER.size)
        magic, length, crc = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _MAGIC or length > size - _TRAILER.size:
            raise DamagedSegment("its end is missing")
        file.seek(size - _TRAILER.size - length)
        text = file.read(length)
        if zlib.crc32(text) != crc:
            raise DamagedSegment("the checksum of its header does not match")
        header = json.loads(text)
        if header["format"] != FORMAT_VERSION:
            raise DamagedSegment(f"it has format {header['format']}, this package reads {FORMAT_VERSION}")
        bytes_of_entries = header["entries"] * ENTRY.itemsize
        tail = bytes_of_entries + header["sources"] * SOURCE.itemsize
        if size != header["feature_bytes"] + tail + length + _TRAILER.size:
            raise DamagedSegment(f"it has {size} bytes, which is not what its header says")
        file.seek(header["feature_bytes"])
        index = file.read(tail)
    if zlib.crc32(index) != header["index_crc"]:
        raise DamagedSegment("the checksum of its index does not match")
    entries = np.frombuffer(index[:bytes_of_entries], dtype=ENTRY)
    return Segment(path, header, entries, np.frombuffer(index[bytes_of_entries:], dtype=SOURCE))


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged segment so that nobody reads it again, and warn."""
    target = path.with_name(path.name + DAMAGED)
    try:
        os.replace(path, target)
        done = f"it was set aside as {target.name}"
    except FileNotFoundError:
        done = "another process has set it aside"
    except OSError as error:
        done = f"it is left out (it could not be renamed: {error.strerror})"
    warnings.warn(
        f"The vision cache's file {path} is damaged: {reason}; {done}, and its images are computed again.",
        RuntimeWarning,
        stacklevel=2,
    )


def bytes_of(tensor: Tensor) -> memoryview:
    """A CPU tensor's bytes, without a copy where it is contiguous."""
    flat: Any = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _explained(error: OSError, folder: Path, size: int) -> OSError:
    """A full disk in words; other errors as they are."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return OSError(
        error.errno,
        f"{os.strerror(error.errno)}: the vision cache in `folder` {str(folder)!r} could not take {size:,} more "
        "bytes. Everything committed before is kept; free some space (or choose another folder, or a smaller `dtype`) "
        "and run again to go on",
    )


def segment_paths(folder: Path) -> Iterable[Path]:
    """The committed segments of a folder, in a fixed order."""
    return sorted(folder.glob(f"*{SUFFIX}"))
