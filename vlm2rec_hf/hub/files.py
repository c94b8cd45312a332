"""Single files of a Hub repo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import explained

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def file_if_there(
    api: HfApi,
    repo_id: str,
    name: str,
    *,
    kind: str,
    revision: str | None,
    cache_dir: str | Path | None = None,
    needs_repo: bool = True,
) -> Path | None:
    """Download a file, or `None` where the repo does not have it.

    Args:
        api: the client.
        repo_id: `owner/name`.
        name: path in the repo.
        kind: "model", "dataset" or "space".
        revision: tag, branch or commit.
        cache_dir: the client's own by default.
        needs_repo: whether a missing repo is an error, and not a missing file.

    Raises:
        ValueError: no such repo or revision, or no right to see it.
        ConnectionError: the Hub cannot be reached, which says nothing of the file.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    with explained(repo_id, kind=kind, revision=revision):
        try:
            return Path(api.hf_hub_download(repo_id, name, repo_type=kind, revision=revision, cache_dir=cache_dir))
        except LocalEntryNotFoundError:  # a kind of EntryNotFoundError that is about the line
            raise
        except EntryNotFoundError:
            return None
        except RepositoryNotFoundError:
            if needs_repo:
                raise
            return None
