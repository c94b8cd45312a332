"""Vectors of an earlier state of a dataset: what has not changed since is not encoded again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogues.vector_files import read_manifest, table_files
from ..columns import ITEM_ID
from ..data.catalogue_items import CatalogueItems
from .manifest import differences

CONTENT = "content"
"""Column of a table of vectors: a digest of what each item's vectors were made of."""
_OF_THE_DATASET = ("dataset", "shards")


def content_digests(items: CatalogueItems) -> list[str]:
    """A digest of every item's text, encoded image and features of one: 32 hexadecimal digits."""
    digests = []
    for row, text in enumerate(items.texts()):
        digest = hashlib.blake2b(json.dumps(text).encode(), digest_size=16)
        digest.update(b"".join(items.image_sources(row)))
        digests.append(digest.hexdigest())
    return digests


class EarlierVectors:
    """A finished table of `vlm2rec embed`, looked up by item; vectors are read when they are asked for.

    Args:
        path: its file or folder.

    Raises:
        ValueError: no such table, one that is not whole, or one that does not say what its items looked like.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ValueError(f"`--update` {str(path)!r} does not exist; name what `vlm2rec embed` wrote before.")
        try:
            self.files, self.facts = table_files(path)
            lacking = {ITEM_ID, CONTENT} - set(pq.read_schema(self.files[0]).names)
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise ValueError(f"`--update` {str(path)!r} is no whole table of `vlm2rec embed`: {error}") from error
        if lacking or (not path.is_dir() and "settings" not in self.facts):
            raise ValueError(
                f"`--update` {str(path)!r} does not say what its items looked like: it was written by an earlier "
                "version, or by something else; leave it out."
            )
        parts = [pq.read_table(file, columns=[ITEM_ID, CONTENT]) for file in self.files]
        known = pa.concat_tables(parts)
        self.place = {
            key: row for row, key in enumerate(zip(*(known[c].to_pylist() for c in (ITEM_ID, CONTENT)), strict=True))
        }
        groups = [pq.ParquetFile(file) for file in self.files]
        self._groups = [(file, group) for file in groups for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse vectors that were made otherwise than the new ones will be.

        Args:
            settings: of the new job, as far as they are known.

        Raises:
            ValueError: they differ; says in what.
        """
        manifest = read_manifest(self.path / "manifest.json") if self.path.is_dir() else None
        there = json.loads(self.facts["settings"]) if manifest is None else manifest["settings"]
        ours = {name: part for name, part in settings.items() if name not in _OF_THE_DATASET}
        found = differences({name: part for name, part in there.items() if name in ours}, ours)
        if found:
            raise ValueError(f"`--update` {str(self.path)!r} was made otherwise: {'; '.join(found)}. Leave it out.")

    def rows_of(self, ids: Sequence[str], digests: Sequence[str]) -> np.ndarray:
        """Where items stand that have not changed: `(n,)` int64, -1 for new and changed ones."""
        return np.array([self.place.get(key, -1) for key in zip(ids, digests, strict=True)], dtype=np.int64)

    def read(self, rows: np.ndarray) -> pa.Table:
        """Rows of the table, in the order asked for; only the groups that hold them are read."""
        group = np.searchsorted(self._starts, rows, side="right") - 1
        parts, order = [], []
        for number in np.unique(group).tolist():
            here = np.flatnonzero(group == number)
            file, index = self._groups[number]
            parts.append(file.read_row_group(index).take(pa.array(rows[here] - self._starts[number])))
            order.append(here)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))
