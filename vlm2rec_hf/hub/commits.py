"""One publication is one commit on one parent, then one tag; both survive a Hub that stumbles.

The client repeats failed uploads by itself, but not the request that makes the commit: when its answer is lost nobody
knows whether the commit was made. Here that is found out by looking, and then the request is repeated or not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import explained, is_worth_another_try, wait_asked_for

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Head:
    """Where a branch stands.

    Attributes:
        commit: the commit's id.
        files: path to content hash: git's SHA-1 for a small file, SHA-256 for a large one.
    """

    commit: str
    files: Mapping[str, str]


def read_head(api: HfApi, repo_id: str, kind: str, revision: str = "main") -> Head:
    """The commit and files of a branch, tag or commit.

    Raises:
        ValueError: no such repo or revision, or no right to see it.
        ConnectionError: the Hub cannot be reached.
    """
    with explained(repo_id, kind=kind, revision=revision):
        commit = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=kind)
        files = {}
        for entry in tree:
            if (blob := getattr(entry, "blob_id", None)) is not None:
                lfs = getattr(entry, "lfs", None)
                files[entry.path] = lfs.sha256 if lfs is not None else blob
    return Head(str(commit), files)


def open_repo(api: HfApi, repo_id: str, kind: str, private: bool | None) -> Head:
    """Create the repo if there is none.

    Raises:
        ValueError: the token is missing, wrong, or may not write there, or a repo to be private is public.
        ConnectionError: the Hub cannot be reached.
    """
    with explained(repo_id, kind=kind, what="write"):
        sdk = "gradio" if kind == "space" else None  # the card says so, too; the Hub asks before it sees one
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise ValueError(
                f"`private` was asked for, but {repo_id!r} is public already; make it private on its settings page, "
                "or publish to another repo."
            )
    return read_head(api, repo_id, kind)


def tagged_commit(api: HfApi, repo_id: str, kind: str, tag: str) -> str | None:
    """The commit a tag names, `None` where there is no such tag (or no repo yet).

    Raises:
        ValueError: a branch has this name, or no right to see the repo.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with explained(repo_id, kind=kind):
        try:
            refs = api.list_repo_refs(repo_id, repo_type=kind)
        except RepositoryNotFoundError:
            return None
    if tag in {ref.name for ref in refs.branches}:
        raise ValueError(f"`tag` {tag!r} is the name of a branch of {repo_id!r}; choose another one.")
    # An annotated tag may be an object of its own: ask which commit it stands for.
    if tag not in {ref.name for ref in refs.tags}:
        return None
    with explained(repo_id, kind=kind, revision=tag):
        return str(api.repo_info(repo_id, repo_type=kind, revision=tag).sha)


def commit_files(
    api: HfApi,
    repo_id: str,
    kind: str,
    head: Head,
    files: Mapping[str, Path | bytes],
    deleted: Sequence[str] = (),
    *,
    message: str,
) -> str:
    """Put `files` onto `head` and delete others, in one commit.

    Args:
        api: the client.
        repo_id: `owner/name`.
        kind: "model", "dataset" or "space".
        head: where main stood when this publication was prepared; the commit's parent.
        files: path in the repo to a local file or content.
        deleted: paths of `head` that must go.
        message: the commit's message.

    Returns:
        The id of the commit that holds the files (`head.commit` where nothing had changed).

    Raises:
        ValueError: refused, or main moved meanwhile; nothing was committed.
        ConnectionError: the Hub kept failing, or asks to wait longer than `LONGEST_OBEYED`; nothing was committed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    hashes = {path: content_hashes(content) for path, content in files.items()}
    if _holds(head.files, hashes, deleted):
        return head.commit

    def commit() -> str:
        adds = [
            CommitOperationAdd(
                path_in_repo=path, path_or_fileobj=content if isinstance(content, bytes) else str(content)
            )
            for path, content in files.items()
        ]
        drops = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in deleted]
        made = api.create_commit(
            repo_id, [*adds, *drops], commit_message=message, repo_type=kind, parent_commit=head.commit
        )
        return str(made.oid)

    def made_before(error: Exception) -> str | None:
        """Even a refusal may be the echo of a commit of ours whose answer was lost."""
        now = _look_again(api, repo_id, kind)
        if now is None or now.commit == head.commit:
            return None
        if _holds(now.files, hashes, deleted):
            return now.commit
        raise ValueError(
            f"`repo_id` {repo_id!r} got another commit ({now.commit[:8]}) while this one was prepared on "
            f"{head.commit[:8]}; nothing was published. Look at what is there now, then publish again."
        ) from error

    return _persist(repo_id, kind, commit, made_before)


def is_at(api: HfApi, repo_id: str, kind: str, commit: str, files: Mapping[str, Path | bytes]) -> bool:
    """Whether a commit already holds exactly these files (and perhaps others)."""
    head = read_head(api, repo_id, kind, commit)
    return _holds(head.files, {path: content_hashes(content) for path, content in files.items()}, ())


def make_tag(api: HfApi, repo_id: str, kind: str, tag: str, commit: str, message: str) -> None:
    """Name `commit`; a tag that already names it is left as it is.

    Raises:
        ValueError: the tag names another commit, or is no valid name.
        ConnectionError: the Hub kept failing, or asks to wait longer than `LONGEST_OBEYED`.
    """

    def name() -> str:
        api.create_tag(repo_id, tag=tag, revision=commit, tag_message=message, repo_type=kind)
        return commit

    def named_before(error: Exception) -> str | None:
        try:
            now = tagged_commit(api, repo_id, kind, tag)
        except ConnectionError:
            return None  # the error that led here says more, and is raised in the end
        if now not in (None, commit):
            raise taken(repo_id, tag, str(now)) from error
        return now

    _persist(repo_id, kind, name, named_before)


def _persist(repo_id: str, kind: str, write: Callable[[], str], done_before: Callable[[Exception], str | None]) -> str:
    """Write to the Hub, again and again while that may help.

    Args:
        repo_id: `owner/name`.
        kind: "model", "dataset" or "space".
        write: does it and tells the commit.
        done_before: looks, after a failure, whether it was done all the same; tells the commit or `None`, or raises
            what makes another try pointless.

    Raises:
        ValueError: refused.
        ConnectionError: the Hub kept failing.
    """
    attempt = 1
    while True:
        try:
            with explained(repo_id, kind=kind, what="write"):
                return write()
        except (ValueError, ConnectionError) as error:
            if (commit := done_before(error)) is not None:
                return commit
            if attempt == ATTEMPTS or not is_worth_another_try(error):
                raise
            time.sleep(wait_asked_for(error) or min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT))
            attempt += 1


def taken(repo_id: str, tag: str, commit: str) -> ValueError:
    """The error of a tag that names something else."""
    return ValueError(
        f"`tag` {tag!r} already names commit {commit[:8]} of {repo_id!r}, and a tag is never moved: users rely on it. "
        "Choose another one."
    )


def content_hashes(content: Path | bytes) -> set[str]:
    """The hashes the Hub may know a file by: SHA-256 (large files) and git's SHA-1 (small ones)."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    large, small = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in _chunks(content):
        large.update(chunk)
        small.update(chunk)
    return {large.hexdigest(), small.hexdigest()}


def _chunks(content: Path | bytes) -> Iterable[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _holds(remote: Mapping[str, str], hashes: Mapping[str, set[str]], deleted: Iterable[str]) -> bool:
    """Whether a commit already is what we want to publish."""
    same = all(remote.get(path) in known for path, known in hashes.items())
    return same and not any(path in remote for path in deleted)


def _look_again(api: HfApi, repo_id: str, kind: str) -> Head | None:
    """Where main stands now; `None` where that cannot be told either."""
    try:
        return read_head(api, repo_id, kind)
    except (ValueError, ConnectionError):
        return None  # the error that led here says more, and is raised
