"""What the Hub's refusals mean, in words a user can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .tokens import redact

_TAG = re.compile(r"(?!.*(\.\.|//|\.lock$|\.$|/$))[A-Za-z0-9][A-Za-z0-9._/+-]*")
_OTHERWISE_TAKEN = re.compile(r"main|head|refs(/.*)?|[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
LONGEST_OBEYED = 300.0  # seconds that a Hub may make a caller wait
ANSWERS_WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repo id, before anything is asked of the Hub.

    Raises:
        ValueError: not of the form `owner/name`, or with characters the Hub does not allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`repo_id` {repo_id!r} is no Hub id ('owner/name'): {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` {repo_id!r} names no owner; write 'owner/name'.")


def check_tag(tag: str | None) -> None:
    """Refuse what cannot be a tag, before anything is asked of the Hub.

    Raises:
        ValueError: not a name git takes, one that would need quoting somewhere, or one by which a branch or a commit
            may be meant.
    """
    if tag is not None and not _TAG.fullmatch(tag):
        raise ValueError(f"`tag` {tag!r} is no name for a tag; use letters, digits, '.', '_' and '-', such as 'v1.0'.")
    if tag is not None and _OTHERWISE_TAKEN.fullmatch(tag):
        raise ValueError(f"`tag` {tag!r} would be taken for a branch or a commit; use a name such as 'v1.0'.")


@contextmanager
def explained(repo_id: str, *, kind: str = "model", revision: str | None = None, what: str = "read") -> Iterator[None]:
    """Turn the client's errors about a repo into errors that name the argument and the remedy; never show a token.

    Args:
        repo_id: `owner/name`.
        kind: "model", "dataset" or "space".
        revision: what was asked for, for the message.
        what: "read" or "write".

    Raises:
        ValueError: what was asked for is wrong or not allowed; asking again will not help.
        ConnectionError: the Hub could not be reached, or answered that something is wrong with itself.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in (`hf auth login`) or pass a valid token"
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(f"`repo_id` {repo_id!r} is gated: ask for access on its page, then {log_in}.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"`repo_id` {repo_id!r}: the Hub has no such {kind}, or it is private and the token does not open it "
            f"({_status(error)}). Check the spelling, {log_in}."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"`revision` {revision!r}: the {kind} {repo_id!r} has no such branch, tag or commit; its page lists them."
        ) from error
    except OfflineModeIsEnabled as error:
        why = "HF_HUB_OFFLINE is set; unset it" if offline_is_asked_for() else "the Hub gives no answer; mend the line"
        raise ConnectionError(f"The {kind} {repo_id!r} cannot be reached: {why} and try again.") from error
    except HfHubHTTPError as error:
        raise _of_status(error, repo_id, kind, what, log_in) from error
    except Exception as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # an upload that fails for good: a RuntimeError names the file
            raise _of_status(error.__cause__, repo_id, kind, what, log_in) from error.__cause__
        if not is_connection_trouble(error):
            raise
        raise ConnectionError(
            f"The connection to the Hub failed while trying to {what} {repo_id!r} ({type(error).__name__}); try again."
        ) from error


def offline_is_asked_for() -> bool:
    """Whether the user set HF_HUB_OFFLINE (or its sibling), and not `reach.cache_alone_without_hub`."""
    wanted = (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").lower()
    return wanted in ("1", "true", "yes", "on")


def is_connection_trouble(error: BaseException) -> bool:
    """Whether an error is about the line to the Hub rather than about what was asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    # The client has changed its HTTP library (httpx, httpx2) and names none of its errors itself.
    library = any(each.__name__ == "TransportError" and each.__module__[:5] == "httpx" for each in type(error).__mro__)
    if library or isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError)):
        return True
    return isinstance(error, RuntimeError) and error.__cause__ is not None and is_connection_trouble(error.__cause__)


def is_worth_another_try(error: BaseException) -> bool:
    """Whether an error of `explained` may go away by itself, and that within `LONGEST_OBEYED`."""
    return isinstance(error, ConnectionError) and (wait_asked_for(error) or 0.0) <= LONGEST_OBEYED


def wait_asked_for(error: BaseException) -> float | None:
    """Seconds the Hub asked to wait (`Retry-After`), found on the error that an error of `explained` came from."""
    return _retry_after(error.__cause__)


def _retry_after(error: BaseException | None) -> float | None:
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "").strip() if response is not None else ""
    if re.fullmatch(r"[0-9]+", asked):
        return float(asked)
    try:  # the other form is a date
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    now = datetime.now(UTC)
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _of_status(error: BaseException, repo_id: str, kind: str, what: str, log_in: str) -> Exception:
    status = _status(error)
    if status == 401:
        return ValueError(f"`token`: the Hub does not know who wants to {what} {repo_id!r} (401); {log_in}.")
    if status == 403:
        return ValueError(
            f"`token` gives no right to {what} {repo_id!r} (403); use one that may {what} this owner's {kind}s."
        )
    if status in (409, 412):
        return ValueError(
            f"`repo_id` {repo_id!r} changed while this was under way ({status}); look at what is there now and try "
            "again."
        )
    if status in ANSWERS_WORTH_ANOTHER_TRY:
        asked = _retry_after(error)
        when = "later" if asked is None else f"in {asked:.0f} seconds, for which the Hub asks"
        return ConnectionError(f"The Hub could not {what} {repo_id!r} at the moment ({status}); try again {when}.")
    said = redact(str(getattr(error, "server_message", None) or error))
    return ValueError(f"The Hub refused to {what} {repo_id!r} ({status}): {said}")
