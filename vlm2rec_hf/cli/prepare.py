"""`vlm2rec prepare`: read, check, filter and split a dataset, and save it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import DataArguments, given_options
from .common import (
    check_split,
    filtered,
    named_as_options,
    read_dataset,
    reading_options,
    require,
    say,
)
from .parsing import check_options_early, parse
from .places import check_folder

if TYPE_CHECKING:
    from ..data.dataset import RecDataset


READ = ("column_mapping", "text_columns", "day_first", "split_column")


@dataclass
class FileArguments:
    """Files of one's own, in place of `--dataset`."""

    _argument_group_name = "your own files"

    interactions: str | None = field(
        default=None, metadata={"help": "File of interactions: CSV, TSV, JSON lines (each also .gz) or parquet."}
    )
    items: str | None = field(default=None, metadata={"help": "File of items, likewise."})
    image_folder: str | None = field(default=None, metadata={"help": "Folder of the items' images, named by item id."})
    image_pattern: str | None = field(
        default=None,
        metadata={"help": "How they are named else: a path in the folder, such as '{item_id[:3]}/{item_id}.jpg'."},
    )
    image_column: str | None = field(default=None, metadata={"help": "Or the item column that holds their names."})
    encoding: str = field(default="utf-8", metadata={"help": "Of text files: utf-8, latin-1, ..."})

    append: str | None = field(
        default=None,
        metadata={"help": "Prepared dataset that these files are new rows of; --output is the dataset with them."},
    )

    def read(self, data: DataArguments) -> RecDataset:
        """The dataset in these files, or the one that they are new rows of, with them.

        Raises:
            ValueError: no interactions, a file that is not there, or what `RecDataset.from_files` raises.
        """
        from ..data.dataset import RecDataset
        from ..data.readers.file_tables import read_tables

        if data.dataset:
            others = [name for name in given_options(self) if name not in ("interactions", "items", "append")]
            raise ValueError(
                "Name `--dataset` or files of your own (`--interactions`, ...), not both."
                + (f" `--{others[0]}` goes with files of your own; of a folder of tables" if others else "")
                + (" the folder `images` is read by itself." if others else "")
            )
        fixed = ["format", "revision"] + ([] if self.append is None else ["split", "k_core", "cold_items"])
        for name in set(fixed) & set(given_options(data)):
            owner = "goes with `--dataset`" if self.append is None else "is as the dataset of `--append` has it"
            raise ValueError(f"`--{name}` {owner}; leave it out.")
        check_split(data.split or "leave_one_out")
        files = {name: value for name, value in vars(self).items() if name != "append"}
        options = reading_options(data)
        with named_as_options(folder="--append", **{name: f"--{name}" for name in [*files, *READ]}):
            if self.append is None and self.interactions is None:
                raise ValueError("`--interactions` is required beside the other files: who took what, and when.")
            if self.append is None:
                return RecDataset.from_files(**files, **options)
            before = RecDataset.load(self.append)
            of_tables = {name: options.pop(name, None) for name in ("column_mapping", "text_columns")}
            events, catalogue, bad, texts = read_tables(**files, **of_tables)
            return before.append(
                events, catalogue, quarantine=bad, duplicates="quarantine", text_columns=texts, **options
            )


@dataclass
class PrepareArguments:
    """Where the prepared dataset goes."""

    _argument_group_name = "output"

    output: str = field(default="", metadata={"help": "Folder to write."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a prepared dataset that is there."})
    check_images: bool = field(default=True, metadata={"help": "Decode every image once; broken ones are set aside."})


TYPES = (DataArguments, FileArguments, PrepareArguments)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    check_options_early(argv, TYPES)
    usage = "(--dataset SOURCE | [--append DATA] --interactions FILE [--items FILE]) --output DIR [options]"
    data, files, options = parse("prepare", __doc__ or "", TYPES, argv, usage)
    output = check_folder(require(options.output, "--output", "the folder to write"))
    from ..data.storage import check_free
    from ..data.usefulness import empty_items, losses

    with named_as_options(folder="--output", overwrite="--overwrite"):
        check_free(output, options.overwrite)
    own = bool(given_options(files))
    dataset = files.read(data) if own else read_dataset(data)
    coverage = dataset.coverage
    # A dataset that was prepared before may have lost rows to filters since its quarantine was filled.
    troubles = [] if dataset.steps else losses(coverage.quarantined, coverage.interactions + coverage.items)
    dataset = dataset if files.append else filtered(dataset, data)
    if options.check_images:
        dataset = dataset.check_images()
    dataset.save(output, overwrite=options.overwrite)
    print(dataset.describe())
    empty = empty_items(dataset.coverage, dataset.items.column_names)
    for sentence in empty:
        say(f"Warning: {sentence}")
    say(f"Saved to {output}." + ("" if empty or troubles else f" Next: {next_step(output)}"))
    if empty:
        say(f"Heads that learn from item ids alone can use it: {next_step(output, '--method seqrec')}")


def next_step(folder: Path, what: str = "--tiny qwen2_vl") -> str:
    """The command that trains on a prepared dataset."""
    return f"vlm2rec train --dataset {folder} {what} --output_dir runs/first"
