"""`vlm2rec recommend`: the best next items after one history, as a table and as a page with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..recommending.page import ShownItem, check_new, page, write_page
from .arguments import DataArguments
from .common import model_type_of, open_dataset, parse, require, say
from .encoded_catalogue import ENCODERS, EncodedArguments, EncodedCatalogue, encoded_catalogue

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..modeling.catalogue_seqrec import HeadCatalogue, Recommendation
    from ..modeling.modeling_seqrec import HeadModel

TITLE_WIDTH = 60
HISTORY_SHOWN = 60
"""Newest items of a history on the page; a longer one would make a file of many megabytes."""


@dataclass
class RecommendArguments:
    """Which model, for whom, and how it is shown."""

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
    html: str | None = field(default=None, metadata={"help": "Write a page with pictures to this file."})

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"`-k` must be at least 1, got {self.k}.")
        if (self.history is None) == (self.user is None):
            raise ValueError("Name exactly one of `--history` (item ids) and `--user` (a user of `--dataset`).")


def main(argv: Sequence[str]) -> None:
    """Run the command. Pictures come from the dataset, titles too where it has them, else from the head."""
    from transformers.utils.logging import disable_progress_bar

    data, options, encoded = parse(
        "recommend", __doc__ or "", (DataArguments, RecommendArguments, EncodedArguments), argv
    )
    require(options.model, "--model", "the folder or Hub id of a head or an embedder")
    if options.user is not None and not data.dataset:
        raise ValueError("`--user` needs `--dataset`, the data that the user is in.")
    if options.html is not None:
        check_new(Path(options.html))
    disable_progress_bar()
    dataset = open_dataset(data) if data.dataset else None
    kind = model_type_of(options.model, options.model_revision)
    head: HeadModel | EncodedCatalogue
    if kind in ENCODERS:
        if dataset is None:
            raise ValueError(f"`--dataset` is required: the {kind} model {options.model!r} knows no items of its own.")
        head = encoded_catalogue(str(kind), options.model, options.model_revision, dataset, encoded)
    else:
        head = load_head(options.model, options.model_revision)
    history = split_ids(options.history) if options.history is not None else items_of_user(dataset, options.user)
    (found,) = head.recommend(
        [history],
        options.k,
        exclude_seen=not options.include_seen,
        candidates=None if options.candidates is None else split_ids(options.candidates),
        on_unknown=options.on_unknown,
    )
    shown = ShownItems(head.catalogue, dataset)
    recommended = shown.recommended(found)
    print(table(recommended))
    note = note_of(found, len(history))
    say(note)
    if options.html is not None:
        past = [shown.item(item) for item in history[-HISTORY_SHOWN:]]
        if len(past) < len(history):
            note += f" The page shows the newest {len(past)} of them."
        picture = shown.with_picture
        write_page(
            Path(options.html),
            page(f"Recommendations of {options.model}", note, [*map(picture, past)], [*map(picture, recommended)]),
        )
        say(f"Page in {options.html}." + ("" if dataset else " It has no pictures: they come with `--dataset`."))


def load_head(where: str, revision: str | None = None) -> HeadModel:
    """Load a head, ready to recommend.

    Raises:
        ValueError: nothing loadable there, a model of another kind, or a head without a catalogue.
    """
    from transformers import AutoConfig, AutoModel

    from ..modeling.configuration_seqrec import SeqRecConfig

    if Path(where).exists() and not (Path(where) / "config.json").is_file():
        raise ValueError(f"`--model` {where!r} holds no config.json: it is no saved model.")
    try:
        config = AutoConfig.from_pretrained(where, revision=revision or "main")
    except OSError as error:
        raise ValueError(f"`--model` {where!r} is neither a folder nor a model that the Hub has: {error}") from error
    if not isinstance(config, SeqRecConfig):
        raise ValueError(
            f"`--model` {where!r} is a {config.model_type} model, not a head or an embedder; train a head with "
            "`vlm2rec train-head`."
        )
    head = AutoModel.from_pretrained(where, revision=revision or "main").eval()
    if head.catalogue is None:
        raise ValueError(f"`--model` {where!r} has no catalogue.parquet, so its items have no ids; save it again.")
    return head


def split_ids(text: str) -> list[str]:
    """`1,2,3` as a list of ids; the empty text is no ids."""
    return [part.strip() for part in text.split(",") if part.strip()]


def items_of_user(dataset: RecDataset | None, user: str | None) -> list[str]:
    """Raw item ids of everything a user interacted with, oldest first.

    Raises:
        ValueError: a user that the dataset does not have.
    """
    if dataset is None:
        raise ValueError("`--user` needs `--dataset`, the data that the user is in.")
    sequences = dataset.sequences()
    rows = (sequences.user_ids == user).nonzero()[0]
    if len(rows) == 0:
        raise ValueError(f"`--user` {user!r} is none of the dataset's {dataset.n_users} users.")
    start, stop = sequences.offsets[rows[0]], sequences.offsets[rows[0] + 1]
    return [str(item) for item in sequences.item_ids[sequences.items[start:stop]]]


class ShownItems:
    """Titles and pictures of items by raw id.

    Args:
        catalogue: the head's, which may know titles.
        dataset: where titles and pictures come from, if there is one.
    """

    def __init__(self, catalogue: HeadCatalogue | None, dataset: RecDataset | None) -> None:
        self.dataset = dataset
        self.place = {} if dataset is None else {str(item): i for i, item in enumerate(dataset.item_ids)}
        self.titles = {} if catalogue is None else dict(zip(catalogue.ids, catalogue.titles, strict=True))

    def item(self, item_id: str) -> ShownItem:
        """One item of a history, without picture."""
        return ShownItem(item_id, self._title(item_id))

    def recommended(self, found: Recommendation) -> list[ShownItem]:
        """The recommended items with their scores, without pictures."""
        pairs = zip(found.item_ids, found.scores, strict=True)
        return [ShownItem(item, self._title(item), score) for item, score in pairs]

    def with_picture(self, item: ShownItem) -> ShownItem:
        """The item with its picture, where the dataset has one that decodes."""
        if self.dataset is None or item.item_id not in self.place:
            return item
        return replace(item, picture=self.dataset.item(self.place[item.item_id])["image"])

    def _title(self, item_id: str) -> str | None:
        if self.dataset is not None and item_id in self.place:
            names = [name for name in ("title", "text") if name in self.dataset.items.column_names]
            row = self.dataset.items.select_columns(names)[self.place[item_id]] if names else {}
            for name in names:
                if isinstance(row[name], str) and row[name].strip():
                    return row[name]
        return self.titles.get(item_id)


def table(items: Sequence[ShownItem]) -> str:
    """Place, id, score and title, one item a line; control characters and line breaks in titles become spaces."""
    ids = [_printable(item.item_id) for item in items]
    width = max([len("item"), *map(len, ids)])
    lines = [f"{'#':>3}  {'item':<{width}}  {'score':>10}  title"]
    for number, (item, item_id) in enumerate(zip(items, ids, strict=True), start=1):
        title = _printable(item.title or "-")
        title = title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 3] + "..."
        lines.append(f"{number:>3}  {item_id:<{width}}  {item.score:>10.4g}  {title}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """One line without control characters: a title must not move the cursor of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def note_of(found: Recommendation, n_history: int) -> str:
    """One sentence: what the list is based on."""
    skipped = f" ({found.n_unknown} unknown ids left out)" if found.n_unknown else ""
    if found.source == "popularity":
        return f"No known history{skipped}: these are the most popular items; the score is how often each was seen."
    read = n_history - found.n_unknown
    return f"Ranked after a history of {read} item{'' if read == 1 else 's'}{skipped}."
