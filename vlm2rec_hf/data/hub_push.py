"""Publish a dataset: one atomic commit, checked by loading it back, and only then a tag."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub.card_marks import CARD_FILE, check_readme, may_write_card, read_card
from ..hub.card_marks import is_ours as is_our_card
from ..hub.commits import commit_files, is_at, make_tag, open_repo, tagged_commit, taken
from ..hub.errors import check_repo_id, check_tag, explained
from ..hub.files import file_if_there
from ..hub.tokens import holds_token
from .fingerprint import dataset_fingerprint
from .hub_card import license_of
from .hub_files import INFO_FILE, INTERACTIONS, ITEMS, QUARANTINE, read_repo_files, write_repo_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .dataset import RecDataset


@dataclass(frozen=True)
class PushedDataset:
    """What a push made.

    Attributes:
        repo_id: `owner/name`.
        oid: the commit, 40 hexadecimal digits; as `revision=` it gives this dataset for ever.
        url: address of the commit.
        tag: the tag that names it, or None.
        fingerprint: of the content.
    """

    repo_id: str
    oid: str
    url: str
    tag: str | None
    fingerprint: str


def push_dataset(
    dataset: RecDataset,
    repo_id: str,
    *,
    tag: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    card: str | None = None,
    readme: str = "write",
    max_shard_size: int | str = "500MB",
    quarantine: bool = True,
    verify: bool = True,
) -> PushedDataset:
    """Push a dataset; see `RecDataset.push_to_hub` for the arguments and errors.

    A tag that already names a commit with this dataset's fingerprint is left as it is, whatever the dataset was made
    from meanwhile; a `card` or `license` that the commit does not have is an error then. A licence that an earlier
    push put into the card stays there until another one is given.
    """
    check_repo_id(repo_id)
    check_tag(tag)
    check_readme("readme", readme)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    # Asked before the work starts; `make_tag` asks again, should somebody be quicker.
    named = tagged_commit(api, repo_id, "dataset", tag) if tag is not None else None
    there = read_card(api, repo_id, "dataset", named or "main")
    if named is not None and tag is not None:
        if _recorded_fingerprint(api, repo_id, named) != dataset.fingerprint:
            raise taken(repo_id, tag, named)
        if card is None and license in (None, license_of(there)):
            return PushedDataset(repo_id, named, _url(api, repo_id, named), tag, dataset.fingerprint)
    if card is None and license is None and is_our_card(there):
        license = license_of(there)  # what an earlier push said still holds
    with tempfile.TemporaryDirectory(prefix="rec-dataset-") as place:
        folder = Path(place, "repo")
        folder.mkdir()
        write_repo_files(
            dataset,
            folder,
            repo_id,
            card=card,
            license=license,
            max_shard_size=max_shard_size,
            quarantine=quarantine,
        )
        if holds_token((folder / CARD_FILE).read_text(encoding="utf-8"), token):
            raise ValueError("`card` holds what looks like a Hub token; take it out (and revoke it).")
        # Before anything leaves this machine: a column whose type parquet cannot hold would show here.
        _require_equal(dataset, _fingerprint_of(folder, Path(place, "cache")), "as parquet files; nothing was pushed")
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        if named is not None and tag is not None:
            if not is_at(api, repo_id, "dataset", named, {CARD_FILE: files[CARD_FILE]}):
                raise taken(repo_id, tag, named)
            return PushedDataset(repo_id, named, _url(api, repo_id, named), tag, dataset.fingerprint)
        head = open_repo(api, repo_id, "dataset", private)
        if not may_write_card(
            api, repo_id, "dataset", head, readme, argument="readme", card=files[CARD_FILE].read_bytes()
        ):
            del files[CARD_FILE]
        message = commit_message or f"Push {dataset!r}"
        oid = commit_files(api, repo_id, "dataset", head, files, _stale, message=message)
        if verify:
            _verify(dataset, repo_id, oid, token, Path(place, "downloaded"))
    if tag is not None:
        make_tag(api, repo_id, "dataset", tag, oid, f"Fingerprint {dataset.fingerprint}")
    return PushedDataset(repo_id, oid, _url(api, repo_id, oid), tag, dataset.fingerprint)


def _recorded_fingerprint(api: HfApi, repo_id: str, commit: str) -> str | None:
    """What `dataset.json` of a commit records, which loading it compares with its rows; None where there is none."""
    with tempfile.TemporaryDirectory() as cache:
        path = file_if_there(api, repo_id, INFO_FILE, kind="dataset", revision=commit, cache_dir=cache)
        if path is None:
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        info = json.loads(text)
    except ValueError:  # somebody else's file of this name
        return None
    return info.get("fingerprint") if isinstance(info, dict) else None


def _url(api: HfApi, repo_id: str, oid: str) -> str:
    return f"{api.endpoint}/datasets/{repo_id}/commit/{oid}"


def _stale(remote: Iterable[str], new: Iterable[str]) -> list[str]:
    """Data files of an earlier version; everything else in the repo is not ours to delete."""
    ours = (f"{INTERACTIONS}/", f"{ITEMS}/", f"{QUARANTINE}/")
    kept = set(new)
    return sorted(p for p in remote if p.startswith(ours) and p.endswith(".parquet") and p not in kept)


def _verify(dataset: RecDataset, repo_id: str, oid: str, token: str | None, cache: Path) -> None:
    """Download the commit into an empty cache, as a stranger would, and compare."""
    from huggingface_hub import snapshot_download

    with explained(repo_id, kind="dataset", revision=oid):
        folder = snapshot_download(repo_id, repo_type="dataset", revision=oid, token=token, cache_dir=cache / "hub")
    _require_equal(
        dataset,
        _fingerprint_of(Path(folder), cache / "datasets"),
        f"at commit {oid} of {repo_id!r}; no tag was made. Push again, or go back to the commit before",
    )


def _fingerprint_of(folder: Path, cache: Path) -> str:
    files = read_repo_files(folder, cache_dir=cache)
    return dataset_fingerprint(files.log, files.items)


def _require_equal(dataset: RecDataset, found: str, where: str) -> None:
    if found != dataset.fingerprint:
        raise ValueError(f"The dataset has fingerprint {dataset.fingerprint}, but {found} {where}.")
