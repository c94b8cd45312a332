"""Items in LanceDB: on disk, found by an approximate index, scored exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conditions import id_list
from .exact_items import Found
from .rows import IndexFacts, schema_of, take_rows, vector_column, vectors_of
from .scoring import Query, exact_scores

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "items"
INDEX_FROM = 10_000
"""Fewer items are compared whole: an approximate index would not be faster."""
PER_PARTITION = 8192
OVERSAMPLING = 3
"""The approximate index is asked for so many times what is wanted; the exact score then chooses (our choice)."""
LEAST_FOUND = 100
IDS_AT_ONCE = 1000


def create_lance(path: Path, facts: IndexFacts, tables: Iterable[pa.Table]) -> None:
    """Write items into a new LanceDB folder and build its indexes.

    Args:
        path: of the folder.
        facts: what the items hold.
        tables: the rows, part by part.

    Raises:
        ImportError: LanceDB is not installed.
    """
    table = _connect(path).create_table(TABLE, schema=schema_of(facts))
    for part in tables:
        table.add(part)
    _index_ids(table)
    count = table.count_rows()
    if count >= INDEX_FROM:
        for view in facts.views:
            table.create_index(vector_column(view), config=_vector_index(facts.metric_of(view), count))


def _vector_index(metric: str, count: int) -> Any:
    from lancedb.index import HnswSq

    return HnswSq(
        distance_type="cosine" if metric == "cosine" else "dot",
        num_partitions=max(1, count // PER_PARTITION),
        m=20,
        ef_construction=150,
    )


def require_lance() -> Any:
    """The module `lancedb`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import lancedb
    except ImportError as error:
        raise ImportError(
            "An index of this size is kept in LanceDB, which is not installed: `pip install 'vlm2rec-hf[index]'`, or "
            "choose `store` exact."
        ) from error
    return lancedb


def _connect(path: Path) -> Any:
    return require_lance().connect(str(path))


def _index_ids(table: Any) -> None:
    from lancedb.index import BTree

    table.create_index("item_id", config=BTree())


class LanceItems:
    """A LanceDB table of items.

    What its index finds is scored exactly, in double precision. With weights of several views, what each view and
    their sum find is put together and scored.

    Args:
        path: of the folder.
        facts: what the items hold.
    """

    def __init__(self, path: Path, facts: IndexFacts) -> None:
        self.facts = facts
        self._table = _connect(path).open_table(TABLE)
        indexes = self._table.list_indices()
        self._indexed = {column for one in indexes for column in one.columns if column.startswith("_vector_")}
        self._count = self._table.count_rows()
        self._partitions = max(1, self._count // PER_PARTITION)

    def __len__(self) -> int:
        return self._count

    def has(self, item_ids: Sequence[str]) -> set[str]:
        """Which of some items are here."""
        return {item for part in self._parts(item_ids, []) for item in part["item_id"].to_pylist()}

    def all_ids(self) -> list[str]:
        """Every id, in the order of the rows."""
        return self._table.search().select(["item_id"]).limit(max(1, self._count)).to_arrow()["item_id"].to_pylist()

    def rows(self, item_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in their order; unknown ones are left out."""
        import pyarrow as pa

        names = schema_of(self.facts).names if columns is None else ["item_id", *columns]
        schema = pa.schema([schema_of(self.facts).field(name) for name in names])
        table = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in self._parts(item_ids, names))])
        place = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
        return take_rows(table, [place[item] for item in item_ids if item in place])

    def _parts(self, item_ids: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        ids = list(dict.fromkeys(item_ids))
        for start in range(0, len(ids), IDS_AT_ONCE):
            part = ids[start : start + IDS_AT_ONCE]
            names = list(dict.fromkeys(["item_id", *columns]))
            yield self._table.search().where(id_list(part)).select(names).limit(len(part)).to_arrow()

    def search(
        self,
        query: Query | None,
        k: int,
        *,
        condition: Any = None,
        within: Sequence[Sequence[str]] | None = None,
        without: Sequence[Sequence[str]] | None = None,
        hidden: frozenset[str] | set[str] = frozenset(),
        n_questions: int = 1,
    ) -> list[Found]:
        """As `ExactItems.search`; with `within` exact, else as good as the approximate index."""
        found = []
        for row in range(n_questions if query is None else len(query)):
            barred = set(hidden) | set(without[row] if without is not None else ())
            inside = None if within is None else [item for item in dict.fromkeys(within[row]) if item not in barred]
            if query is None:
                found.append(self._popular(k, condition, inside, barred))
            elif inside is not None:
                found.append(self._among(query, row, inside, condition))
            else:
                found.append(self._nearest(query, row, k, condition, barred))
        return found

    def _nearest(self, query: Query, row: int, k: int, condition: Any, barred: set[str]) -> Found:
        size = max(OVERSAMPLING * k, k + LEAST_FOUND)
        while True:
            items: dict[str, dict[str, np.ndarray]] = {}
            most = 0
            for view, vector in self._directions(query, row).items():
                table = self._ask(view, vector, size, condition, list(self._needed(query)))
                most = max(most, len(table))
                views = {name: vectors_of(table, name) for name in self._needed(query)}
                for place, item in enumerate(table["item_id"].to_pylist()):
                    if item not in barred:
                        items.setdefault(item, {name: matrix[place] for name, matrix in views.items()})
            if len(items) >= k or most < size:
                break
            size *= 4
        stacked = {
            view: np.array([one[view] for one in items.values()], np.float32).reshape(
                len(items), self.facts.views[view]
            )
            for view in self._needed(query)
        }
        return list(items), exact_scores(query, row, stacked) if items else np.zeros(0)

    def _directions(self, query: Query, row: int) -> Mapping[str, np.ndarray]:
        """What each view's index is asked."""
        asked = {view: matrix[row] for view, matrix in query.vectors.items()}
        if len(asked) > 1 and "both" in self.facts.views and self.facts.summed:
            asked["both"] = np.asarray(sum(asked.values()))
        return asked

    def _ask(self, view: str, vector: np.ndarray, size: int, condition: Any, views: list[str]) -> pa.Table:
        name = vector_column(view)
        search = self._table.search(vector, vector_column_name=name, query_type="vector")
        search = search.distance_type("cosine" if self.facts.metric_of(view) == "cosine" else "dot")
        if name in self._indexed:
            # Half of the partitions of a small index, ever less of a large one.
            probes = min(self._partitions, max(8, int(4 * self._partitions**0.5)))
            search = search.nprobes(probes).ef(max(2 * size, 300))
        if condition is not None:
            search = search.where(condition.sql(), prefilter=True)
        return search.select(["item_id", "_distance", *map(vector_column, views)]).limit(size).to_arrow()

    def _among(self, query: Query, row: int, ids: Sequence[str], condition: Any) -> Found:
        columns = [vector_column(view) for view in self._needed(query)]
        table = self.rows(ids, [*columns, *(self.facts.columns if condition is not None else ())])
        if condition is not None:
            table = table.filter(condition.mask(table))
        items = {view: vectors_of(table, view) for view in self._needed(query)}
        return table["item_id"].to_pylist(), exact_scores(query, row, items)

    def _popular(self, k: int, condition: Any, inside: list[str] | None, barred: set[str]) -> Found:
        if inside is not None:
            table = self.rows(inside, ["_popularity", *(self.facts.columns if condition is not None else ())])
            table = table if condition is None else table.filter(condition.mask(table))
        else:
            search = self._table.search()
            search = search if condition is None else search.where(condition.sql())
            table = search.select(["item_id", "_popularity"]).limit(max(1, self._count)).to_arrow()
        ids, counts = table["item_id"].to_pylist(), table["_popularity"].to_numpy()
        order = np.argsort(-counts, kind="stable")[: k + len(barred)]
        chosen = [i for i in order if ids[i] not in barred][:k]
        return [ids[i] for i in chosen], counts[chosen].astype(np.float64)

    def _needed(self, query: Query) -> list[str]:
        return sorted({*query.vectors, *(query.weights or ())})

    def apply(self, rows: pa.Table, gone: Sequence[str]) -> None:
        """Put rows in, in the place of those of the same ids, and take ids out; twice is as once."""
        if len(rows):
            merge = self._table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)
        for start in range(0, len(gone), IDS_AT_ONCE):
            self._table.delete(id_list(gone[start : start + IDS_AT_ONCE]))
        with contextlib.suppress(RuntimeError):  # another process is at it: the table is as good, only slower
            self._table.optimize()
