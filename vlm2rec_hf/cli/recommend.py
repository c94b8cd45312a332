"""`vlm2rec recommend`: the best next items after one history, as a table and as a page with images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .arguments import DataArguments
from .common import item_ids, named_as_options, open_dataset, require, say
from .parsing import check_options_early, parse

HISTORY_SHOWN = 60
"""Newest items of a history on the page; a longer one would make a file of many megabytes."""


@dataclass
class RecommendArguments:
    """Which model, for whom, and how it is shown."""

    _argument_group_name = "recommendation"

    model: str = field(
        default="",
        metadata={"help": "Folder or Hub id of a head, or (with --dataset) embedder or PixRec model."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    history: str | None = field(
        default=None, metadata={"help": "Item ids, oldest first, separated by commas; '' is a user without any."}
    )
    user: str | None = field(default=None, metadata={"help": "Instead: this user's items in the dataset."})
    candidates: str | None = field(default=None, metadata={"help": "Choose among these item ids only."})
    k: int = field(default=10, metadata={"help": "How many items.", "aliases": ["-k"]})
    include_seen: bool = field(default=False, metadata={"help": "Recommend items of the history too."})
    on_unknown: str = field(default="error", metadata={"help": "Unknown item ids: error, or skip (and count) them."})
    html: str | None = field(default=None, metadata={"help": "Write a page with images to this file."})
    view: str | None = field(
        default=None,
        metadata={"help": "Of an embedder: text, image, both, or scored (by its score options, if any; default)."},
    )
    vectors: str | None = field(
        default=None, metadata={"help": "Of an embedder: what `vlm2rec embed` wrote, so that items are not encoded."}
    )
    item_columns: str | None = field(
        default=None, metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."}
    )
    index: str | None = field(default=None, metadata={"help": "Recommend from an index that `vlm2rec index` wrote."})
    filter: str | None = field(
        default=None,
        metadata={"help": 'Condition on the items, as JSON: {"price": {"<": 30}, "category": ["shoes", "boots"]}.'},
    )
    view_weights: str | None = field(
        default=None, metadata={"help": "Of external fusion: weights of the views, such as text=1,image=0.5."}
    )
    group_by: str | None = field(
        default=None, metadata={"help": "Item column of which each value is listed once (variants of a product)."}
    )
    diversity: float = field(
        default=0.0, metadata={"help": "0 to 1: choose items that are less like those above them."}
    )
    explain: bool = field(default=False, metadata={"help": "Say for each item why it has its score."})

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"`-k` must be at least 1, got {self.k}.")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"`--diversity` must lie between 0 and 1, got {self.diversity}.")
        if (self.history is None) == (self.user is None):
            raise ValueError("Name exactly one of `--history` (item ids) and `--user` (a user of `--dataset`).")


def main(argv: Sequence[str]) -> None:
    """Run the command. Images come from the dataset, titles too where it has them, else from the head."""
    check_options_early(argv, (DataArguments, RecommendArguments))
    usage = "--model MODEL (--history ID,ID | --user USER) [--dataset DATA] [options]"
    data, options = parse("recommend", __doc__ or "", (DataArguments, RecommendArguments), argv, usage)
    require(options.model, "--model", "the folder or Hub id of a head or an embedder")
    if options.user is not None and not data.dataset:
        raise ValueError("`--user` needs `--dataset`, the data that the user is in.")
    from ..recommending.page import check_new
    from ..recommending.recommender import recommender, user_history
    from ..recommending.shown_items import ShownItems, note_of, printable, table, write_recommendations
    from ..recommending.view_weights import parse_weights

    names = {"where": "--model", "model": "--model", "histories": "--history", "user": "--user", "view": "--view"}
    names |= {name: f"--{name}" for name in ("index", "filter", "group_by", "diversity", "view_weights")}
    with named_as_options(**names, dataset="--dataset", vectors="--vectors", candidates="--candidates", html="--html"):
        if options.html is not None:
            check_new(Path(options.html))
        dataset = open_dataset(data) if data.dataset else None
        if options.user is not None and dataset is not None:
            history = user_history(dataset, options.user)
        else:
            history = item_ids(options.history or "")
        ready = recommender(
            options.model,
            dataset,
            revision=options.model_revision,
            view=options.view,
            vectors=options.vectors,
            item_columns=None if options.item_columns is None else item_ids(options.item_columns),
            index=options.index,
            show_progress=True,
        )
        (best,) = ready.recommend(
            [history],
            options.k,
            exclude_seen=not options.include_seen,
            candidates=None if options.candidates is None else item_ids(options.candidates),
            on_unknown=options.on_unknown,
            filter=None if options.filter is None else _condition(options.filter),
            group_by=options.group_by,
            diversity=options.diversity,
            explain=options.explain,
            view_weights=None if options.view_weights is None else parse_weights(options.view_weights),
        )
        shown = ShownItems(ready.catalogue, dataset, best)
        print(table(shown.recommended(best)))
        for reason in (best.reasons or ()) if options.explain else ():
            print(printable(f"{reason.item_id}: {reason.reason}"))
        note = note_of(best, len(history))
        say(note)
        if options.html is not None:
            heading = f"Recommendations of {options.model}"
            write_recommendations(options.html, heading, note, shown, history, best, newest=HISTORY_SHOWN)
            say(f"Page in {options.html}." + ("" if dataset else " It has no images: they come with `--dataset`."))


def _condition(text: str) -> Any:
    """A condition written as JSON; what it says is checked by the index.

    Raises:
        ValueError: no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f'`--filter` must be JSON, such as {{"price": {{"<": 30}}}}: {error}.') from None
