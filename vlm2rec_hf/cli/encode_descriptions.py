"""`vlm2rec encode-descriptions`: encode a dataset's item descriptions and texts, for `train --method dmesr`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import DataArguments
from .common import named_as_options, open_dataset, require
from .description_arguments import DescriptionArguments
from .parsing import check_options_early, parse
from .places import check_new


@dataclass
class OutputArguments:
    """Where the vectors go."""

    _argument_group_name = "output"

    output: str = field(default="", metadata={"help": "The safetensors file to write."})


def main(argv: Sequence[str]) -> None:
    """Run the command. The file names the encoder, its version, the columns and the dataset's fingerprint."""
    types = (DataArguments, DescriptionArguments, OutputArguments)
    check_options_early(argv, types)
    usage = "--dataset DATA --text_encoder MODEL --output FILE [options]"
    data, options, place = parse("encode-descriptions", __doc__ or "", types, argv, usage)
    output = check_new(require(place.output, "--output", "the safetensors file to write"), what="file")
    with named_as_options(text_encoder="--text_encoder"):
        encoded = options.encode(open_dataset(data))
    encoded.save(output)
    counts = ", ".join(
        f"{name} {int(number):,}"
        for name, number in zip(("text", "image", "both"), encoded.coarse_present.sum(dim=0), strict=True)
    )
    _, length, size = encoded.fine.shape
    print(
        f"{len(encoded):,} items, descriptions of {encoded.coarse.shape[2]} dimensions ({counts}), "
        f"up to {length} tokens of {size} -> {output}"
    )
