"""Access tokens must never reach a card."""

from __future__ import annotations

import html

from ..hub.tokens import holds_token


def refuse_tokens(text: str) -> str:
    """Return `text` as it is, unless it holds what looks like a Hub token or is the one in use (`holds_token`).

    Markdown and HTML escapes between a token's characters do not hide it.

    Raises:
        ValueError: there is one; the message names the line, not the token.
    """
    plain = html.unescape(text).replace("\\", "")
    if holds_token(text) or holds_token(plain):
        numbers = (n for n, line in enumerate(plain.split("\n"), start=1) if holds_token(line))
        raise ValueError(
            f"`text` holds what looks like an access token in line {next(numbers, '?')} (not repeated here). Remove "
            "it from the facts (names, repo ids, training arguments); if it was real, revoke it on the Hub."
        )
    return text
