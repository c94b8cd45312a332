"""Images of items from files whose names follow a pattern, such as `{item_id[:3]}/{item_id}.jpg`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from ...columns import IMAGE
from ..images import ImageError, ImagePath
from ..items import IMAGE_TYPE
from .image_folder import EXTENSIONS, MUCH

logger = logging.getLogger(__name__)
_FIELD = re.compile(r"\{([^{}\[\]:]+)(?:\[(-?\d*):(-?\d*)\])?\}")


def with_images_by_pattern(
    items: pa.Table, folder: str | Path, pattern: str, *, names: Mapping[str, str] | None = None
) -> pa.Table:
    """Add a column `image` with the encoded images that a pattern names.

    Args:
        items: the item table.
        folder: where the patterns begin. No path leads out of it.
        pattern: a path in which `{column}` stands for the row's value, `{column[:3]}` for a part of it as in Python.
            Without an ending, every one of `EXTENSIONS` is tried; endings may be of either case.
        names: original to standard column names; the pattern may use both.

    Returns:
        `items` with images where there is a file; the others keep the name that was looked for, and are counted by
        `Coverage.items_image_path_only`. How many were found is logged, as a warning where more than a fifth are not.

    Raises:
        ValueError: `folder` is no folder or has none of the images, a pattern without a column or with one that is
            not there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"`image_folder`: there is no folder {str(folder)!r}.")
    paths = paths_by_pattern(items, pattern, names)
    sought = [path for path in paths if path is not None]
    cells: list[pa.Array] = []
    found = 0
    for start in range(0, len(paths), 1024):
        part = [_cell(root, path) for path in paths[start : start + 1024]]
        found += sum(cell is not None and cell["bytes"] is not None for cell in part)
        cells.append(pa.array(part, type=IMAGE_TYPE))
    said = f"`image_pattern`: {found:,} images of {items.num_rows:,} items were found in {str(folder)!r}"
    looked = f"Looked for {pattern!r}, such as {os.path.join(folder, sought[0])!r}" if sought else "No path was named"
    if items.num_rows and not found:
        raise ValueError(f"{said}. {looked}; the folder holds {_shown(root)}.")
    if found < (1 - MUCH) * items.num_rows:
        logger.warning(f"{said}. {looked}.")
    else:
        logger.info(f"{said}.")
    column = pa.chunked_array(cells, type=IMAGE_TYPE)
    if IMAGE in items.column_names:
        return items.set_column(items.column_names.index(IMAGE), IMAGE, column)
    return items.append_column(IMAGE, column)


def paths_by_pattern(items: pa.Table, pattern: str, names: Mapping[str, str] | None = None) -> list[str | None]:
    """The pattern filled in for every row; None where a value is missing, or the path would lead out of the folder.

    Raises:
        ValueError: a pattern without a column, with a column that is not there, or with stray braces.
    """
    example = "write it as '{item_id}.jpg' or '{item_id[:3]}/{item_id}.jpg'"
    fields = [match.groups() for match in _FIELD.finditer(pattern)]
    if not fields or set(_FIELD.sub("", pattern)) & set("{}"):
        raise ValueError(f"`image_pattern` {pattern!r} must name columns in braces; {example}.")
    parts: list[tuple[list[str | None], Callable[[str], str]]] = []
    for name, start, stop in fields:
        column = (names or {}).get(name, name)
        if column not in items.column_names:
            raise ValueError(
                f"`image_pattern` {pattern!r} names {name!r}, which is no column of the items; they have "
                f"{items.column_names}."
            )
        parts.append((items[column].cast(pa.string()).to_pylist(), _slicer(start, stop)))
    between = _FIELD.split(pattern)[:: _FIELD.groups + 1]
    paths: list[str | None] = []
    for row in range(items.num_rows):
        text = between[0]
        for (values, cut), after in zip(parts, between[1:], strict=True):
            value = values[row]
            if value is None:
                break
            text += cut(value) + after
        else:
            inside = os.path.normpath(text.replace("\\", "/"))
            # Values come from a file that may be somebody else's: no path may lead out of the folder.
            outside = os.path.isabs(inside) or inside.split("/")[0] == ".." or "\0" in inside
            paths.append(None if outside else inside)
            continue
        paths.append(None)
    return paths


def _slicer(start: str | None, stop: str | None) -> Callable[[str], str]:
    if start is None:
        return lambda value: value
    part = slice(int(start) if start else None, int(stop) if stop else None)
    return lambda value: value[part]


def _cell(root: Path, path: str | None) -> dict[str, bytes | str | None] | None:
    """The image at a path within the folder as `{bytes, path}`; the name alone where there is no readable file."""
    if path is None:
        return None
    for candidate in _spellings(path):
        try:
            if (root / candidate).is_file():
                return {"bytes": ImagePath(root / candidate).read_bytes(), "path": os.path.basename(candidate)}
        except (ImageError, OSError):  # counted by `Coverage.items_image_path_only`
            continue
    return {"bytes": None, "path": os.path.basename(path)}


def _spellings(path: str) -> list[str]:
    """The path as it is and with its ending in the other case; without an ending, with every one there is."""
    stem, ending = os.path.splitext(path)
    if ending.lower() in EXTENSIONS:
        return list(dict.fromkeys([path, stem + ending.lower(), stem + ending.upper()]))
    return [path + case for ending in EXTENSIONS for case in (ending, ending.upper())]


def _shown(root: Path) -> str:
    names = sorted(entry.name for entry in os.scandir(root))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
