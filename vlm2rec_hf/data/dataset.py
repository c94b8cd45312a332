"""`RecDataset`: interactions, items and a split, checked once, hashed by content, saved as one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..columns import IMAGE, IMAGE_FEATURES, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from . import items as item_tables
from . import quarantine as q
from . import splits
from .appending import grow
from .catalogue_items import CatalogueItems
from .coverage import Coverage, measure
from .feature_column import FeatureColumn, has_features
from .filters import keep_core, recounted, take_out_cold
from .fingerprint import dataset_fingerprint
from .given_split import OWN_SPLIT
from .html_tables import html_table
from .ids import to_objects
from .images import MAX_PIXELS, try_decode_image
from .ingest import Provenance, Source, find_broken_images, ingest, items_dataset, without_images
from .interaction_log import InteractionLog, log_from_stored
from .items import Item, text_of
from .sequences import SPLIT_CODES, TRAIN, Examples, Sequences, make_examples
from .storage import read_folder, write_folder
from .tables import ColumnMapping, rename, split_mapping, standard_names, to_arrow
from .validation import Duplicates, UnknownItems

if TYPE_CHECKING:
    import datasets

    from ..hub_cards.publish_dataset import PublishedDataset

SHOWN_ITEMS = 5


class RecDataset:
    """Interactions, items and a split. Immutable: every method that changes something returns a new dataset.

    Users stand in ascending order of their id (as UTF-8 text), their interactions in time order; equal timestamps are
    ordered by the column `position` where there is one, then by a given split, else by the rows' order in the input.
    Items stand in the order of the item table (without one: in ascending order of id). Build one with `from_tables`,
    `load` or `vlm2rec_hf.data.readers.load_recsys`.

    Attributes:
        items: one row per item: `item_id`, and what the table had: `title`, `text`, `image` (`{bytes, path}`, not
            decoded) and any other column.
        quarantine: rows that were taken out: table, reason, column, number, row (JSON).
        name: short name for reports, or None.
        timestamp_unit: "s", "ms", "us", "ns", or None where unknown.
        split_spec: how the split was made, as plain data.
        steps: what was done since the tables came in, with counts.
        image_problems: reason by item index of every image that failed to decode in this process.
    """

    def __init__(
        self,
        log: InteractionLog | None,
        items: datasets.Dataset,
        quarantine: pa.Table,
        provenance: Provenance,
        stored: datasets.Dataset | None = None,
    ) -> None:
        if log is None and stored is None:
            raise ValueError("`log` and `stored` are both None; build datasets with `RecDataset.from_tables`.")
        self.items = items
        self.image_problems: dict[int, str] = {}
        self._log_in_memory = log
        self._stored = stored
        self._quarantine = quarantine
        self._provenance = provenance

    @classmethod
    def from_tables(
        cls,
        interactions: Any,
        items: Any = None,
        *,
        name: str | None = None,
        column_mapping: ColumnMapping | None = None,
        timestamp_unit: str | None = None,
        duplicates: Duplicates = "keep",
        unknown_items: UnknownItems = "quarantine",
        split_column: str | None = OWN_SPLIT,
        day_first: bool | None = None,
        quarantine: pa.Table | None = None,
        text_columns: Sequence[str] | None = None,
        noted: Mapping[str, int] | None = None,
    ) -> RecDataset:
        """Build a dataset from a table of interactions and one of items.

        Args:
            interactions: polars, pandas, pyarrow or `datasets` table or list of dicts with `user_id`, `item_id`, and
                `timestamp` or `position` (or both). Other columns are kept.
            items: likewise with `item_id` and any of `title`, `text`, `image`. None: a catalogue of bare ids.
            name: short name for reports.
            column_mapping: `{original: standard}` names, or `{"interactions": {...}, "items": {...}}`.
            timestamp_unit: "s", "ms", "us" or "ns", needed only to split numeric timestamps at calendar times; refused
                for dates and times, which state theirs.
            duplicates: rows with equal user, item, timestamp and position are kept and counted ("keep"), or all but
                the first are quarantined.
            unknown_items: rows with an item outside `items` are quarantined, or ("keep") the item joins the catalogue
                without text and image.
            split_column: column of the interactions with an existing split ("train", "validation", "test" or 0, 1, 2).
                "auto": the column `split`, where there is one that says more than train. None: take over none; a
                column `split` becomes `given_split` then.
            day_first: how to read timestamps such as `3/4/2024`: True for 3 April, False for 4 March. None: as other
                rows of the column settle it; where none does, it is an error.
            quarantine: rows that a reader already took out.
            text_columns: columns of the items (original or standard names), joined in this order, that become `text`.
                None: the column `text` is an item's text, else `title`.
            noted: what a reader already counted, for `coverage.noted`.

        Raises:
            ValueError: a missing column, a type that cannot be used, an unknown option, or rows of which none can be
                used.
        """
        log, catalogue, taken_out, provenance = ingest(
            interactions,
            items,
            name=name,
            column_mapping=column_mapping,
            timestamp_unit=timestamp_unit,
            duplicates=duplicates,
            unknown_items=unknown_items,
            split_column=split_column,
            day_first=day_first,
            quarantine=quarantine,
            text_columns=text_columns,
            noted=noted,
        )
        return cls(log, catalogue, taken_out, provenance)

    @classmethod
    def from_files(
        cls,
        interactions: str | Path,
        items: str | Path | None = None,
        *,
        image_folder: str | Path | None = None,
        image_pattern: str | None = None,
        image_column: str | None = None,
        column_mapping: ColumnMapping | None = None,
        **kwargs: Any,
    ) -> RecDataset:
        """Build a dataset from files of your own, whatever they are called; `vlm2rec prepare` does the same.

        Args:
            interactions: CSV, TSV, JSON lines (each also `.gz`) or parquet, with the columns that `from_tables` needs.
            items: likewise; None: a catalogue of bare ids.
            image_folder: where the images lie, named by item id.
            image_pattern: how they are named else: `"{item_id[:3]}/{item_id}.jpg"`, in Python's words for parts.
            image_column: instead: the item column that names the files.
            column_mapping: `{original: standard}` names, or `{"interactions": {...}, "items": {...}}`.
            **kwargs: `separator` (by default the one that the first line shows: comma, tab, semicolon or `|`) and
                `encoding` of the files, and further arguments of `from_tables`.

        Raises:
            ValueError: no such file or folder, a missing column, or what `from_tables` raises.
        """
        from .readers.file_tables import read_tables

        if Path(interactions).is_dir():
            raise ValueError(f"`interactions` {str(interactions)!r} is a folder; name a file, or use `load_recsys`.")
        reading = {name: kwargs.pop(name) for name in ("separator", "encoding") if name in kwargs}
        events, catalogue, bad, texts = read_tables(
            interactions,
            items,
            column_mapping=column_mapping,
            image_folder=image_folder,
            image_pattern=image_pattern,
            image_column=image_column,
            text_columns=kwargs.pop("text_columns", None),
            **reading,
        )
        return cls.from_tables(events, catalogue, quarantine=bad, text_columns=texts, **kwargs)

    # ---- what is in it

    @cached_property
    def _log(self) -> InteractionLog:
        if self._log_in_memory is not None:
            return self._log_in_memory
        assert self._stored is not None
        ids = self._raw_item_ids()
        catalogue = pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string())
        return log_from_stored(self._stored.data.table, catalogue)

    def _raw_item_ids(self) -> pa.ChunkedArray:
        return self.items.select_columns([ITEM_ID]).with_format("arrow")[:][ITEM_ID]

    @cached_property
    def interactions(self) -> datasets.Dataset:
        """One row per interaction, sorted: `user_id`, `item_id`, what the table had, `split` (0, 1, 2).

        Memory-mapped after `load`; else built on first use.
        """
        if self._stored is not None:
            return self._stored
        import datasets

        return datasets.Dataset(self._log.to_table())

    @cached_property
    def quarantine(self) -> datasets.Dataset:
        """The rows taken out: `table`, `reason`, `column`, `number`, `row`."""
        import datasets

        return datasets.Dataset(self._quarantine)

    @property
    def name(self) -> str | None:
        """Short name for reports."""
        return self._provenance.name

    @property
    def timestamp_unit(self) -> str | None:
        """Unit of `timestamp`, or None where unknown."""
        return self._provenance.timestamp_unit

    @property
    def split_spec(self) -> dict[str, Any]:
        """How the split was made: `{"kind": ..., ...}`."""
        return dict(self._provenance.split)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What was done to the rows since they came in, with counts."""
        return [dict(step) for step in self._provenance.steps]

    @property
    def source(self) -> Source | None:
        """`{"repo_id", "revision"}` of the Hub commit it was loaded from, also after filters and splits, or None."""
        return None if self._provenance.source is None else {**self._provenance.source}

    @property
    def n_users(self) -> int:
        """Users with at least one interaction."""
        return len(self._log.user_ids)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self.items)

    @property
    def n_interactions(self) -> int:
        """Number of interactions."""
        return len(self._stored) if self._stored is not None else len(self._log)

    @cached_property
    def item_ids(self) -> np.ndarray:
        """`(n_items,)` raw ids (str) in catalogue order."""
        return to_objects(self._raw_item_ids())

    @cached_property
    def item_has_text(self) -> np.ndarray:
        """`(n_items,)` bool: whether the item has a text."""
        names = [name for name in (ITEM_ID, TITLE, TEXT) if name in self.items.column_names]
        return item_tables.has_text(self.items.select_columns(names).with_format("arrow")[:])

    @cached_property
    def item_has_image(self) -> np.ndarray:
        """`(n_items,)` bool: whether the item carries image bytes or features of an image.

        `check_images` makes sure that the bytes decode.
        """
        with_bytes = self._per_item(item_tables.has_image)
        if IMAGE_FEATURES not in self.items.column_names:
            return with_bytes
        return with_bytes | has_features(self.items.select_columns([IMAGE_FEATURES]).with_format("arrow")[:])

    def _per_item(self, test: Any) -> np.ndarray:
        """Evaluate a test of the image column batch by batch: all images together may not fit into memory."""
        if IMAGE not in self.items.column_names:
            return np.zeros(self.n_items, dtype=bool)
        batches = self.items.select_columns([IMAGE]).with_format("arrow").iter(batch_size=1024)
        return np.concatenate([np.zeros(0, dtype=bool), *(test(batch) for batch in batches)])

    def sequences(self) -> Sequences:
        """Every user's interactions as flat arrays (cached)."""
        return self._sequences

    @cached_property
    def _sequences(self) -> Sequences:
        return self._log.to_sequences()

    def examples(self, split: str, max_history: int = 10, targets: str = "all", min_history: int = 1) -> Examples:
        """The (history, target) examples of one split; see `make_examples`.

        Raises:
            ValueError: an unknown option, or validation or test of a dataset that was not split yet.
        """
        if split in SPLIT_CODES and split != "train" and self.split_spec["kind"] == "none":
            raise ValueError(
                f"`split` is {split!r}, but the dataset was not split yet; call `leave_one_out()` or "
                "`temporal_split(...)` first."
            )
        return make_examples(self.sequences(), split, max_history, targets, min_history)

    def item(self, index: int) -> Item:
        """The item at a place of the catalogue.

        Returns:
            `text` (the column `text`, else `title`; blank counts as None) and `image` (decoded RGB). An image that
            does not decode is None and is recorded in `image_problems`. Where there is a column `image_features`,
            these, `(n, width)` or None; then `image` only where there is that column, too.

        Raises:
            IndexError: outside the catalogue.
        """
        index = int(index)
        if not 0 <= index < self.n_items:
            raise IndexError(f"`index` must be in 0..{self.n_items - 1}, got {index}.")
        row = self._shown[index]
        item = Item(text=text_of(row), image=None)
        if self._features is not None:
            item["image_features"] = self._features[index]
            if IMAGE not in row:
                del item["image"]
        cell = row.get(IMAGE)
        if cell is not None and cell["bytes"]:
            item["image"], reason = try_decode_image(cell["bytes"])
            if reason is not None:
                self.image_problems[index] = reason
        return item

    @cached_property
    def _shown(self) -> datasets.Dataset:
        """What `item` reads: other columns, such as features as lists of numbers, are slow to make objects of."""
        return self.items.select_columns([n for n in (ITEM_ID, TITLE, TEXT, IMAGE) if n in self.items.column_names])

    @cached_property
    def _features(self) -> FeatureColumn | None:
        return FeatureColumn(self.items) if IMAGE_FEATURES in self.items.column_names else None

    def item_texts(self, rows: Sequence[int] | None = None) -> list[str | None]:
        """The texts (as in `item`) of all items, or of those at `rows`, without touching the images."""
        names = [name for name in (ITEM_ID, TITLE, TEXT) if name in self.items.column_names]
        table = self.items.select_columns(names)
        return [text_of(row) for row in (table if rows is None else table.select(rows))]

    def catalogue_items(self) -> CatalogueItems:
        """The items as a lazy sequence, for `PreparedCatalogue` and encoders; images are decoded on access."""
        return CatalogueItems(self)

    def popularity(self) -> np.ndarray:
        """How often each item occurs in train: `(n_items,)` int64."""
        return np.bincount(self._log.item[self._log.split == TRAIN], minlength=self.n_items).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: interactions in stored order, items with their images, split. 32 hex digits.

        It depends neither on where or how the tables are stored nor on the input order of rows that are sorted anyway.
        """
        return dataset_fingerprint(self._log, self.items)

    @property
    def coverage(self) -> Coverage:
        """Counts: splits, modalities, oddities, quarantine."""
        return measure(
            self._log,
            text=self.item_has_text,
            image=self.item_has_image,
            path_only=self._per_item(item_tables.has_only_image_path),
            noted=self._provenance.noted,
            quarantined=q.counts(self._quarantine),
            image_problems=self.image_problems.values(),
        )

    def __len__(self) -> int:
        return self.n_interactions

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        return (
            f"RecDataset({label}users={self.n_users:,}, items={self.n_items:,}, interactions={self.n_interactions:,}, "
            f"split={self.split_spec['kind']!r})"
        )

    def _repr_html_(self) -> str:
        """The counts and the first items; no image is decoded."""
        rows = []
        for row in self.items.select(range(min(self.n_items, SHOWN_ITEMS))):
            cell = row.get(IMAGE)
            shown = (cell is not None and cell["bytes"]) or row.get(IMAGE_FEATURES) is not None
            rows.append((row[ITEM_ID], text_of(row), "yes" if shown else "no"))
        return html_table(f"{self!r}, the first {len(rows)} items", ("item_id", "text", "image"), rows)

    def describe(self) -> str:
        """The dataset in words and numbers: what it is, what was done, what is read as text, and the coverage."""
        steps = [", ".join(f"{key}={value}" for key, value in step.items()) for step in self.steps]
        lines = [repr(self), f"fingerprint: {self.fingerprint}", *(f"step {i + 1}: {s}" for i, s in enumerate(steps))]
        read, others = item_tables.text_sources(self.items.features.arrow_schema)
        if read or others:
            choice = ", else ".join(f"`{name}`" for name in read) or "none"
            unread = f" (not read: {', '.join(f'`{name}`' for name in others)})" if others else ""
            lines.append(f"text of an item: {choice}{unread}")
        return "\n".join([*lines, "", self.coverage.table()])

    # ---- derived datasets

    def k_core(self, k: int) -> RecDataset:
        """Keep users and items with at least `k` interactions each, repeated until that holds for all.

        Items that fall out leave the catalogue. Like every k-core it looks at whole histories, the future included.

        Raises:
            ValueError: `k < 1`, a dataset that is already split (its targets could vanish), or nothing left.
        """
        self._require_unsplit("k_core")
        kept, items, step = keep_core(self._log, k)
        catalogue = self.items if len(items) == self.n_items else self.items.select(items)
        noted, step = recounted(kept, self._provenance.noted, step)
        return RecDataset(kept, catalogue, self._quarantine, self._provenance.after(step, noted=noted))

    def leave_one_out(self) -> RecDataset:
        """Each user's last interaction is test, the one before validation, the rest train.

        Users with fewer than three interactions stay train only. Replaces an earlier split.
        """
        codes = splits.leave_one_out_codes(self._log.offsets)
        return self._with_split(codes, {"kind": "leave_one_out"})

    def temporal_split(
        self, *, validation_from: Any = None, test_from: Any = None, quantiles: tuple[float, float] | None = None
    ) -> RecDataset:
        """Split all users at the same moments. Replaces an earlier split.

        An event's split depends on its own time only, also for users without any training event: moving their late
        events into train would train on the future. Their first event has no history and is no target.

        Args:
            validation_from: first moment of validation: a number in the data's unit, or (with a known
                `timestamp_unit`) a datetime or an ISO 8601 string. None: no validation.
            test_from: first moment of test.
            quantiles: instead, the shares of all interactions before validation and before test, such as (0.8, 0.9).
                Unlike fixed moments these move when later events are added.

        Raises:
            ValueError: no timestamps, both or neither way given, moments out of order, or an empty train split.
        """
        timestamp = self._log.timestamp
        if timestamp is None:
            raise ValueError(f"A temporal split needs the column `{TIMESTAMP}`; this dataset knows positions only.")
        first, last = splits.cutoffs(timestamp, self.timestamp_unit, validation_from, test_from, quantiles)
        codes = splits.temporal_codes(timestamp, first, last)
        if not np.any(codes == TRAIN):
            raise ValueError(f"No interaction lies before {last if first is None else first}: train would be empty.")
        spec = {"kind": "temporal", "validation_from": first, "test_from": last}
        return self._with_split(codes, spec if quantiles is None else {**spec, "quantiles": list(quantiles)})

    def hold_out_cold_items(self, fraction: float, seed: int = 0) -> RecDataset:
        """Make some items cold: their train interactions go to the quarantine (reason `cold_hold_out`).

        Their validation and test interactions stay as targets. Each item is chosen by a hash of its id and `seed`
        alone, so later data never changes the choice, and the share meets `fraction` only on average.

        Raises:
            ValueError: `fraction` outside (0, 1), a dataset that was not split yet, or an empty train split.
        """
        if self.split_spec["kind"] == "none":
            raise ValueError("Split first, with `leave_one_out()` or `temporal_split(...)`, then hold out cold items.")
        kept, moved, done = take_out_cold(self._log, self.item_ids, fraction, seed)
        step = {"step": "hold_out_cold_items", **done, "moved_interactions": moved.num_rows}
        noted, step = recounted(kept, self._provenance.noted, step)
        provenance = self._provenance.after(step, {**self.split_spec, "cold_items": done}, noted)
        return RecDataset(kept, self.items, q.concat([self._quarantine, moved]), provenance)

    def check_images(self, *, full: bool = True, max_pixels: int = MAX_PIXELS) -> RecDataset:
        """Decode every image once; those that fail leave their item and go to the quarantine (`image:<reason>`).

        Args:
            full: decode all pixels; False looks at the headers only, which is much faster and misses truncated files.
            max_pixels: largest accepted width x height.
        """
        broken = find_broken_images(self.items, full=full, max_pixels=max_pixels)
        step = {"step": "check_images", "full": full, "broken": len(broken)}
        items, taken_out = without_images(self.items, broken) if broken else (self.items, q.empty())
        quarantine = q.concat([self._quarantine, taken_out])
        return RecDataset(self._log, items, quarantine, self._provenance.after(step))

    def with_item_columns(
        self, columns: Mapping[str, Sequence[str | None]], *, step: dict[str, Any], quarantine: pa.Table | None = None
    ) -> RecDataset:
        """The same dataset with more columns of strings in its item table; the catalogue stays in its order.

        Args:
            columns: name -> one value per item. A column that is there already is replaced.
            step: what is noted among `steps` (`{"step": ..., ...}`).
            quarantine: further rows for the quarantine.

        Raises:
            ValueError: another number of values than of items, or a column that the dataset itself is built on.
        """
        items = self.items
        for name, values in columns.items():
            if name in (ITEM_ID, TITLE, TEXT, IMAGE, IMAGE_FEATURES):
                raise ValueError(f"`columns` names {name!r}, which cannot be replaced; give the column another name.")
            if len(values) != self.n_items:
                raise ValueError(f"`columns` gives {len(values)} values of {name!r} for {self.n_items} items.")
            items = items.remove_columns(name) if name in items.column_names else items
            items = items.add_column(name, pa.array(values, pa.string()))
        kept = q.concat([self._quarantine, quarantine if quarantine is not None else q.empty()])
        return RecDataset(self._log, items, kept, self._provenance.after(step))

    def append(
        self,
        interactions: Any = None,
        items: Any = None,
        *,
        column_mapping: ColumnMapping | None = None,
        timestamp_unit: str | None = None,
        duplicates: Duplicates = "keep",
        unknown_items: UnknownItems | None = None,
        split_column: str | None = None,
        quarantine: pa.Table | None = None,
        day_first: bool | None = None,
        text_columns: Sequence[str] | None = None,
    ) -> RecDataset:
        """The dataset with more interactions and items, under the same kind of split and a new fingerprint.

        Old items keep their places, so that vectors and heads by place stay right; new ones follow. A row of `items`
        with a known id replaces the values of its columns. The split is made anew as it was made: leave-one-out
        moves to the latest events, fixed moments of a temporal split stay, shares move, and cold items are held out
        by the same choice. A k-core is not repeated. A further column that holds other types than before becomes what
        holds both: numbers with fractions, or text.

        Args:
            interactions: as in `from_tables`; None: only items.
            items: likewise; None: interactions with known items only.
            column_mapping: as in `from_tables`.
            timestamp_unit: unit of new numeric timestamps, where the dataset knows its own; refused for dates.
            duplicates: new rows that the dataset holds already in user, item, timestamp and position (exports that
                overlap) are kept or quarantined. Old rows, and new ones that repeat one another, stay.
            unknown_items: as in `from_tables`; by default "keep" where the dataset knows nothing of items but ids.
            split_column: column of the split, for a dataset whose split came with its rows.
            quarantine: rows that a reader already took out.
            day_first: as in `from_tables`.
            text_columns: as in `from_tables`; by default those that the dataset was made with.

        Raises:
            ValueError: nothing to append, or rows that cannot stand beside the old ones (other units, types, keys).
        """
        if interactions is None and items is None:
            raise ValueError("`interactions` and `items` are both None; give at least one.")
        ids = standard_names(column_mapping, (USER_ID, ITEM_ID))
        events = None if interactions is None else to_arrow(interactions, "interactions", ids)
        catalogue = None if items is None else to_arrow(items, "items", ids)
        mapped = split_mapping(column_mapping, pa.table({}) if events is None else events, catalogue)
        bare = catalogue is None and self.items.column_names == [ITEM_ID]
        flat = self.items.flatten_indices() if self.items._indices is not None else self.items
        grown = grow(
            self._log,
            flat.data.table.replace_schema_metadata(None),
            self._provenance,
            None if events is None else rename(events, mapped[0], "interactions"),
            None if catalogue is None else rename(catalogue, mapped[1], "items"),
            timestamp_unit=timestamp_unit,
            duplicates=duplicates,
            unknown_items=unknown_items or ("keep" if bare else "quarantine"),
            split_column=split_column,
            day_first=day_first,
            text_columns=text_columns,
        )
        taken_out = q.concat([self._quarantine, *([] if quarantine is None else [quarantine]), grown.quarantine])
        spec, provenance = grown.provenance.split, grown.provenance
        unsplit = replace(provenance, split={"kind": "none"})
        return RecDataset(grown.log, items_dataset(grown.items), taken_out, unsplit)._split_as(spec, grown.factor)

    def _split_as(self, spec: Mapping[str, Any], factor: int) -> RecDataset:
        """Split as `spec` says, its moments multiplied by a factor, and hold out its cold items.

        A split that was given stands in the rows already.
        """
        if spec["kind"] in ("none", "given"):
            said = {name: value for name, value in spec.items() if name != "cold_items"}
            dataset = RecDataset(self._log, self.items, self._quarantine, replace(self._provenance, split=said))
        elif spec["kind"] == "leave_one_out":
            dataset = self.leave_one_out()
        elif "quantiles" in spec:
            first, second = spec["quantiles"]
            dataset = self.temporal_split(quantiles=(first, second))
        else:
            moments = {name: spec[name] for name in ("validation_from", "test_from")}
            dataset = self.temporal_split(**{name: at if at is None else at * factor for name, at in moments.items()})
        if "cold_items" not in spec:
            return dataset
        return dataset.hold_out_cold_items(spec["cold_items"]["fraction"], spec["cold_items"]["seed"])

    def renamed(self, name: str) -> RecDataset:
        """The same dataset under another name; the fingerprint stays."""
        return RecDataset(self._log, self.items, self._quarantine, replace(self._provenance, name=name))

    def _with_split(self, codes: np.ndarray, spec: dict[str, Any]) -> RecDataset:
        if "cold_items" in self.split_spec:
            raise ValueError("Cold items were held out under the present split; split the dataset before that step.")
        sizes = {name: int(np.sum(codes == code)) for name, code in SPLIT_CODES.items()}
        provenance = self._provenance.after({"step": "split", **spec, **sizes}, spec)
        return RecDataset(self._log.with_split(codes), self.items, self._quarantine, provenance)

    def _require_unsplit(self, what: str) -> None:
        if self.split_spec["kind"] != "none":
            raise ValueError(f"`{what}` must come before the split (this one is {self.split_spec['kind']!r}).")

    # ---- to disk and back

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the dataset as one folder, atomically: an interrupted save leaves nothing at `folder`.

        Args:
            folder: where; created with its parents.
            overwrite: replace a dataset that is already there. Anything else there is never touched.

        Raises:
            ValueError: `folder` is taken, or holds other files beside a dataset.
        """
        info = {**self._provenance.to_dict(), "fingerprint": self.fingerprint, "coverage": self.coverage.to_dict()}
        write_folder(
            Path(folder),
            interactions=self.interactions,
            items=self.items,
            quarantine=self._quarantine,
            info=info,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, folder: str | Path) -> RecDataset:
        """Open a saved dataset; its tables are memory-mapped.

        Raises:
            ValueError: not a dataset folder, or an incomplete or newer one.
        """
        interactions, items, quarantine, info = read_folder(Path(folder))
        loaded = cls(None, items, quarantine, Provenance.from_dict(info), stored=interactions)
        loaded.__dict__["fingerprint"] = info["fingerprint"]  # the cached value; `verify` computes it again
        return loaded

    def push_to_hub(
        self,
        repo_id: str,
        *,
        tag: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        license: str | None = None,
        card: str | None = None,
        readme: str = "write",
        max_shard_size: int | str = "500MB",
        quarantine: bool = True,
        verify: bool = True,
    ) -> PublishedDataset:
        """Publish the dataset as one atomic commit of a dataset repo, check it, and only then tag it.

        `load_recsys(repo_id, revision=...)` gives it back whole; `datasets.load_dataset(repo_id, "interactions")` (or
        "items") reads the tables. Other files of the repo stay; data files of earlier versions leave it (its history
        keeps them). A push of what is there already makes no new commit.

        Args:
            repo_id: `owner/name`; created if it does not exist.
            tag: name for this version, such as "v1.0".
            private: whether a repo that is created is private.
            token: access token; the one you are logged in with by default.
            commit_message: first line of the commit.
            license: licence id for the card ("cc-by-4.0", ...).
            card: README to use; its `configs` are set. By default the one that `vlm2rec push` writes, too.
            readme: what becomes of the repo's README: "write" refuses to replace one that a person wrote or changed,
                "replace" does it, "keep" leaves it.
            max_shard_size: size in memory of the rows of one parquet file: bytes, or "500MB".
            quarantine: publish the rows that were taken out, too.
            verify: download the commit again and compare fingerprints before it is tagged.

        Raises:
            ValueError: an argument that cannot be used, a tag that is taken, no right to write, or a repo that
                changed meanwhile. Nothing is published then.
            ConnectionError: the Hub cannot be reached.
        """
        # Hugging Face's convention: a dataset publishes itself. The one import that points upwards.
        from ..hub_cards.publish_dataset import publish_dataset

        return publish_dataset(
            self,
            repo_id,
            tag=tag,
            private=private,
            token=token,
            message=commit_message,
            license=license,
            card=card,
            readme=readme,
            max_shard_size=max_shard_size,
            quarantine=quarantine,
            verify=verify,
        )

    def verify(self) -> None:
        """Compute the fingerprint again from the rows.

        Raises:
            ValueError: it is not the recorded one: the files were changed after they were saved.
        """
        actual = dataset_fingerprint(self._log, self.items)
        if actual != self.fingerprint:
            raise ValueError(f"The content has fingerprint {actual}, recorded is {self.fingerprint}; save it again.")
