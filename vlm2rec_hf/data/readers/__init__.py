"""Readers for the formats that recommendation data comes in, and `load_recsys`, which finds the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ...hub.reach import cache_alone_without_hub
from ..dataset import RecDataset
from ..storage import INFO_FILE, is_saved_dataset
from . import amazon_2014, amazon_2023, delimited, hm, hub, microlens, movielens, parquet, pixelrec, recbole
from .amazon_2014 import read_amazon_2014
from .amazon_2023 import read_amazon_2023
from .delimited import read_delimited
from .hm import read_hm
from .hub import read_hub, stream_hub
from .microlens import read_microlens
from .movielens import read_movielens
from .parquet import read_parquet
from .pixelrec import read_pixelrec
from .recbole import read_recbole
from .table_files import ENDINGS

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = [
    "FORMATS",
    "load_recsys",
    "read_amazon_2014",
    "read_amazon_2023",
    "read_delimited",
    "read_hm",
    "read_hub",
    "read_microlens",
    "read_movielens",
    "read_parquet",
    "read_pixelrec",
    "read_recbole",
    "stream_hub",
]


def _load_saved(folder: str | Path, **kwargs: Any) -> RecDataset:
    if kwargs:
        names = ", ".join(f"`{name}`" for name in sorted(kwargs))
        raise ValueError(
            f"{names}: {str(folder)!r} is a saved dataset, which is read as it was saved; leave it out, or name the "
            "raw data."
        )
    return RecDataset.load(folder)


# In the order in which a folder is tried; what it looks for, for the message when nothing fits.
FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[..., RecDataset], str]] = {
    "saved": (is_saved_dataset, _load_saved, f"a folder that `RecDataset.save` wrote ({INFO_FILE})"),
    "hub": (hub.matches, read_hub, "a dataset repo (README.md that declares the config `interactions`)"),
    "parquet": (parquet.matches, read_parquet, "interactions.parquet, or a folder interactions/ with parquet shards"),
    "movielens": (movielens.matches, read_movielens, "ratings.dat and movies.dat, or ratings.csv and movies.csv"),
    "recbole": (recbole.matches, read_recbole, "one NAME.inter, with or without NAME.item"),
    "hm": (hm.matches, read_hm, f"{hm.TRANSACTIONS} and {hm.ARTICLES} (H&M)"),
    "microlens": (microlens.matches, read_microlens, "one MicroLens-X_pairs.csv or .tsv"),
    "pixelrec": (pixelrec.matches, read_pixelrec, "Pixel200K.csv (or another Pixel*.csv), here or one folder down"),
    "delimited": (
        delimited.matches,
        read_delimited,
        "interactions.csv, .tsv, .jsonl, .ndjson, .json (or .gz)",
    ),
    "amazon_2014": (amazon_2014.matches, read_amazon_2014, "one reviews_X_5.json.gz or X_5.json.gz"),
    "amazon_2023": (amazon_2023.matches, read_amazon_2023, "one X.jsonl.gz with meta_X.jsonl.gz"),
}
"""By name: whether a folder fits, the reader, and what it looks for."""


@overload
def load_recsys(
    path_or_hub_id: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    streaming: Literal[False] = False,
    **kwargs: Any,
) -> RecDataset: ...


@overload
def load_recsys(
    path_or_hub_id: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    streaming: Literal[True],
    **kwargs: Any,
) -> dict[str, IterableDataset]: ...


def load_recsys(
    path_or_hub_id: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    **kwargs: Any,
) -> RecDataset | dict[str, IterableDataset]:
    """Load a dataset from a folder in any known format, or from the Hub.

    Args:
        path_or_hub_id: a local folder, or `owner/name` of a dataset repo. What exists locally is never looked up on
            the Hub.
        format: a key of `FORMATS`, to skip the detection.
        revision: branch, tag or commit of a Hub repo.
        streaming: give the two tables of a dataset repo as streams, without downloading them; see `stream_hub`. A
            `RecDataset` needs all rows: its users, splits and filters are made of whole histories.
        **kwargs: passed to the reader and on to `RecDataset.from_tables`.

    Raises:
        ValueError: no such folder, an unknown format, a folder that fits none (the message lists what was looked
            for), or `streaming` of something else than a dataset repo.
        ConnectionError: no such folder, and the Hub cannot be reached (it is a ValueError as well).
    """
    path = Path(path_or_hub_id)
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {format!r}.")
    if streaming and format != "hub" and path.exists() and not (path.is_dir() and hub.matches(path)):
        raise ValueError(f"`streaming` applies to dataset repos; {str(path)!r} is none. Leave it out.")
    if format == "hub" or (format is None and not path.exists()) or streaming:
        read: Callable[..., Any] = stream_hub if streaming else read_hub
        if path.exists():
            return read(path_or_hub_id, revision=revision, **kwargs)
        return _from_hub(read, str(path_or_hub_id), revision, kwargs)
    if revision is not None:
        raise ValueError(f"`revision` = {revision!r} applies to Hub repos; {str(path)!r} is local.")
    if format is not None:
        return FORMATS[format][1](path, **kwargs)
    if path.is_dir():
        for fits, reader, _ in FORMATS.values():
            if fits(path):
                return reader(path, **kwargs)
    elif path.name.endswith(ENDINGS):
        return read_delimited(path, **kwargs)
    elif path.suffix == recbole.SUFFIX:
        return read_recbole(path, **kwargs)
    wanted = "\n".join(f"  {name}: {what}" for name, (_, _, what) in FORMATS.items())
    there = ", ".join(sorted(p.name for p in path.iterdir())[:20]) if path.is_dir() else "a file"
    raise ValueError(
        f"`path_or_hub_id` {str(path)!r} is in no known format. It holds: {there or 'nothing'}. Looked for:\n"
        f"{wanted}\nName the reader with `format=`, or read the tables yourself and use `RecDataset.from_tables`."
    )


class NoSuchDataset(ConnectionError, ValueError):
    """Neither a folder of this machine nor, as far as could be found out, a dataset of the Hub."""


def _from_hub(read: Callable[..., Any], name: str, revision: str | None, options: dict[str, Any]) -> Any:
    """Read a repo; what is wrong with the name is said of the folder first: most wrong names are wrong paths.

    Raises:
        ValueError: no folder, and no Hub id either, or none that the Hub has.
        ConnectionError: no folder, and the Hub cannot be reached. It is a ValueError, too.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"`path_or_hub_id`: there is no folder {name!r}, and a Hub id has the form 'owner/name'.")
    try:
        with cache_alone_without_hub():
            return read(name, revision=revision, **options)
    except ConnectionError as error:
        raise NoSuchDataset(f"`path_or_hub_id`: there is no folder {name!r}. If it is a Hub id: {error}") from error
    except ValueError as error:
        if not isinstance(error.__cause__, Exception) or "no such dataset" not in str(error):
            raise
        raise ValueError(f"`path_or_hub_id`: there is no folder {name!r}. If it is a Hub id: {error}") from error
