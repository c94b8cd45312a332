"""`ItemIndex`: items by vectors and metadata; exact in memory, or approximate over LanceDB; changed by id."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conditions import parse_condition
from .edit_log import EditLog, last_edits
from .exact_items import ExactItems
from .items_files import fold_items
from .rows import OWN, IndexFacts, rows_table, take_rows, vectors_of, with_deleted
from .scoring import Query, ordered
from .snapshot import Snapshot, open_snapshot, retried, with_edits
from .versions import IndexFolder

if TYPE_CHECKING:
    import pyarrow as pa

FOLD_AFTER_FILES, FOLD_AFTER_ITEMS, FOLD_AFTER_BYTES = 1000, 20_000, 256 * 2**20
"""Changes are folded into the items when there are so many, or so large; until then they are in memory beside them."""


@dataclass(frozen=True)
class Hits:
    """What a search found for one question.

    Attributes:
        item_ids: best first.
        scores: one per item; of a search for the most popular, how often each was seen in training.
    """

    item_ids: list[str]
    scores: list[float]


class ItemIndex:
    """Items of one model's vectors, with metadata.

    Made by `ItemIndex.open` (a folder that `build_index` or `vlm2rec index` wrote) or `ItemIndex.in_memory`. Threads
    may share one; processes each open their own and see each other's changes after `refresh`.
    """

    def __init__(self, snapshot: Snapshot, folder: IndexFolder | None) -> None:
        self._snapshot, self._folder = snapshot, folder
        self._change, self._changing = threading.RLock(), False
        self.superseded = False
        """Whether the folder was switched to another model's vectors; this object goes on with those it has."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ItemIndex:
        """Open an index on disk, in the version that is in use now.

        Raises:
            ValueError: there is none, or one of a newer format.
        """
        folder = IndexFolder(path)
        return cls(retried(lambda: open_snapshot(folder, folder.required())), folder)

    @classmethod
    def open_version(cls, folder: IndexFolder, version: str) -> ItemIndex:
        """Open a version by name, one that is not in use yet among others."""
        return cls(retried(lambda: open_snapshot(folder, version)), folder)

    @classmethod
    def in_memory(cls, table: pa.Table, facts: IndexFacts) -> ItemIndex:
        """An index that lives as long as this object, searched exactly.

        Args:
            table: rows as `schema_of(facts)` has them.
            facts: what they are.
        """
        return cls(with_edits(None, facts, ExactItems(table, facts), 0, 0, [], frozenset()), None)

    def __len__(self) -> int:
        one = self._snapshot
        return len(one.base) - len(one.hidden) + len(one.overlay)

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"ItemIndex({len(self):,} items, {', '.join(facts.views)}, {facts.store}, of {facts.model or facts.kind})"
        )

    @property
    def facts(self) -> IndexFacts:
        """Which model made the vectors, which views and columns there are."""
        return self._snapshot.facts

    @property
    def path(self) -> Path | None:
        """The folder; None in memory."""
        return None if self._folder is None else self._folder.path

    @property
    def version(self) -> str | None:
        """Name of the version that is served; None in memory."""
        return self._snapshot.version

    @property
    def deleted(self) -> frozenset[str]:
        """Ids that were deleted and not put back."""
        return self._snapshot.deleted

    @property
    def edit_number(self) -> int:
        """Number of the last change that is seen."""
        return self._snapshot.seen

    def changes_since(self, number: int) -> tuple[list[str], list[str]]:
        """Ids that were put in or changed by changes after a number, and ids that were deleted by them.

        Args:
            number: an `edit_number` of before; nothing may have been folded since.
        """
        if self._folder is None or number >= self.edit_number:
            return [], []
        log = EditLog(self._folder.path / str(self.version) / "edits")
        edits = last_edits([log.read(n) for n in log.numbers() if number < n <= self.edit_number])
        rows = edits.select(["item_id", "_deleted"]).to_pylist()
        return [r["item_id"] for r in rows if not r["_deleted"]], [r["item_id"] for r in rows if r["_deleted"]]

    # ---- questions

    def __contains__(self, item_id: object) -> bool:
        return bool(self.has([str(item_id)]))

    def has(self, item_ids: Sequence[str]) -> set[str]:
        """Which of some items are in the index."""
        one = self._snapshot
        return one.overlay.has(item_ids) | (one.base.has(item_ids) - one.hidden)

    def item_ids(self) -> list[str]:
        """Every id; changed and new items last."""
        one = self._snapshot
        return [*(item for item in one.base.all_ids() if item not in one.hidden), *one.overlay.all_ids()]

    def own_ids(self) -> list[str]:
        """Ids of items whose text and image are kept here, because they were put in and not read from a dataset."""
        table = self.rows(self.item_ids(), ["_source"])
        return [row["item_id"] for row in table.to_pylist() if row["_source"] == OWN]

    def rows(self, item_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in their order; unknown ones are left out.

        Args:
            item_ids: raw ids.
            columns: which columns beside `item_id`; all by default.
        """
        import pyarrow as pa

        one = self._snapshot
        own = one.overlay.has(item_ids)
        others = [item for item in item_ids if item not in own and item not in one.hidden]
        tables = [one.overlay.rows([i for i in item_ids if i in own], columns), one.base.rows(others, columns)]
        table = pa.concat_tables([part.cast(tables[0].schema) for part in tables])
        place = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
        return take_rows(table, [place[item] for item in item_ids if item in place])

    def metadata(self, item_ids: Sequence[str]) -> list[dict[str, Any]]:
        """What is known of some items: `item_id`, the metadata columns, `text`; unknown items are left out."""
        names = list(self.facts.columns)
        rows = self.rows(item_ids, [*names, "_text"]).to_pylist()
        return [{**{name: row[name] for name in ("item_id", *names)}, "text": row["_text"]} for row in rows]

    def vectors(self, item_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """View -> `(n, dim)` float32 of some items, as the model gave them.

        Raises:
            ValueError: an item that is not there.
        """
        columns = [f"_vector_{view}" for view in self.facts.views]
        table = self.rows(item_ids, columns)
        if len(table) < len(item_ids):
            known = set(table["item_id"].to_pylist())
            lost = [item for item in item_ids if item not in known]
            raise ValueError(f"`items` names {len(lost)} items that the index does not hold, such as {lost[0]!r}.")
        return {view: vectors_of(table, view) for view in self.facts.views}

    def search(
        self,
        query: Query | None,
        k: int,
        *,
        filter: Mapping[str, Any] | None = None,
        candidates: Sequence[Sequence[str]] | None = None,
        exclude: Sequence[Sequence[str]] | None = None,
        n_questions: int = 1,
    ) -> list[Hits]:
        """The best items of every question; scores are exact whatever found the items.

        Args:
            query: what is searched for; None: the most popular items, `n_questions` times.
            k: how many.
            filter: condition on the metadata; see `parse_condition`.
            candidates: per question, the ids to choose among.
            exclude: per question, ids to leave out.
            n_questions: how many questions, where `query` is None.

        Raises:
            ValueError: `k < 1`, or a filter that cannot be read.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        one = self._snapshot
        condition = None if filter is None else parse_condition(filter, self.filter_columns())
        options: dict[str, Any] = {"condition": condition, "within": candidates, "without": exclude}
        options["n_questions"] = n_questions
        found = one.base.search(query, k, hidden=one.hidden, **options)
        newer = one.overlay.search(query, k, **options)
        hits = []
        for (ids, scores), (more, their) in zip(found, newer, strict=True):
            hits.append(Hits(*ordered([*ids, *more], np.concatenate([scores, their]), k)))
        return hits

    def filter_columns(self) -> dict[str, str]:
        """What `filter` may name: `item_id` and the metadata columns, with their types."""
        return {"item_id": "string", **self.facts.columns}

    # ---- changes

    def upsert(self, columns: Mapping[str, Sequence[Any]], vectors: Mapping[str, Any], *, fingerprint: str) -> None:
        """Put items in, or in the place of items of the same ids; on the disk before it returns.

        Args:
            columns: `item_id` and as much of the other columns as is known; see `rows_table`.
            vectors: view -> `(n, dim)` float32.
            fingerprint: of the model that made the vectors.

        Raises:
            ValueError: vectors of another model, or rows that do not fit.
        """
        if fingerprint != self.facts.fingerprint:
            raise ValueError(
                f"`vectors` are of another version of the model than this index's, {self.facts.revision!r} of "
                f"{self.facts.model!r}; load that one, or build the index again with `vlm2rec index`."
            )
        if len(columns["item_id"]):
            self._write(rows_table(self.facts, columns, vectors, deleted=False))

    def delete(self, item_ids: Sequence[str]) -> int:
        """Take items out; on the disk before it returns. Ids that are not there are no error.

        Returns:
            How many of them were there.

        Raises:
            ValueError: a text in place of a list.
        """
        if isinstance(item_ids, str):
            raise ValueError(f"`item_ids` must be a list of ids, got the text {item_ids!r}; wrap it in a list.")
        with self.changing():
            there = self.has(list(map(str, item_ids)))
            gone = [item for item in dict.fromkeys(map(str, item_ids)) if item in there]
            if gone:
                zeros = {view: np.zeros((len(gone), size), np.float32) for view, size in self.facts.views.items()}
                self._write(rows_table(self.facts, {"item_id": gone}, zeros, deleted=True))
        return len(gone)

    def take_over(self, rows: pa.Table, deleted: Sequence[str]) -> None:
        """Put rows and deletions into a version that is not in use yet, for who builds it."""
        assert self._folder is not None
        gone = [item for item in deleted if item not in set(rows["item_id"].to_pylist())]
        zeros = {view: np.zeros((len(gone), size), np.float32) for view, size in self.facts.views.items()}
        log = EditLog(self._folder.path / str(self.version) / "edits")
        for edit in (with_deleted(rows), rows_table(self.facts, {"item_id": gone}, zeros, deleted=True)):
            if len(edit):
                log.append(edit, self._snapshot.folded)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep others from changing the index, all of whose changes are seen in the block, until its end.

        So a change may rest on what is read. `upsert` and `delete` are allowed in the block; others wait, so be quick.

        Raises:
            ValueError: the folder was switched to another model's vectors.
        """
        with self._change:
            if self._folder is None or self._changing:
                yield
                return
            while True:
                version = str(self._snapshot.version)
                with self._folder.writing(version):
                    if self._folder.current() == version:
                        self.refresh()
                        self._changing = True
                        try:
                            yield
                        finally:
                            self._changing = False
                        nbytes = EditLog(self._folder.path / version / "edits").nbytes()
                        break
                self.refresh()
                if self.superseded:
                    raise ValueError(
                        f"`index` {str(self._folder.path)!r} was switched to another model's vectors; load that model."
                    )
            one = self._snapshot
            many = one.seen - one.folded >= FOLD_AFTER_FILES or len(one.edits) >= FOLD_AFTER_ITEMS
            if many or nbytes >= FOLD_AFTER_BYTES:
                self.fold()

    def _write(self, edit: pa.Table) -> None:
        with self.changing():
            one = self._snapshot
            if self._folder is None:
                edits = [one.edits, edit]
                self._snapshot = with_edits(None, one.facts, one.base, 0, one.seen + 1, edits, one.deleted)
            else:
                EditLog(self._folder.path / str(one.version) / "edits").append(edit, one.folded)
                self.refresh()

    def fold(self) -> None:
        """Write the items anew with all changes in them, so that opening the index stays fast; happens by itself."""
        if self._folder is None:
            return
        with self._change, self._folder.no_build() as free, self._folder.writing(str(self._snapshot.version)):
            self.refresh()
            if not free:  # who builds counts on the changes' files
                return
            one = self._snapshot
            version = str(one.version)
            if self._folder.state(version).folded < one.seen:
                fold_items(self._folder, version, one.facts, one.base, one.edits, one.seen, one.deleted)
                EditLog(self._folder.path / version / "edits").remove_through(one.seen)
        self.refresh()

    def refresh(self) -> bool:
        """See what other processes have changed; costs a look at three files where nothing has.

        Returns:
            Whether there was anything new.
        """
        if self._folder is None:
            return False
        with self._change:
            before = self._snapshot
            self._snapshot = retried(self._refreshed)
            return self._snapshot is not before

    def _refreshed(self) -> Snapshot:
        one, folder = self._snapshot, self._folder
        assert folder is not None
        current = folder.required()
        if current != one.version:
            self.superseded = folder.facts(current).fingerprint != one.facts.fingerprint
            if not self.superseded:
                return open_snapshot(folder, current)
        version = str(one.version)
        if not (folder.path / version / "state.json").exists():
            return one  # a version that was cleared away is served from memory to the end
        if folder.state(version).folded != one.folded:
            return open_snapshot(folder, version)
        log = EditLog(folder.path / version / "edits")
        new = [number for number in log.numbers() if number > one.seen]
        if not new:
            return one
        edits = [one.edits, *map(log.read, new)]
        return with_edits(version, one.facts, one.base, one.folded, new[-1], edits, one.deleted)
