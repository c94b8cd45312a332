"""Images of items from a local folder, by item id or by a column of file names; no name opens another file."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...columns import IMAGE, ITEM_ID
from ..images import ImageError, ImagePath, check_image_header
from ..items import IMAGE_TYPE, normalise_images

logger = logging.getLogger(__name__)

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm",
)  # fmt: skip
"""Endings of image files, in small or capital letters."""
MUCH = 0.2
"""The share of images that may be missing before a warning says so (our choice)."""
IMAGES = "images"
"""The folder of images beside tables that is read though nobody names it."""


def with_images_beside(items: pa.Table, folder: Path) -> pa.Table:
    """The items with the images of the folder `images` beside their table, where they have none.

    Nobody named that folder: if it has none of the images, that is a warning, and the items stay as they are.

    Args:
        items: rows with a string `item_id`.
        folder: of the tables; its `images` is there.
    """
    return items if _holds_images(items, None) else with_images(items, folder / IMAGES, required=False)


def with_images(
    items: pa.Table, folder: str | Path, *, file_column: str | None = None, required: bool = True
) -> pa.Table:
    """Add a column `image` with the encoded images of a folder.

    Subfolders are searched, and symbolic links followed, as the snapshots of the Hub's cache consist of links.

    Args:
        items: rows with a string `item_id`.
        folder: images named `<item_id>.jpg` (or another of `EXTENSIONS`), directly or in subfolders.
        file_column: take the file names of this column instead; of a list the first that is there. Of a longer path
            (or address) as much of its end counts as the folder holds, so that a table cannot make other files be
            read.
        required: whether it is an error that the folder has none of the images, else a warning.

    Returns:
        `items` with images where a file was found, else as they were; unreadable files leave their name only, and are
        counted by `Coverage.items_image_path_only`. A warning says if more than a fifth are missing.

    Raises:
        ValueError: `folder` is no folder, `file_column` is not there, or the folder has none of the images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"`image_folder` {str(folder)!r} is not a folder.")
    if file_column is not None and file_column not in items.column_names:
        raise ValueError(
            f"`image_column` {file_column!r} is not a column of the items; they have {items.column_names}."
        )
    files = ImageFiles(root)
    if file_column is None:
        wanted = [[str(key)] if key is not None else [] for key in items[ITEM_ID].to_pylist()]
        paths = [next(filter(None, map(files.named_by_id, names)), None) for names in wanted]
    else:
        wanted = [_names(value) for value in items[file_column].to_pylist()]
        paths = [next(filter(None, map(files.named, names)), None) for names in wanted]
    looked_for = [(names[0], path) for names, path in zip(wanted, paths, strict=True) if names]
    files.tell_missing(looked_for, file_column, required)
    if not required and not any(paths):
        return items
    column = _column(paths, normalise_images(items[IMAGE]) if _holds_images(items, file_column) else None)
    if IMAGE in items.column_names:
        return items.set_column(items.column_names.index(IMAGE), IMAGE, column)
    return items.append_column(IMAGE, column)


class ImageFiles:
    """The image files of a folder and its subfolders, found by name.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        for path in _image_files(root):
            relative = unicodedata.normalize("NFC", Path(path).relative_to(root).as_posix())
            stem, ending = os.path.splitext(relative)
            # An item may have its image in two formats; the first by name is taken, as it always was.
            for key in (stem + ending.lower(), "/" + stem):
                self._by_path.setdefault(key, path)
            for key in {os.path.basename(stem) + ending.lower(), "/" + os.path.basename(stem)}:
                self._by_name.setdefault(key, []).append(path)

    def named_by_id(self, item_id: str) -> str | None:
        """The file `<item_id>` with any ending, at the top or (if there is one such folder alone) in a subfolder."""
        return self._found("/" + unicodedata.normalize("NFC", item_id))

    def named(self, name: str) -> str | None:
        """The file of a name, or of as much of the end of a path as the folder holds; the ending may be left out."""
        parts = [part for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/") if part]
        for start in range(len(parts)):
            stem, ending = os.path.splitext("/".join(parts[start:]))
            keys = [stem + ending.lower()]
            keys += [f"/{stem}{ending}"] if ending.lower() not in EXTENSIONS else []
            found = next(filter(None, map(self._by_path.get, keys)), None)
            found = found or (next(filter(None, map(self._found, keys)), None) if start == len(parts) - 1 else None)
            if found is not None:
                return found
        return None

    def _found(self, key: str) -> str | None:
        if key in self._by_path:
            return self._by_path[key]
        several = self._by_name.get(key, [])
        # Two formats of one image lie in one folder; files in several folders are several images.
        return several[0] if len({os.path.dirname(path) for path in several}) == 1 else None

    def tell_missing(
        self, looked_for: list[tuple[str, str | None]], file_column: str | None, required: bool = True
    ) -> None:
        """Say how many images are missing where it is much.

        Args:
            looked_for: name or id of each wanted image, and its file.
            file_column: where the names come from; None: they are item ids.
            required: whether it is an error that all are missing.

        Raises:
            ValueError: all of them are missing.
        """
        missing = [name for name, path in looked_for if path is None]
        if len(missing) <= MUCH * len(looked_for):
            return
        what = "<item_id> with an ending of images" if file_column is None else f"the names in {file_column!r}"
        shown = ", ".join(repr(name) for name in missing[:3])
        several = sum(len(self._by_name.get("/" + os.path.splitext(os.path.basename(n))[0], ())) > 1 for n in missing)
        message = (
            f"`image_folder` {str(self.root)!r} has {len(looked_for) - len(missing):,} of {len(looked_for):,} images. "
            f"Looked for {what} ({', '.join(EXTENSIONS)}) in it and its subfolders, which hold "
            f"{len(set(self._by_path.values())):,} image files"
            + (f", such as {next(iter(self._by_path))!r}" if self._by_path else "")
            + f"; missing are {shown}{', ...' if len(missing) > 3 else ''}."
            + (f" {several:,} of them are names of files in several subfolders; give their paths." if several else "")
            + (self._without_zeros(missing) if file_column is None else "")
        )
        if len(missing) == len(looked_for):
            message += " Name the folder of the images, or the items' column of file names with `image_column`."
            if required:
                raise ValueError(message)
            message += " The items stay without images."
        logger.warning(message)

    def _without_zeros(self, missing: list[str]) -> str:
        bare = {key.lstrip("/").lstrip("0") for key in self._by_name if key.startswith("/")}
        found = sum(name.lstrip("0") in bare for name in missing)
        return f" {found:,} of them would be there without leading zeros: keep ids as text." if found else ""


def _image_files(root: Path) -> Iterator[str]:
    """Paths by name, those of a folder before those of its subfolders. Each folder is walked once, links or not."""
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.splitext(name)[1].lower() in EXTENSIONS and os.path.isfile(path):
                yield path


def _names(value: Any) -> list[str]:
    """File names of a cell: one, or a list of several."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one is not None and str(one).strip()]


def _holds_images(items: pa.Table, file_column: str | None) -> bool:
    if IMAGE not in items.column_names or file_column == IMAGE:
        return False
    kind = items.schema.field(IMAGE).type
    return not (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(paths: list[str | None], known: pa.ChunkedArray | None) -> pa.ChunkedArray:
    chunks = []
    for start in range(0, len(paths), 1024):
        before = (
            [None] * len(paths[start : start + 1024]) if known is None else known[start : start + 1024].to_pylist()
        )
        cells = [cell if path is None else _cell(path) for path, cell in zip(paths[start:], before, strict=False)]
        chunks.append(pa.array(cells, type=IMAGE_TYPE))
    return pa.chunked_array(chunks, type=IMAGE_TYPE)


def _cell(path: str) -> dict[str, bytes | str | None]:
    name = os.path.basename(path)
    try:
        data = ImagePath(path).read_bytes()
        # A link may lead anywhere: what it leads to must be an image, or it would be published with the dataset.
        linked = os.path.realpath(path) != os.path.join(os.path.realpath(os.path.dirname(path)), name)
        return {"bytes": None if linked and check_image_header(data) is not None else data, "path": name}
    except ImageError:
        return {"bytes": None, "path": name}
