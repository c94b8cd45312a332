"""`vlm2rec train`: train a model by one of the methods; `--method` chooses, each has options of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from .parsing import option_of, with_underscores

METHODS = ("vlm2rec", "pixrec", "seqrec", "dmesr")
"""Each has a module `train_METHOD` of this package with a `main(argv)`."""


@dataclass
class MethodArguments:
    """Which method trains."""

    _argument_group_name = "method"

    method: str = field(
        default="vlm2rec",
        metadata={
            "help": "vlm2rec (an embedder), pixrec (an embedder that also generates), seqrec (SASRec, GRU4Rec or "
            "BERT4Rec over ids and item vectors) or dmesr (the same over descriptions). Each has options of its own: "
            "`vlm2rec train --method NAME --help`."
        },
    )


def main(argv: Sequence[str]) -> None:
    """Run the command of the method that the command line or the config file names.

    Raises:
        ValueError: an unknown method.
    """
    method = option_of(argv, "method") or MethodArguments.method
    if method not in METHODS:
        raise ValueError(f"`--method` must be one of {', '.join(METHODS)}, got {method!r}.")
    importlib.import_module(f"{__package__}.train_{method}").main(with_underscores(argv))
