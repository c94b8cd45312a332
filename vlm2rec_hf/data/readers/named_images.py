"""Which images a table of items gets: of a folder that is named, or of the one that lies beside the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from ...columns import ITEM_ID
from ..ids import id_strings
from .image_folder import IMAGES, with_images, with_images_beside
from .image_pattern import with_images_by_pattern


def with_named_images(
    catalogue: pa.Table | None,
    names: Mapping[str, str],
    beside: Path | None,
    *,
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    image_pattern: str | None = None,
) -> pa.Table | None:
    """The items with their images, where a folder of them is named, or lies beside the tables.

    Args:
        catalogue: the items under standard names, or None.
        names: original -> standard names of the items' columns.
        beside: the folder of the tables, whose `images` is read where no `image_folder` is named; None: none is.
        image_folder: as in `RecDataset.from_files`, with the two that follow.
        image_column: see there.
        image_pattern: see there.

    Raises:
        ValueError: no items for the images, or options that do not go together.
    """
    if image_folder is None:
        for option, value in (("image_pattern", image_pattern), ("image_column", image_column)):
            if value is not None:
                raise ValueError(f"`{option}` needs `image_folder`, the folder of the images.")
    if catalogue is None or ITEM_ID not in catalogue.column_names:
        if image_folder is not None:
            raise ValueError(f"`image_folder` needs `items` with a column `{ITEM_ID}`.")
        return catalogue
    if image_folder is None and (beside is None or not (beside / IMAGES).is_dir()):
        return catalogue
    item_ids = id_strings(catalogue[ITEM_ID], ITEM_ID)
    catalogue = catalogue.set_column(catalogue.column_names.index(ITEM_ID), ITEM_ID, item_ids)
    if image_folder is None:
        return with_images_beside(catalogue, beside)  # type: ignore[arg-type]
    if image_pattern is not None and image_column is not None:
        raise ValueError("Name at most one of `image_pattern` and `image_column`.")
    if image_pattern is not None:
        return with_images_by_pattern(catalogue, image_folder, image_pattern, names=names)
    column = None if image_column is None else names.get(image_column, image_column)
    return with_images(catalogue, image_folder, file_column=column)
