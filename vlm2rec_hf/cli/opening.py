"""The options of commands that open what training left behind, `serve` and `demo`, and the recommender they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .arguments import DataArguments
from .common import item_ids, named_as_options, open_dataset

if TYPE_CHECKING:
    from ..recommending.recommender import Recommender

USAGE = "(FOLDER | --model MODEL) [--dataset DATA] [--index DIR] [options]"


@dataclass
class OpeningArguments:
    """What is opened."""

    _command: ClassVar[str] = ""

    folder: str | None = field(
        default=None, metadata={"help": "Folder that `vlm2rec quickstart` wrote, or of a model; may stand first."}
    )
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the model; else the folder's."})
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    index: str | None = field(
        default=None, metadata={"help": "Index that `vlm2rec index` wrote; items can be put in. Else the folder's."}
    )
    view: str | None = field(
        default=None,
        metadata={"help": "Of an embedder: text, image, both, or scored (the default where it has score options)."},
    )
    item_columns: str | None = field(
        default=None, metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."}
    )

    def __post_init__(self) -> None:
        if self.folder is None and self.model is None:
            raise ValueError(f"Name a folder (`vlm2rec {self._command} runs/quickstart`) or a `--model`.")


@contextmanager
def opened(data: DataArguments, options: OpeningArguments, **names: str) -> Iterator[Recommender]:
    """The recommender that a command names; in the block, too, errors speak of options.

    Args:
        data: the dataset, if one is named.
        options: the rest.
        names: further arguments that errors may name -> what their options are called.
    """
    from ..recommending.opening import open_recommender

    known = {"where": "--model", **{name: f"--{name}" for name in ("model", "view", "index", "folder", "dataset")}}
    with named_as_options(**known, item_columns="--item_columns", **names):
        yield open_recommender(
            options.folder,
            model=options.model,
            dataset=open_dataset(data) if data.dataset else None,
            index=options.index,
            revision=options.model_revision,
            view=options.view,
            item_columns=None if options.item_columns is None else item_ids(options.item_columns),
        )


def with_first_word(argv: Sequence[str], option: str) -> list[str]:
    """A word that stands first, as the option that it is the value of."""
    words = list(argv)
    return [option, *words] if words and not words[0].startswith("-") else words
