"""A PNG file without what is not pixels: a damaged or huge text or colour profile costs nobody the image."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_SHOWN = (b"tRNS", b"eXIf")  # transparency and orientation


def without_metadata(data: bytes) -> bytes | None:
    """The file with the chunks alone that decide what is shown; of these, ancillary ones only if they are sound.

    Args:
        data: a file's content.

    Returns:
        The shorter file; None if it is no PNG, or nothing can be left out. Chunks of pixels stay as they are, damaged
        or not, and so does all from the first chunk on that goes past the end of the file.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            break
        if kind in _CRITICAL or (kind in _SHOWN and _is_sound(data, place, end)):
            kept.append(data[place:end])
        place = end
    kept.append(data[place:])
    bare = b"".join(kept)
    return bare if len(bare) < len(data) else None


def _is_sound(data: bytes, start: int, end: int) -> bool:
    """Whether a chunk's checksum is right."""
    return struct.pack(">I", zlib.crc32(memoryview(data)[start + 4 : end - 4])) == data[end - 4 : end]
