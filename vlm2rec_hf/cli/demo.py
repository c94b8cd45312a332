"""`vlm2rec demo`: a shop's page on this machine: click items, see what is recommended and why, search, add items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import DataArguments
from .common import say
from .opening import USAGE, OpeningArguments, opened, with_first_word
from .parsing import check_options_early, parse


@dataclass
class DemoArguments(OpeningArguments):
    """What is shown, and where."""

    _argument_group_name = "page"
    _command = "demo"

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
        super().__post_init__()


TYPES = (DataArguments, DemoArguments)


def main(argv: Sequence[str]) -> None:
    """Run the command, until it is told to stop."""
    words = with_first_word(argv, "--folder")
    check_options_early(words, TYPES)
    data, options = parse("demo", __doc__ or "", TYPES, words, USAGE)
    from ..page.showing import require_demo, show_page

    require_demo()
    with opened(data, options, port="--port") as recommender:
        show_page(
            recommender,
            title=options.title,
            host=options.host,
            port=options.port,
            k=options.k,
            new_items=not options.no_new_items,
            listening=lambda address: say(f"The page is at {address}; Ctrl-C ends it."),
        )
