"""Histories and items with images as a dataset for `SentenceTransformerTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .model_files import as_documents, as_queries

if TYPE_CHECKING:
    from datasets import Dataset


def ranking_dataset(
    histories: Sequence[Sequence[int]],
    targets: Sequence[int],
    items: Sequence[Any],
    *,
    negatives: Sequence[Sequence[int]] | None = None,
    max_history: int = 10,
    mask_history: bool = True,
) -> Dataset:
    """A dataset of (history, next item) for `VLM2RecRankingLoss`, or any ranking loss of sentence-transformers.

    Only row numbers of the catalogue are stored. Texts and images are looked up when a batch is read, so an image
    exists once however many histories it stands in, and a lazy `items` is never read as a whole.

    Args:
        histories: `n` lists of catalogue rows, oldest first, none empty.
        targets: `n` catalogue rows, the item chosen next.
        items: the catalogue, see `vlm2rec_hf.modeling.processing_vlm2rec.as_item` for what an item may be; it is
            handed to the data loader's workers.
        negatives: for each of the `n` rows as many catalogue rows, items not chosen.
        max_history: most recent items kept of a history.
        mask_history: let the kept items of a history be no negatives of their user.

    Returns:
        Reads as the columns `anchor`, `positive`, `negative_1` ... (chat messages) and `label` (catalogue rows:
        positive, negatives, history padded with -1).

    Raises:
        ValueError: lists of different lengths, an empty history, a row outside the catalogue, or `max_history < 1`.
    """
    import datasets

    if max_history < 1:
        raise ValueError(f"`max_history` must be at least 1, got {max_history}.")
    chosen = [[] for _ in targets] if negatives is None else [list(map(int, row)) for row in negatives]
    for name, rows in (("histories", histories), ("negatives", chosen)):
        if len(rows) != len(targets):
            raise ValueError(f"`{name}` must have one list per target ({len(targets)}), got {len(rows)}.")
    if len({len(row) for row in chosen}) > 1:
        raise ValueError(
            f"`negatives` must have the same number of items in every row, got {sorted({len(row) for row in chosen})}."
        )
    kept = [list(map(int, history))[-max_history:] for history in histories]
    if not all(kept):
        raise ValueError(f"`histories` must not be empty: row {kept.index([])} has no embedding; leave that user out.")
    wanted = [int(target) for target in targets]
    for name, lists in (("histories", kept), ("negatives", chosen), ("targets", [wanted])):
        flat = np.fromiter((row for one in lists for row in one), dtype=np.int64)
        if len(flat) and (flat.min() < 0 or flat.max() >= len(items)):
            raise ValueError(
                f"`{name}` must hold rows of `items` (0 to {len(items) - 1}), got {flat.min()} to {flat.max()}."
            )
    # Padded to one length for all, because a loader may read row by row.
    longest = max(map(len, kept), default=0) if mask_history else 0
    row, rows = datasets.Value("int32"), datasets.List(datasets.Value("int32"))
    n_negatives = len(chosen[0]) if chosen else 0
    # The stored columns have the names of the columns read: the trainer's model card looks columns up by name.
    columns: dict[str, list[Any]] = {"anchor": kept, "positive": wanted}
    columns |= {f"negative_{k + 1}": [others[k] for others in chosen] for k in range(n_negatives)}
    features = datasets.Features({name: rows if name == "anchor" else row for name in columns} | {"label": rows})
    columns["label"] = [
        [target, *others, *(history + [-1] * (longest - len(history)) if mask_history else [])]
        for target, others, history in zip(wanted, chosen, kept, strict=True)
    ]
    return datasets.Dataset.from_dict(columns, features=features).with_transform(_Messages(items))


class _Messages:
    """Looks the items of a batch up. A class and not a closure, so that it reaches the data loader's workers."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """From catalogue rows to what the trainer sees, in whichever columns are asked for."""
        single = [name for name in columns if name not in ("anchor", "label")]
        needed = {i for history in columns.get("anchor", []) for i in history}
        needed |= {i for name in single for i in columns[name]}
        items = {i: self.items[i] for i in sorted(needed)}  # one read per distinct item of the batch
        made = dict(columns)
        if "anchor" in columns:
            made["anchor"] = as_queries([[items[i] for i in history] for history in columns["anchor"]])
        return made | {name: [_document(items[i]) for i in columns[name]] for name in single}


def _document(item: Any) -> list[dict[str, Any]]:
    """An item as a conversation: unlike a dict it may lack a text or an image in a column where others have both."""
    content = [{"type": name, name: value} for name, value in as_documents([item])[0].items()]
    return [{"role": "user", "content": content}]
