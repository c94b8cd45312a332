"""Items that were put in since the items file was written, in memory beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .exact_items import ExactItems
from .rows import IndexFacts, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE = "_image"


class ChangedItems(ExactItems):
    """A table of changes, searched exactly.

    With every change another one is made. So the images, which may be large, are not copied: they stay where the table
    has them.

    Args:
        table: the rows of an index, of as many chunks as there were changes.
        facts: of the index.
    """

    def __init__(self, table: pa.Table, facts: IndexFacts) -> None:
        super().__init__(table.drop_columns([_IMAGE]), facts)
        self._images = table[_IMAGE]

    def rows(self, item_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in their order; unknown ones are left out."""
        import pyarrow as pa

        names = schema_of(self.facts).names if columns is None else ["item_id", *columns]
        table = super().rows(item_ids, [name for name in names if name not in ("item_id", _IMAGE)])
        if _IMAGE in names:
            images = [self._images[self.place[item]].as_py() for item in table["item_id"].to_pylist()]
            table = table.append_column(_IMAGE, pa.array(images, self._images.type))
        return table.select(names)
