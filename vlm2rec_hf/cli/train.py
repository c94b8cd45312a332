"""`vlm2rec train`: train a model by one of the methods; `--method` chooses, each has options of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

METHODS = {"vlm2rec": "train_vlm2rec", "pixrec": "train_pixrec", "dmesr": "train_dmesr"}
"""`--method` -> module of this package with a `main(argv)`."""


def main(argv: Sequence[str]) -> None:
    """Run the command of the method that the command line or the config file names.

    Raises:
        ValueError: an unknown method.
    """
    method = chosen_method(argv)
    if method not in METHODS:
        raise ValueError(f"`--method` must be one of {sorted(METHODS)}, got {method!r}.")
    importlib.import_module(f"vlm2rec_hf.cli.{METHODS[method]}").main(argv)


def chosen_method(argv: Sequence[str]) -> str:
    """`--method` of a command line, else `method:` of its `--config` file, else "vlm2rec"."""
    from .common import given

    return given(argv, "method")["method"] or "vlm2rec"
