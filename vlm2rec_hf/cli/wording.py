"""Errors of Python functions in the words of the command line: options for arguments, and no advice to call things."""

from __future__ import annotations

import re
from collections.abc import Set

_ADVICE = (
    (r"`column_mapping=\{'([^']*)': '([^']*)'\}`", r"`--column_mapping '\1=\2'`"),
    (r", or read the tables yourself and use `RecDataset\.from_tables`", ", or give the files to `vlm2rec prepare`"),
    (r" For raw tables use `load_recsys`\.", ""),
    (r"; name a file, or use `load_recsys`\.", "; name a file."),
    (r"on_unknown='skip', or add them with `add_items`", "`--on_unknown skip`"),
    (
        r"call `leave_one_out\(\)` or `temporal_split\(\.\.\.\)` first",
        "split it with `--split leave_one_out` or `--split temporal:0.8,0.9`",
    ),
    (r"Pass `split_column=None` and split the dataset again", "Leave the column out and let `--split` do it"),
    (r"save (it|the dataset) again", r"write \1 again with `vlm2rec prepare`"),
    (r"unset it and try again", "unset it, or name a folder"),
)
"""Advice of Python errors, and what it is here."""
_ARGUMENT = re.compile(r"`(\w+)(=[^`]*)?`")
_AMBIGUOUS = ("interactions", "items", "text", "image", "title", "append")
"""Options that are also names of tables and columns."""


def in_command_words(text: str, options: Set[str]) -> str:
    """An error's text for somebody at the command line.

    Args:
        text: as raised; arguments in backticks.
        options: names of the command's options. A name that is none of them stays.
    """
    for advice, here in _ADVICE:
        text = re.sub(advice, here, text)

    def spelt(match: re.Match[str]) -> str:
        name, value = match[1], (match[2] or "")[1:].strip("'\"")
        if name not in options or name in _AMBIGUOUS:
            return match[0]
        return f"`--{name} {value}`" if value not in ("", "True") else f"`--{name}`"

    return _ARGUMENT.sub(spelt, text)
