"""What the Amazon readers of all vintages do alike: find the files, read them, join images, build the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...columns import ITEM_ID, RATING, TEXT, TIMESTAMP, TITLE, USER_ID
from .. import quarantine as q
from ..dataset import RecDataset
from .image_folder import IMAGES, with_images, with_images_beside
from .jsonl import parse_lines, read_json_lines

_ITEM = pa.schema([(name, pa.string()) for name in (ITEM_ID, TITLE, "brand", "category", TEXT)])
LineParser = Callable[[str], dict[str, Any] | None]


@dataclass(frozen=True)
class Vintage:
    """What differs between the releases of the reviews.

    Attributes:
        columns: the release's names of user, item, rating and time.
        timestamp_unit: `"s"` or `"ms"`.
        layout: what a folder has to hold, for the error message.
        review_file: the reviews of a folder, or None.
        meta_beside: the metadata file that belongs to a review file, or None.
        meta_parser: makes the parser of metadata lines; gets the reviewed ids, `all_items`, and counts of what is
            taken out of texts, to add to.
    """

    columns: tuple[str, str, str, str]
    timestamp_unit: str
    layout: str
    review_file: Callable[[Path], Path | None]
    meta_beside: Callable[[Path], Path | None]
    meta_parser: Callable[[set[str], bool, Counter[str]], LineParser]

    def read(
        self,
        reviews: str | Path,
        meta: str | Path | None,
        image_folder: str | Path | None,
        all_items: bool,
        options: dict[str, Any],
    ) -> RecDataset:
        """Read reviews and metadata; arguments and errors as in the readers."""
        source = Path(reviews)
        beside = source if source.is_dir() else None
        if source.is_dir():
            file = self.review_file(source)
            if file is None:
                raise ValueError(f"`reviews` {str(source)!r} does not hold exactly one {self.layout}; name the file.")
            options = {"name": source.name, **options}
            source = file
        if not source.is_file():
            raise ValueError(f"There is no file `reviews` {str(source)!r}.")
        if meta is None:
            meta = self.meta_beside(source)
        elif not Path(meta).is_file():
            raise ValueError(f"There is no file `meta` {str(meta)!r}.")
        user, item, rating, time = self.columns
        fields = [(user, pa.string()), (item, pa.string()), (rating, pa.float64()), (time, pa.int64())]
        events, bad = read_json_lines(source, pa.schema(fields))
        events = events.rename_columns([USER_ID, ITEM_ID, RATING, TIMESTAMP])
        reviewed = set(pc.unique(events[ITEM_ID]).to_pylist()) - {None, ""}
        items, bad_meta = _ITEM.empty_table(), q.empty()
        counts: Counter[str] = Counter()
        if meta is not None:
            rows, lines = parse_lines(Path(meta), self.meta_parser(reviewed, all_items, counts))
            items, bad_meta = pa.Table.from_pylist(rows, schema=_ITEM), q.of_lines(lines, table=Path(meta).name)
        if image_folder is not None:
            items = with_images(_with_bare_rows(items, reviewed), image_folder)
        elif beside is not None and (beside / IMAGES).is_dir():
            items = with_images_beside(_with_bare_rows(items, reviewed), beside)
        options = {"timestamp_unit": self.timestamp_unit, "unknown_items": "keep", "noted": +counts, **options}
        return RecDataset.from_tables(events, items, quarantine=q.concat([bad, bad_meta]), **options)


def first_file(folder: Path, names: list[str]) -> Path | None:
    """The first of `names` that the folder holds."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _with_bare_rows(items: pa.Table, reviewed: set[str]) -> pa.Table:
    """The items, and a row without text for every reviewed id that the metadata lacks: it may have an image."""
    missing = sorted(reviewed - set(items[ITEM_ID].to_pylist()))
    return pa.concat_tables([items, pa.table({ITEM_ID: pa.array(missing, pa.string())})], promote_options="default")
