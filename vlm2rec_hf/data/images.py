"""Safe image loading: anything hostile or broken costs the item its image, never the run."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .png_chunks import without_metadata

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from PIL import Image

    T = TypeVar("T")

MAX_PIXELS = 50_000_000
MAX_BYTES = 100_000_000

# An allow-list: Pillow also knows formats whose loading starts other programs (EPS) or that nobody uses for products.
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

DECODING_RULES = 2
"""Raised whenever `decode_image` turns some file into other pixels than before, so that caches notice."""

REASONS = {
    "empty": "no bytes at all",
    "not_an_image": f"not an image in one of the formats {', '.join(IMAGE_FORMATS)}",
    "truncated": "the file ends too early",
    "corrupt": "the header is fine, the pixels cannot be decoded",
    "too_many_pixels": "more pixels than `max_pixels`",
    "too_many_bytes": f"the file is larger than {MAX_BYTES} bytes",
    "unreadable_path": "the file behind an `ImagePath` cannot be read",
    "no_bytes": "a mapping without `bytes` (its `path` is only a label and is never opened)",
    "unsupported_type": "not a PIL image, bytes, a {'bytes', 'path'} mapping or an `ImagePath`",
}
"""Every reason an `ImageError` can carry, with its meaning."""


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: one of the keys of `REASONS`, for tables and counts.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {REASONS[reason]}{f' ({detail})' if detail else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would rebuild the error from the message, which is not a reason: data-loader workers pickle it.
        return _rebuild_error, (self.reason, str(self))


def _rebuild_error(reason: str, message: str) -> ImageError:
    error = ImageError(reason)
    error.args = (message,)
    return error


class ImagePath:
    """A local image file that may be opened. The only way in which this package opens a path to an image."""

    __slots__ = ("path",)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"ImagePath({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImagePath) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            ImageError: `unreadable_path` or `too_many_bytes`.
        """
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise ImageError("too_many_bytes", str(self.path))
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError("unreadable_path", f"{self.path}: {error.strerror}") from error


def decode_image(value: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to RGB.

    The size is checked from the header before any pixel is decoded. Metadata (a text, a colour profile, EXIF) that is
    damaged or too large is left out. What becomes of transparency, deep grey, orientation and animations is one rule
    for the whole package, `vlm2rec_hf.modeling.items_vlm2rec.as_rgb`.

    Args:
        value: a `PIL.Image.Image`, the bytes of a file, a mapping with `bytes` (as `datasets.Image(decode=False)`
            gives) or an `ImagePath`. A plain string is never opened and never fetched.
        max_pixels: largest accepted width x height.

    Returns:
        A loaded RGB image.

    Raises:
        ImageError: with the reason; see `REASONS`.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        _check_pixels(value, max_pixels)
        return _to_rgb(value)
    return _with_sound_metadata(image_bytes(value), lambda data: _to_rgb(_checked(data, max_pixels)))


def try_decode_image(value: Any, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image | None, str | None]:
    """`decode_image`, with the reason returned instead of raised.

    Returns:
        `(image, None)`, or `(None, reason)` with a key of `REASONS`.
    """
    try:
        return decode_image(value, max_pixels), None
    except ImageError as error:
        return None, error.reason


def check_image_header(value: Any, max_pixels: int = MAX_PIXELS) -> str | None:
    """What is wrong with an image, judged by its header alone (no pixel is decoded); None if nothing is."""
    try:
        _with_sound_metadata(image_bytes(value), lambda data: _checked(data, max_pixels))
    except ImageError as error:
        return error.reason
    return None


def image_bytes(value: Any) -> bytes:
    """The encoded bytes of an image given as bytes, mapping or `ImagePath`.

    Raises:
        ImageError: `unsupported_type` (also for every plain string), `no_bytes`, `empty`, `too_many_bytes` or
            `unreadable_path`.
    """
    if isinstance(value, ImagePath):
        data: Any = value.read_bytes()
    elif isinstance(value, Mapping):
        data = value.get("bytes")
        if data is None:
            raise ImageError("no_bytes", "wrap a local file in `ImagePath(...)` to have it opened")
    else:
        data = value
    if isinstance(data, str):
        raise ImageError(
            "unsupported_type",
            f"got the string {data[:60]!r}; strings are never opened or fetched, wrap a file in `ImagePath(...)`",
        )
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError("unsupported_type", f"got {type(data).__name__}")
    if len(data) == 0:
        raise ImageError("empty")
    if len(data) > MAX_BYTES:
        raise ImageError("too_many_bytes", f"{len(data)} bytes")
    return bytes(data)


def image_digest(data: bytes) -> bytes:
    """Hash of an image file that stands for what `decode_image` makes of it: equal hashes, equal pixels.

    Returns:
        20 bytes; others under another Pillow, or other rules of `decode_image`.
    """
    from PIL import __version__ as pillow

    digest = hashlib.blake2b(f"rules {DECODING_RULES}, Pillow {pillow}:".encode(), digest_size=20)
    digest.update(data)
    return digest.digest()


def encode_png(image: Image.Image) -> bytes:
    """A PIL image as PNG bytes (RGB), for tables that were given decoded images."""
    buffer = io.BytesIO()
    decode_image(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _with_sound_metadata(data: bytes, read: Callable[[bytes], T]) -> T:
    """`read` a file; if that fails, read what is left of it without metadata."""
    try:
        return read(data)
    except ImageError as error:
        bare = without_metadata(data) if error.reason != "too_many_pixels" else None
        if bare is None:
            raise
    return read(bare)


def _checked(data: bytes, max_pixels: int) -> Image.Image:
    image = _open(data)
    _check_pixels(image, max_pixels)
    return image


def _open(data: bytes) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in IMAGE_FORMATS if name in Image.OPEN]  # a build of Pillow may lack WEBP or AVIF
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError("not_an_image") from error
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, KeyError, struct.error, zlib.error) as error:
        raise ImageError(_broken_reason(error), str(error)) from error


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height}, `max_pixels` is {max_pixels}")
    if width == 0 or height == 0:
        raise ImageError("not_an_image", f"{width} x {height} pixels")


def _broken_reason(error: Exception) -> str:
    text = str(error).lower()
    early = (
        "truncated",
        "unexpected end",
        "end of file",
        "not enough",
        "incomplete",
        "broken data stream",
        "too small",
    )
    return "truncated" if isinstance(error, EOFError) or any(word in text for word in early) else "corrupt"


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    # In a function, because it brings torch along: reading tables alone needs none.
    from ..modeling.items_vlm2rec import as_rgb

    try:
        return as_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        EOFError,
        KeyError,
        IndexError,
        OverflowError,
        RuntimeError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(_broken_reason(error), str(error)) from error
