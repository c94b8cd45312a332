"""`vlm2rec describe`: let a vision-language model write three descriptions of each item into a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import DataArguments, check_at_least
from .common import open_dataset, require, say
from .parsing import check_options_early, parse
from .places import check_new


@dataclass
class DescribeArguments:
    """Which model writes, how, and where the dataset with the descriptions goes."""

    _argument_group_name = "description"

    model: str = field(default="", metadata={"help": "Folder or Hub id of an image-text-to-text model."})
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    model_dtype: str = field(default="auto", metadata={"help": "Weights' dtype: auto, float32, bfloat16, float16."})
    output: str = field(default="", metadata={"help": "Folder of the new dataset."})
    prompts: str | None = field(default=None, metadata={"help": "YAML file with text, image and both."})
    describe_batch_size: int = field(default=8, metadata={"help": "Items per forward pass."})
    max_new_tokens: int = field(default=96, metadata={"help": "Length of a description at most."})
    do_sample: bool = field(default=False, metadata={"help": "Sample instead of taking the likeliest token."})
    temperature: float = field(default=0.7, metadata={"help": "Of the sampling."})
    top_p: float = field(default=0.95, metadata={"help": "Share of the probability that is sampled from."})
    seed: int = field(default=0, metadata={"help": "Of the sampling."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "describe_batch_size")


def main(argv: Sequence[str]) -> None:
    """Run the command.

    Until the dataset is whole, `OUTPUT.work` holds what has been written; the same command goes on from there.
    """
    from ..descriptions.describe import COLUMNS, describe_items
    from ..descriptions.describer import Writing, load_describer
    from ..descriptions.prompts import load_prompts
    from ..loading import model_version

    check_options_early(argv, (DataArguments, DescribeArguments))
    usage = "--dataset DATA --model VLM --output DIR [options]"
    data, options = parse("describe", __doc__ or "", (DataArguments, DescribeArguments), argv, usage)
    output = check_new(require(options.output, "--output", "the folder of the new dataset"))
    require(options.model, "--model", "a folder or Hub id of an image-text-to-text model")
    writing = Writing(options.max_new_tokens, options.do_sample, options.temperature, options.top_p, options.seed)
    prompts = load_prompts(options.prompts)
    dataset = open_dataset(data)
    describer = load_describer(
        options.model,
        revision=options.model_revision,
        dtype=options.model_dtype,
        prompts=prompts,
        writing=writing,
    )
    work = output.with_name(f"{output.name}.work")
    described = describe_items(
        dataset,
        describer,
        work,
        model=options.model,
        revision=model_version(options.model, options.model_revision),
        batch_size=options.describe_batch_size,
        show_progress=True,
    )
    described.save(output)
    shutil.rmtree(work)
    step = described.steps[-1]
    written = ", ".join(f"{step[f'with_{name}']:,} {name}" for name in COLUMNS.values())
    say(f"{described.n_items:,} items: {written}; {step['failed']:,} failed (see the dataset's quarantine).")
    print(output)
