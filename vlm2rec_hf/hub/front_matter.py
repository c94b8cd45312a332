"""The front matter of a card: the YAML between the two `---` lines at its top."""

from __future__ import annotations

from typing import Any


def front_matter(card: str, what: str) -> tuple[dict[str, Any], str]:
    """What a card declares, and the text below; only plain values are read.

    Args:
        card: the whole README.
        what: what it is, for the messages.

    Raises:
        ValueError: the front matter is no YAML mapping.
    """
    import yaml

    head, body = "", card
    if card.startswith("---\n"):
        parts = card.split("\n---", 1)
        if len(parts) != 2:
            raise ValueError(f"{what} opens a front matter with '---' and never closes it; add the second '---' line.")
        head, body = parts[0].removeprefix("---"), parts[1].removeprefix("\n")
    try:
        data = yaml.safe_load(head) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{what} has a front matter that is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{what} has a front matter of type {type(data).__name__}; it must hold `key: value` lines.")
    return data, body
