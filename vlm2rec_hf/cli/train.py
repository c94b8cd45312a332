"""`vlm2rec train`: train a model by one of the methods; `--method` chooses, each has options of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

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
    import argparse

    import yaml

    from vlm2rec_hf.cli.common import check_config

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method")
    parser.add_argument("--config")
    known, _ = parser.parse_known_args(list(argv))
    if known.method is None and known.config is not None:
        check_config(Path(known.config))
        known.method = yaml.safe_load(Path(known.config).read_text(encoding="utf-8")).get("method")
    return known.method or "vlm2rec"
