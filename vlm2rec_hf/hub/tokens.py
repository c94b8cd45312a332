"""Tokens stay out of files, messages and cards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# After `hf_oauth_` and `hf_jwt_` comes a web token ("eyJ...", dots inside) or a random one, of digits and both cases;
# names of functions and files are neither.
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bapi_org_[A-Za-z0-9]{16,}"
    r"|\bhf_(?:oauth|jwt)_(?:eyJ[A-Za-z0-9_.-]{8,}"
    r"|(?=[A-Za-z_.-]{0,99}[0-9])(?=[A-Z0-9_.-]{0,99}[a-z])(?=[a-z0-9_.-]{0,99}[A-Z])"
    r"[A-Za-z0-9_.-]{20,})"
)
HIDDEN = "hf_***"


def holds_token(text: str, *known: str | None) -> bool:
    """Whether `text` holds something that looks like a Hub token, the one in use, or one of `known`."""
    return bool(_TOKEN.search(text)) or any(secret in text for secret in _secrets(known))


def redact(text: str, *known: str | None) -> str:
    """`text` with every token (see `holds_token`) replaced."""
    for secret in _secrets(known):
        text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)


@contextmanager
def logged_in(token: str | None) -> Iterator[None]:
    """Inside, the client takes a token for the one of `hf auth login`, as in a Space with a secret HF_TOKEN.

    Args:
        token: None changes nothing.
    """
    if token is None:
        yield
        return
    before = os.environ.get("HF_TOKEN")
    os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_TOKEN"]
        else:
            os.environ["HF_TOKEN"] = before


def _secrets(known: tuple[str | None, ...]) -> list[str]:
    """Tokens worth hiding: those given and the one the client would use; a very short one would match anything."""
    from huggingface_hub import get_token

    return sorted({secret for secret in (*known, get_token()) if secret and len(secret) >= 8}, key=len, reverse=True)
