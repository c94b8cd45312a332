"""What a server takes, and how much of it: limits, times, tokens, places."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
MIN_TOKEN = 16


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server; every default is our choice.

    Attributes:
        batch_wait_ms: how long a request waits for others to be encoded with.
        max_batch: requests per pass at most; 1 answers one by one.
        queue_size: requests that may wait; further ones are told to come again (503).
        deadline_s: a request that is not answered by then is given up (504).
        receive_s: a request's headers, and its body, must have arrived by then (408).
        max_body_mb: of one request.
        max_buffered_mb: bodies that are held at once.
        max_image_mb: of one image's file.
        max_pixels: of one image.
        max_new_items: items with text and image in one request.
        max_list: items in one list (`k`).
        history_memory_mb: for users' clicks; users whose clicks were not used for longest go first.
        kv_memory_mb: for what an embedder has read of users' histories (keys, values, image features), so that a click
            costs one item; users who were asked for longest ago go first; 0: histories are read anew for each list.
        history_length: newest clicks that are kept per user.
        shutdown_s: how long what was accepted may take after the signal to stop.
        state: folder of the clicks; None: they are gone with the process.
        token_file: file with a token a line; None: no token is asked for.
    """

    batch_wait_ms: float = 2.0
    max_batch: int = 32
    queue_size: int = 256
    deadline_s: float = 10.0
    receive_s: float = 10.0
    max_body_mb: float = 20.0
    max_buffered_mb: float = 200.0
    max_image_mb: float = 10.0
    max_pixels: int = 25_000_000
    max_new_items: int = 32
    max_list: int = 1000
    history_memory_mb: float = 256.0
    kv_memory_mb: float = 256.0
    history_length: int = 1000
    shutdown_s: float = 30.0
    state: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)):
                continue
            if name == "batch_wait_ms":
                if not 0 <= value <= 1000:
                    raise ValueError(f"`batch_wait_ms` must lie between 0 and 1000, got {value}.")
            elif name == "kv_memory_mb":
                if not value >= 0:
                    raise ValueError(f"`kv_memory_mb` must be at least 0, got {value}.")
            elif not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value}.")


class Tokens:
    """The tokens that open a server.

    Args:
        path: a text file, one token a line; blank lines and lines that begin with `#` are left out.

    Raises:
        ValueError: no such file, no token in it, or one of fewer than 16 characters.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"`token_file` {str(path)!r} cannot be read: {type(error).__name__}.") from error
        tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not tokens or min(map(len, tokens)) < MIN_TOKEN:
            raise ValueError(
                f"`token_file` {str(path)!r} must hold tokens of at least {MIN_TOKEN} characters, one a line; make "
                'one with `python -c "import secrets; print(secrets.token_urlsafe())"`.'
            )
        self._digests = [_digest(token.encode()) for token in tokens]

    def accept(self, header: bytes | None) -> bool:
        """Whether a request's `Authorization` header carries one of them; the time tells nothing about them."""
        kind, _, given = (header or b"").partition(b" ")
        digest = _digest(given.strip())
        fits = [hmac.compare_digest(digest, known) for known in self._digests]
        return kind.lower() == b"bearer" and any(fits)


def check_host(host: str, settings: ServerSettings, open_to_all: bool) -> None:
    """Refuse to listen to other machines without tokens, unless told to.

    Raises:
        ValueError: so it is.
    """
    if settings.token_file is None and not open_to_all and not _is_loopback(host):
        raise ValueError(
            f"`host` {host!r} can be reached from other machines, and no token is asked for; name a `token_file`, or "
            "say `open_to_all` where something in front of this server asks who is there."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
