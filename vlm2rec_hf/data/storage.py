"""The folder of a saved dataset: written beside its place and renamed, refused when anything is missing."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..columns import IMAGE
from ..files import json_bytes, whole_folder

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

INFO_FILE = "rec_dataset.json"
FORMAT_VERSION = 1
INTERACTIONS, ITEMS, QUARANTINE = "interactions", "items", "quarantine.parquet"
_OWN = (
    INFO_FILE,
    QUARANTINE,
    *(
        f"{table}/{name}"
        for table in (INTERACTIONS, ITEMS)
        for name in ("data-*.arrow", "dataset_info.json", "state.json", "cache-*")
    ),
)
"""What a saved dataset's folder holds; `cache-*` is what `datasets` keeps beside a table that was mapped."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder holds (or claims to hold) a saved dataset."""
    return (folder / INFO_FILE).is_file()


def write_folder(
    folder: Path,
    *,
    interactions: datasets.Dataset,
    items: datasets.Dataset,
    quarantine: pa.Table,
    info: dict[str, Any],
    overwrite: bool,
) -> None:
    """Write a dataset folder atomically.

    Raises:
        ValueError: `folder` exists and is not a dataset that may be replaced.
    """
    import pyarrow.parquet as pq

    check_free(folder, overwrite)
    with whole_folder(folder) as staging:
        for name, table in ((INTERACTIONS, interactions), (ITEMS, items)):
            _typed_plainly(table, images=False).save_to_disk(str(staging / name))
        pq.write_table(quarantine, staging / QUARANTINE)
        files = {
            str(path.relative_to(staging)): path.stat().st_size
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        # Last, so that a folder with this file was complete when it was written.
        (staging / INFO_FILE).write_bytes(json_bytes({"format_version": FORMAT_VERSION, **info, "files": files}))


def read_folder(folder: Path) -> tuple[datasets.Dataset, datasets.Dataset, pa.Table, dict[str, Any]]:
    """Open a dataset folder; the tables are memory-mapped.

    Returns:
        interactions, items, quarantine and the content of the info file.

    Raises:
        ValueError: not a dataset folder, of a newer format, or incomplete.
    """
    import datasets
    import pyarrow.parquet as pq

    if not folder.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is not a folder.")
    if not is_saved_dataset(folder):
        raise ValueError(
            f"`folder` {str(folder)!r} holds no {INFO_FILE}: it was not written by `RecDataset.save`, or the writing "
            "was cut short; save it again. For raw tables use `load_recsys`."
        )
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        version, files = info["format_version"], info["files"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{INFO_FILE} in `folder` {str(folder)!r} is damaged ({error}); save the dataset again."
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"`folder` {str(folder)!r} has format {version}, this package reads {FORMAT_VERSION}; upgrade it."
        )
    for name, size in files.items():
        actual = (folder / name).stat().st_size if (folder / name).is_file() else None
        if actual != size:
            state = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise ValueError(f"The dataset in `folder` {str(folder)!r} is incomplete: {name} {state}; save it again.")
    tables = [datasets.load_from_disk(str(folder / name), keep_in_memory=False) for name in (INTERACTIONS, ITEMS)]
    interactions, items = tables
    if not (isinstance(interactions, datasets.Dataset) and isinstance(items, datasets.Dataset)):
        raise ValueError(f"The tables in `folder` {str(folder)!r} are no plain datasets; save the dataset again.")
    events, catalogue = _typed_plainly(interactions, images=False), _typed_plainly(items, images=True)
    return events, catalogue, pq.read_table(folder / QUARANTINE), info


def _typed_plainly(table: datasets.Dataset, *, images: bool) -> datasets.Dataset:
    """The same memory-mapped table with plain types; with `images` its image column is an `Image`, not decoded.

    `datasets` opens what a cell of a column declared as image, sound or video names without holding it: when a row
    is read (a folder may come from somebody else and declare anything), and, decoding or not, when the table is saved.
    """
    import datasets

    plain = table.data.replace_schema_metadata()
    features = datasets.Features.from_arrow_schema(plain.schema)
    if images and IMAGE in features:
        features[IMAGE] = datasets.Image(decode=False)
    return datasets.Dataset(plain, info=datasets.DatasetInfo(features=features), indices_table=table._indices)


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse to write a dataset where something else lies.

    Raises:
        ValueError: `folder` exists, is not empty and may not be replaced, or holds more than a dataset.
    """
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not (folder.is_dir() and is_saved_dataset(folder)):
        raise ValueError(f"`folder` {str(folder)!r} already holds something else; choose another folder.")
    if occupied and (others := _other_files(folder)):
        shown = ", ".join(repr(name) for name in others[:5]) + (", ..." if len(others) > 5 else "")
        raise ValueError(
            f"`folder` {str(folder)!r} holds {shown} beside its dataset, which replacing the folder would delete; "
            "move that away, or choose another folder."
        )
    if occupied and not overwrite:
        raise ValueError(f"`folder` {str(folder)!r} already holds a dataset; pass `overwrite=True` or choose another.")


def _other_files(folder: Path) -> list[str]:
    """Files and links in a dataset's folder that are none of the dataset's, as paths in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if not any(fnmatchcase(name, own) for own in _OWN)]
