"""Images of items from a local folder, by item id or by a column of file names; nothing outside it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from ...columns import IMAGE, ITEM_ID
from ..images import ImageError, ImagePath
from ..items import IMAGE_TYPE

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def with_images(items: pa.Table, folder: str | Path, *, file_column: str | None = None) -> pa.Table:
    """Add a column `image` with the encoded images of a folder.

    Args:
        items: rows with a string `item_id`.
        folder: images named `<item_id>.jpg` (or another of `EXTENSIONS`).
        file_column: take the file names of this column instead. Only their last part counts, so that a table cannot
            make other files be read.

    Returns:
        `items` with images where a file was found; unreadable files leave their name only, and are counted by
        `Coverage.items_image_path_only`.

    Raises:
        ValueError: `folder` is no folder, or `file_column` is not there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"`image_folder` {str(folder)!r} is not a folder.")
    if file_column is not None and file_column not in items.column_names:
        raise ValueError(
            f"`image_column` {file_column!r} is not a column of the items; they have {items.column_names}."
        )
    by_name: dict[str, str] = {}
    by_stem: dict[str, str] = {}
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        stem, extension = os.path.splitext(entry.name)
        if extension.lower() in EXTENSIONS and entry.is_file(follow_symlinks=False):
            by_name[entry.name] = entry.path
            by_stem.setdefault(stem, entry.path)
    if file_column is None:
        paths = [by_stem.get(str(key)) for key in items[ITEM_ID].to_pylist()]
    else:
        names = items[file_column].cast(pa.string()).to_pylist()
        paths = [None if name is None else by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1]) for name in names]
    chunks = [_cells(paths[start : start + 1024]) for start in range(0, len(paths), 1024)]
    column = pa.chunked_array(chunks, type=IMAGE_TYPE)
    if IMAGE in items.column_names:
        return items.set_column(items.column_names.index(IMAGE), IMAGE, column)
    return items.append_column(IMAGE, column)


def _cells(paths: list[str | None]) -> pa.Array:
    cells: list[dict[str, bytes | str | None] | None] = []
    for path in paths:
        if path is None:
            cells.append(None)
            continue
        try:
            cells.append({"bytes": ImagePath(path).read_bytes(), "path": os.path.basename(path)})
        except ImageError:
            cells.append({"bytes": None, "path": os.path.basename(path)})
    return pa.array(cells, type=IMAGE_TYPE)
