"""`vlm2rec index`: write the index of a dataset's items for a model, or write it anew and switch to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import DataArguments, EncoderModelArguments, check_at_least
from .common import item_ids, named_as_options, open_dataset, require
from .evaluate import load
from .parsing import check_options_early, parse


@dataclass
class IndexArguments:
    """What the index holds, and where."""

    _argument_group_name = "index"

    output: str = field(
        default="",
        metadata={"help": "Folder of the index; if it holds one already, a new version is written and switched to."},
    )
    views: str | None = field(
        default=None,
        metadata={"help": "Vectors to keep: some of text,image,both,scored; by default all that the model has."},
    )
    vectors: str | None = field(
        default=None, metadata={"help": "Of an embedder: what `vlm2rec embed` wrote, so that items are not encoded."}
    )
    store: str = field(
        default="auto",
        metadata={"help": "exact (in memory), lance (LanceDB, approximate), or auto: exact up to 100,000 items."},
    )
    item_columns: str | None = field(
        default=None, metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."}
    )
    index_batch_size: int | None = field(default=None, metadata={"help": "Items per forward pass at most."})

    def __post_init__(self) -> None:
        if self.store not in ("auto", "exact", "lance"):
            raise ValueError(f"`--store` must be auto, exact or lance, got {self.store!r}.")
        check_at_least(self, 1, "index_batch_size")


def main(argv: Sequence[str]) -> None:
    """Run the command. An index that is there already keeps serving until the new version is whole."""
    types = (DataArguments, EncoderModelArguments, IndexArguments)
    check_options_early(argv, types)
    usage = "--dataset DATA --model MODEL --output DIR [options]"
    data, models, options = parse("index", __doc__ or "", types, argv, usage)
    output = require(options.output, "--output", "the folder of the index")
    require(models.model, "--model", "a folder or Hub id of a model")
    from ..catalogues.item_vectors import VIEWS, view_names
    from ..columns import SCORED
    from ..recommending.index_building import build_index

    names = {"where": "--model", "model": "--model", "dataset": "--dataset", "output": "--output", "store": "--store"}
    with named_as_options(**names, views="--views", vectors="--vectors", item_columns="--item_columns"):
        index = build_index(
            load(models),
            open_dataset(data) if data.dataset else None,
            output,
            views=None if options.views is None else view_names(options.views, (*VIEWS, SCORED)),
            vectors=options.vectors,
            item_columns=None if options.item_columns is None else item_ids(options.item_columns),
            store=options.store,
            batch_size=options.index_batch_size,
            show_progress=True,
        )
    facts = index.facts
    size = next(iter(facts.views.values()))
    print(
        f"{len(index):,} items x {size} dimensions, views {', '.join(facts.views)}, {facts.store} -> {output} "
        f"({index.version})"
    )
