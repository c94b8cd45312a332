"""Describe every item of a dataset, chunk by chunk, and put the descriptions into the dataset."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..columns import DESCRIPTION_BOTH, DESCRIPTION_IMAGE, DESCRIPTION_SOURCE, DESCRIPTION_TEXT, ITEM_ID, VIEWS
from .journal import Journal

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.dataset import RecDataset
    from .describer import Describer

PATIENCE = 100
"""Failed attempts in a row (descriptions, not items) after which describing stops; our choice."""
FIRST_PATIENCE = 8
"""The same while nothing has worked yet."""
BROKEN = "image: "
"""Begins the problem of an image that does not decode, and that no model was shown."""
COLUMNS = {"text": DESCRIPTION_TEXT, "image": DESCRIPTION_IMAGE, "both": DESCRIPTION_BOTH}


def describe_items(
    dataset: RecDataset,
    describer: Describer,
    work: str | Path,
    *,
    model: str,
    revision: str,
    batch_size: int = 8,
    show_progress: bool = False,
) -> RecDataset:
    """Write three descriptions of each item and give the dataset with them as columns.

    What an item lacks is not made up: without an image `description_image` and `description_both` are null, without
    a text `description_text` and `description_both`. An item that fails does not stop the others: its descriptions
    are null and its reason goes to the quarantine. Every chunk is on the disk before the next begins, so that the same
    call resumes where a killed one stopped.

    Args:
        dataset: whose items are described.
        describer: see `load_describer`.
        work: folder for what has been written so far; the same call continues it.
        model: name of the model, for the record.
        revision: its commit, or a digest of its weights.
        batch_size: items per forward pass, and per chunk.
        show_progress: draw a progress bar.

    Returns:
        The dataset with `description_text`, `description_image`, `description_both` and `description_source`, the
        step among its `steps`, and failures among its quarantined rows (`table` "descriptions").

    Raises:
        ValueError: `work` holds another job, or a bad argument.
        RuntimeError: many attempts in a row failed (`PATIENCE`), or all there were: that is not the items' fault.
            What was written before stays; the failed ones are tried again by the next call.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if not dataset.n_items:
        raise ValueError("`dataset` has no items, so there is nothing to describe.")
    facts = {
        "model": model,
        "revision": revision,
        "prompts": describer.prompts.fingerprint,
        "dtype": str(describer.model.dtype).removeprefix("torch."),
        **describer.writing.facts(),
    }
    settings = {"dataset": dataset.fingerprint, "items": dataset.n_items, "batch_size": batch_size, **facts}
    with Journal(Path(work), settings) as journal:
        chunks = range(-(-dataset.n_items // batch_size))
        failing = _Failing(journal)
        with tqdm(total=dataset.n_items, desc="Items", disable=not show_progress, leave=False) as bar:
            for chunk in chunks:
                rows = range(chunk * batch_size, min((chunk + 1) * batch_size, dataset.n_items))
                if chunk not in journal.done:
                    failing.add(chunk, *_describe_chunk(dataset, describer, rows))
                bar.update(len(rows))
        failing.finish()
        records = [record for chunk in chunks for record in journal.done[chunk]]
    return with_descriptions(dataset, records, facts)


def _describe_chunk(dataset: RecDataset, describer: Describer, rows: range) -> tuple[list[dict[str, Any]], int]:
    """A record per item (`index`, what was written by kind, and `problems` by kind), and the number of attempts."""
    items = [dict(dataset.item(index)) for index in rows]
    records: list[dict[str, Any]] = [{"index": index, "problems": {}} for index in rows]
    for index, record in zip(rows, records, strict=True):
        if index in dataset.image_problems:
            record["problems"]["image"] = f"{BROKEN}{dataset.image_problems[index]}"
    attempts = 0
    for kind in VIEWS:
        needs = [name for name in ("text", "image") if kind in (name, "both")]
        able = [i for i, item in enumerate(items) if all(item.get(name) is not None for name in needs)]
        if not able:
            continue
        attempts += len(able)
        written = _write(describer, kind, [items[i] for i in able], _seed(describer.writing.seed, rows[0], kind))
        for i, (text, problem) in zip(able, written, strict=True):
            if problem is None:
                records[i][kind] = text
            else:
                records[i]["problems"][kind] = problem
    return records, attempts


def _has_any(records: list[dict[str, Any]]) -> bool:
    return any(kind in record for record in records for kind in VIEWS)


def _write(describer: Describer, kind: str, items: list[dict[str, Any]], seed: int) -> list[tuple[str, str | None]]:
    """Description and problem of each item; a batch that fails is tried item by item."""
    try:
        written = describer.write(kind, items, seed)
    except Exception as error:
        # Whatever an image or a text makes of a model: the reason is kept with the item, and the other items
        # continue.
        if len(items) == 1:
            return [("", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
        return [_write(describer, kind, [item], seed + 1 + i)[0] for i, item in enumerate(items)]
    return [(text, None if text else "the model wrote nothing") for text in written]


def _seed(seed: int, first: int, kind: str) -> int:
    """A seed of a batch's own, the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{first}/{kind}".encode()).digest()[:6])


class _Failing:
    """Holds back chunks in which every attempt failed, until another one works.

    Else a broken device or model would fill the journal with failures that nobody tries again.

    Args:
        journal: of the job.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.waiting: list[tuple[int, list[dict[str, Any]]]] = []
        self.attempts = 0
        self.worked = any(_has_any(records) for records in journal.done.values())

    def add(self, chunk: int, records: list[dict[str, Any]], attempts: int) -> None:
        """Journal a chunk, or hold it back."""
        self.waiting.append((chunk, records))
        self.attempts += attempts
        worked = _has_any(records)
        self.worked = self.worked or worked
        if worked or not self.attempts:
            self._flush()
        elif self.attempts >= (PATIENCE if self.worked else FIRST_PATIENCE):
            self._stop()

    def finish(self) -> None:
        """After the last chunk: single failures at the end are failures of items."""
        if self.waiting and not self.worked:
            self._stop()
        self._flush()

    def _flush(self) -> None:
        for chunk, records in self.waiting:
            self.journal.add(chunk, records)
        self.waiting, self.attempts = [], 0

    def _stop(self) -> None:
        tried = (r["problems"] for _, records in self.waiting for r in records)
        reason = next(problem for problems in tried for problem in problems.values() if not problem.startswith(BROKEN))
        raise RuntimeError(
            f"The last {self.attempts} descriptions could not be written; the first reason: {reason} What was written "
            f"before is kept in {str(self.journal.folder)!r}; the same call resumes there."
        )


def with_descriptions(dataset: RecDataset, records: list[dict[str, Any]], facts: dict[str, Any]) -> RecDataset:
    """Put descriptions into a dataset.

    Args:
        dataset: whose items were described.
        records: one per item in catalogue order, as `describe_items` journals them.
        facts: `model`, `revision`, `prompts` and the settings of the writing.
    """
    columns = {name: [record.get(kind) for record in records] for kind, name in COLUMNS.items()}
    source = f"{facts['model']}@{facts['revision']} prompts:{facts['prompts']}"
    columns[DESCRIPTION_SOURCE] = [source if any(kind in record for kind in VIEWS) else None for record in records]
    failed = _failures(dataset, records)
    counts = {f"with_{name}": sum(value is not None for value in columns[name]) for name in COLUMNS.values()}
    step = {"step": "describe", **facts, **counts, "failed": failed.num_rows}
    return dataset.with_item_columns(columns, step=step, quarantine=failed)


def _failures(dataset: RecDataset, records: list[dict[str, Any]]) -> pa.Table:
    """A quarantine row for each description that could not be written; the item itself stays in the catalogue."""
    import numpy as np
    import pyarrow as pa

    from ..data import quarantine

    parts = []
    for kind, column in COLUMNS.items():
        bad = [record for record in records if kind in record["problems"]]
        ids = [str(dataset.item_ids[record["index"]]) for record in bad]
        rows = pa.table({ITEM_ID: pa.array(ids, pa.string()), "problem": [r["problems"][kind] for r in bad]})
        numbers = np.array([record["index"] for record in bad], dtype=np.int64)
        parts.append(
            quarantine.of_rows(rows, numbers, table="descriptions", reason="description_failed", column=column)
        )
    return quarantine.concat(parts)


def failures_by_reason(dataset: RecDataset) -> dict[str, int]:
    """How many descriptions failed, by column, over all runs that the dataset's quarantine knows."""
    rows = dataset.quarantine
    return dict(Counter(row["column"] for row in rows if row["table"] == "descriptions"))
