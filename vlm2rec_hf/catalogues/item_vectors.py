"""Item vectors with the ids they belong to and the model that made them; read from what `vlm2rec embed` wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..modeling.encoding_vlm2rec import VIEWS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items, the items' ids and where the vectors came from.

    Attributes:
        item_ids: raw ids, each once, in the order of the rows; numbers are taken as their text.
        views: view -> `(n_items, dim)` float32; zero where an item has nothing in that view.
        model: repo id or folder of the model, `None` where it is not known.
        revision: its commit, or `sha256:...` of a folder's weights; `None` where it is not known.

    Raises:
        ValueError: ids that repeat, or a view with another number of rows than there are ids.
    """

    item_ids: list[str]
    views: dict[str, torch.Tensor]
    model: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_ids", [str(item) for item in self.item_ids])
        if len(set(self.item_ids)) != len(self.item_ids):
            twice = next(item for item, count in Counter(self.item_ids).items() if count > 1)
            raise ValueError(f"`item_ids` must be unique, got {twice!r} twice; keep one row per item.")
        for view, matrix in self.views.items():
            if matrix.ndim != 2 or len(matrix) != len(self.item_ids):
                raise ValueError(
                    f"`views[{view!r}]` must be ({len(self.item_ids)}, dim), one row per id, got "
                    f"{tuple(matrix.shape)}."
                )

    def __len__(self) -> int:
        return len(self.item_ids)

    def for_items(self, item_ids: Sequence[str], source: str = "") -> ItemVectors:
        """The rows of some items, in their order.

        Args:
            item_ids: raw ids; each must be there.
            source: where the vectors came from, for errors.

        Raises:
            ValueError: an item without a vector.
        """
        wanted = [str(item) for item in item_ids]
        if wanted == self.item_ids:
            return self
        lack, remedy = f"`vectors` {source} lack", "write them again with `vlm2rec embed` for this dataset."
        rows = rows_of_items(wanted, self.item_ids, lack, remedy)
        return ItemVectors(
            wanted, {view: matrix[rows] for view, matrix in self.views.items()}, self.model, self.revision
        )

    def save(self, path: str | Path) -> Path:
        """Write one parquet file, whole or not at all; `read_item_vectors` and heads read it.

        Args:
            path: a file ending in `.parquet`; must not exist.

        Raises:
            ValueError: a name that does not end in `.parquet`, or a file that exists.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from ..files import whole_file

        path = Path(path)
        if path.suffix != ".parquet":
            raise ValueError(f"`path` must end in .parquet, got {str(path)!r}.")
        if path.exists():
            raise ValueError(f"`path` {str(path)!r} exists; name a new file or move the old one away.")
        columns = {"item_id": pa.array(self.item_ids, pa.string())}
        for view, matrix in self.views.items():
            flat = matrix.detach().float().cpu().contiguous().numpy().reshape(-1)
            columns[view] = pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])
        facts = {name: value for name, value in (("model", self.model), ("revision", self.revision)) if value}
        with whole_file(path) as partial:
            pq.write_table(pa.table(columns).replace_schema_metadata(facts), partial)
        return path


def rows_of_items(wanted: Sequence[str], item_ids: Sequence[str], lack: str, remedy: str) -> np.ndarray:
    """Where items stand in a table that may hold more of them: `(len(wanted),)` int64.

    Args:
        wanted: raw ids, such as a dataset's.
        item_ids: the table's, each once.
        lack: beginning of the error, such as ``"`vectors` lack"``.
        remedy: its end.

    Raises:
        ValueError: an item that the table does not hold.
    """
    place = {item: row for row, item in enumerate(item_ids)}
    absent = [item for item in wanted if item not in place]
    if absent:
        raise ValueError(f"{lack} {len(absent)} of the dataset's {len(wanted)} items, such as {absent[0]!r}; {remedy}")
    return np.array([place[item] for item in wanted], dtype=np.int64)


def view_names(text: str, known: tuple[str, ...] = VIEWS) -> tuple[str, ...]:
    """`text,image` as names of views.

    Args:
        text: names, separated by commas.
        known: views that may be named.

    Raises:
        ValueError: an unknown view, one named twice, or none.
    """
    names = tuple(part.strip() for part in text.split(","))
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise ValueError(f"`views` must be some of {', '.join(known)}, separated by commas; got {text!r}.")
    return names


def views_there(path: str | Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The views that a file or folder of `vlm2rec embed` holds, those wanted first (whether or not they are there)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .vector_files import table_files

    try:
        names = pq.read_schema(table_files(Path(path))[0][0]).names
    except (OSError, pa.ArrowInvalid, IndexError):  # `read_item_vectors` says what is wrong
        return wanted
    return (*wanted, *(view for view in VIEWS if view in names and view not in wanted))


def read_item_vectors(path: str | Path, item_ids: Sequence[str], views: tuple[str, ...] = ("both",)) -> ItemVectors:
    """Vectors from a file or folder of `vlm2rec embed`, put in the order of `item_ids`.

    The file may hold more items (it was made before a k-core, say), never fewer.

    Args:
        path: a parquet file, or a folder of shards.
        item_ids: raw ids of the items wanted, such as `dataset.item_ids`.
        views: which views to read.

    Raises:
        ValueError: no such file or folder, not one of `vlm2rec embed`, ids that repeat, or items that it lacks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from .vector_files import table_files

    if not Path(path).exists():
        raise ValueError(f"`vectors` {str(path)!r} does not exist; write it with `vlm2rec embed`.")
    try:
        files, facts = table_files(Path(path))
        schema = pq.read_schema(files[0])
        lost = [name for name in ("item_id", *views) if name not in schema.names]
        if lost:
            raise ValueError(f"`vectors` {str(path)!r} has no columns {lost}; write it with `vlm2rec embed`.")
        table = pa.concat_tables(pq.read_table(file, columns=["item_id", *views]) for file in files)
    except pa.ArrowInvalid as error:
        raise ValueError(f"`vectors` {str(path)!r} is no parquet file: {error}") from error
    ids = table["item_id"].to_pylist()
    if len(set(ids)) != len(ids):
        raise ValueError(f"`vectors` {str(path)!r} holds items twice; write it again with `vlm2rec embed`.")
    matrices = {}
    for view in views:
        column = table[view].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type) or column.null_count:
            raise ValueError(f"`vectors` {str(path)!r}: column {view!r} must hold lists of one length, none missing.")
        matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        matrices[view] = torch.from_numpy(matrix.astype(np.float32))
    stored = ItemVectors(ids, matrices, facts.get("model") or None, facts.get("revision") or None)
    return stored.for_items(item_ids, repr(str(path)))
