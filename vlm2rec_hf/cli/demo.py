"""`vlm2rec demo`: a shop's page on this machine: click items, see what is recommended and why, search, add items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import DataArguments
from .common import item_ids, named_as_options, open_dataset, say
from .parsing import check_options_early, parse


@dataclass
class DemoArguments:
    """What is shown, and where."""

    _argument_group_name = "page"

    folder: str | None = field(
        default=None, metadata={"help": "Folder that `vlm2rec quickstart` wrote, or of a model; may stand first."}
    )
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the model; else the folder's."})
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    index: str | None = field(
        default=None, metadata={"help": "Index that `vlm2rec index` wrote; new items go into it. Else the folder's."}
    )
    view: str | None = field(default=None, metadata={"help": "Of an embedder: text, image or both (default)."})
    item_columns: str | None = field(
        default=None, metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."}
    )
    title: str = field(default="The shop", metadata={"help": "Shown on top of the page."})
    k: int = field(default=12, metadata={"help": "How many items are recommended.", "aliases": ["-k"]})
    host: str = field(
        default="127.0.0.1", metadata={"help": "Address to listen on; any but loopback shows the page to others."}
    )
    port: int = field(default=7860, metadata={"help": "Port; 0: a free one, which is printed."})
    no_new_items: bool = field(default=False, metadata={"help": "Visitors may not put items into the index."})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`--port` must lie between 0 and 65535, got {self.port}.")
        if self.k < 1:
            raise ValueError(f"`-k` must be at least 1, got {self.k}.")
        if self.folder is None and self.model is None:
            raise ValueError("Name a folder (`vlm2rec demo runs/quickstart`) or a `--model`.")


TYPES = (DataArguments, DemoArguments)
USAGE = "(FOLDER | --model MODEL) [--dataset DATA] [--index DIR] [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command, until it is told to stop."""
    words = list(argv)
    words = ["--folder", *words] if words and not words[0].startswith("-") else words
    check_options_early(words, TYPES)
    data, options = parse("demo", __doc__ or "", TYPES, words, USAGE)
    from ..page.showing import require_demo, show_page
    from ..recommending.opening import open_recommender

    require_demo()
    names = {"where": "--model", "model": "--model", "view": "--view", "index": "--index", "folder": "--folder"}
    with named_as_options(**names, dataset="--dataset", item_columns="--item_columns", port="--port"):
        recommender = open_recommender(
            options.folder,
            model=options.model,
            dataset=open_dataset(data) if data.dataset else None,
            index=options.index,
            revision=options.model_revision,
            view=options.view,
            item_columns=None if options.item_columns is None else item_ids(options.item_columns),
        )
        show_page(
            recommender,
            title=options.title,
            host=options.host,
            port=options.port,
            k=options.k,
            new_items=not options.no_new_items,
            listening=lambda address: say(f"The page is at {address}; Ctrl-C ends it."),
        )
