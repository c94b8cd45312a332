"""MovieLens as GroupLens ships it: ml-1m and ml-10m (`::`), ml-20m, ml-25m, ml-latest and ml-32m (CSV)."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...columns import ITEM_ID, RATING, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from ..timestamps import is_calendar
from .file_tables import read_csv_bytes
from .image_folder import with_images

_GENRES = "genres"
_CSV_NAMES = {"userId": USER_ID, "movieId": ITEM_ID, "title": TITLE, "genres": _GENRES}
_NO_GENRE = "(no genres listed)"


def matches(folder: Path) -> bool:
    """Whether the folder looks like this format."""
    return any((folder / f"ratings{s}").is_file() and (folder / f"movies{s}").is_file() for s in (".dat", ".csv"))


def read_movielens(folder: str | Path, *, posters: str | Path | None = None, **kwargs: Any) -> RecDataset:
    """Read a MovieLens folder. The text of an item is its title and its genres.

    The releases are in UTF-8 or in latin-1, and do not say in which: a line that is no UTF-8 is read as latin-1.

    Args:
        folder: holds `ratings.dat` and `movies.dat`, or `ratings.csv` and `movies.csv`.
        posters: local folder with posters named by movie id (`1.jpg`).
        **kwargs: passed to `RecDataset.from_tables`. `timestamp_unit` is "s" where the times are numbers.

    Raises:
        ValueError: the files are not there or lack columns.
    """
    folder = Path(folder)
    if not matches(folder):
        raise ValueError(
            f"`folder` {str(folder)!r} has neither ratings.dat and movies.dat nor ratings.csv and movies.csv."
        )
    if (folder / "ratings.dat").is_file():
        ratings, bad_ratings = _read_dat(folder / "ratings.dat", [USER_ID, ITEM_ID, RATING, TIMESTAMP])
        movies, bad_movies = _read_dat(folder / "movies.dat", [ITEM_ID, TITLE, _GENRES])
    else:
        ratings, bad_ratings = _read_csv(folder / "ratings.csv")
        movies, bad_movies = _read_csv(folder / "movies.csv")
    if TITLE in movies.column_names and _GENRES in movies.column_names:
        movies = movies.append_column(TEXT, _text(movies))
    if posters is not None:
        movies = with_images(movies, posters)
    unit = "s" if TIMESTAMP in ratings.column_names and not is_calendar(ratings[TIMESTAMP]) else None
    options: dict[str, Any] = {"name": folder.name, "timestamp_unit": unit, **kwargs}
    return RecDataset.from_tables(ratings, movies, quarantine=q.concat([bad_ratings, bad_movies]), **options)


def _read_dat(path: Path, columns: list[str]) -> tuple[pa.Table, pa.Table]:
    # The parser takes one-character separators only; the unit separator cannot occur in a title, a colon can.
    data = _utf8(path.read_bytes())
    if TITLE in columns:
        data = b"\n".join(_three_fields(line) for line in data.split(b"\n"))
    else:
        data = data.replace(b"::", b"\x1f")
    exact = [USER_ID, ITEM_ID, TIMESTAMP]
    return read_csv_bytes(data, path.name, separator="\x1f", ids=exact, columns=columns, quoted=False)


def _three_fields(line: bytes) -> bytes:
    """`id::title::genres` with unit separators: ids and genres hold no `::`, a title may."""
    number, first, rest = line.partition(b"::")
    title, last, genres = rest.rpartition(b"::")
    return b"\x1f".join([number, title, genres]) if first and last else line.replace(b"::", b"\x1f")


def _read_csv(path: Path) -> tuple[pa.Table, pa.Table]:
    exact = ["userId", "movieId", TIMESTAMP]
    table, bad = read_csv_bytes(_utf8(path.read_bytes()), path.name, separator=",", ids=exact)
    return table.rename_columns([_CSV_NAMES.get(name, name) for name in table.column_names]), bad


def _utf8(data: bytes) -> bytes:
    """The bytes of a text without its byte-order mark, in UTF-8: lines that are none are taken for latin-1."""
    data = data.removeprefix(codecs.BOM_UTF8)
    if _is_utf8(data):
        return data
    lines = data.split(b"\n")
    return b"\n".join(line if _is_utf8(line) else line.decode("latin-1").encode() for line in lines)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():  # ratings are, and need no copy
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(movies: pa.Table) -> pa.ChunkedArray:
    genres = pc.replace_substring(movies[_GENRES].cast(pa.string()), "|", ", ")
    known = pc.fill_null(pc.and_(pc.not_equal(genres, _NO_GENRE), pc.not_equal(genres, "")), False)
    title = movies[TITLE].cast(pa.string())
    full = pc.binary_join_element_wise(title, ". Genres: ", genres, ".", "")
    return pc.if_else(known, full, title)
