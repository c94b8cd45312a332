"""`vlm2rec prepare`: read, check, filter and split a dataset, and save it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .arguments import DataArguments
from .common import open_dataset, require, say
from .parsing import check_options_early, parse


@dataclass
class PrepareArguments:
    """Where the prepared dataset goes."""

    _argument_group_name = "output"

    output: str = field(default="", metadata={"help": "Folder to write."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a prepared dataset that is there."})
    check_images: bool = field(default=True, metadata={"help": "Decode every image once; broken ones are set aside."})


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    check_options_early(argv, (DataArguments, PrepareArguments))
    usage = "--dataset SOURCE --output DIR [options]"
    data, options = parse("prepare", __doc__ or "", (DataArguments, PrepareArguments), argv, usage)
    output = Path(require(options.output, "--output", "the folder to write"))
    dataset = open_dataset(data)
    if options.check_images:
        dataset = dataset.check_images()
    dataset.save(output, overwrite=options.overwrite)
    print(dataset.describe())
    say(f"Saved to {output}. Next: vlm2rec train --dataset {output} --tiny qwen2_vl --output_dir runs/first")
