"""Publish a dataset: one atomic commit, checked by loading it back, and only then a tag."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.fingerprint import dataset_fingerprint
from ..data.hub_card import license_of
from ..data.hub_files import (
    INFO_FILE,
    INTERACTIONS,
    ITEMS,
    QUARANTINE,
    read_repo_files,
    repo_configs,
    write_repo_files,
)
from ..hub.card_marks import CARD_FILE, check_readme, licence_in, may_write_card, read_card
from ..hub.commits import commit_files, is_at, make_tag, open_repo, tagged_commit, taken
from ..hub.errors import check_repo_id, check_tag, explained
from ..hub.files import file_if_there
from ..hub.tokens import holds_token
from .card import render_dataset_card
from .facts import DatasetFacts
from .licences import licence_fields
from .published import PublishedDataset

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..data.dataset import RecDataset

_PINNED = re.compile(r'revision="([^"]+)"')


def publish_dataset(
    dataset: RecDataset,
    repo_id: str,
    *,
    tag: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    license: str | None = None,
    card: str | None = None,
    readme: str = "write",
    readme_argument: str = "readme",
    max_shard_size: int | str = "500MB",
    quarantine: bool = True,
    verify: bool = True,
) -> PublishedDataset:
    """Publish a dataset; see `RecDataset.push_to_hub` for the arguments and errors.

    A tag that already names a commit with this dataset's fingerprint is left as it is, whatever the dataset was made
    from meanwhile; a `card` or `license` that the commit does not have is an error then. A licence that an earlier
    publication put into the card stays there until another one is given. `readme_argument` is what the caller knows
    `readme` as, for errors.
    """
    check_repo_id(repo_id)
    check_tag(tag)
    check_readme(readme_argument, readme)
    if card is not None and readme == "keep":
        raise ValueError("`card` is given, and `readme` 'keep' leaves the repo's README as it is; leave one out.")
    from huggingface_hub import HfApi

    api = HfApi(token=token)

    def published(commit: str, *, new: bool, ignored: str | None = None) -> PublishedDataset:
        return PublishedDataset(
            repo_id=repo_id,
            oid=commit,
            url=f"{api.endpoint}/datasets/{repo_id}/commit/{commit}",
            tag=tag,
            new=new,
            ignored=ignored,
            fingerprint=dataset.fingerprint,
        )

    # Asked before the work starts; `make_tag` asks again, should somebody be quicker.
    named = tagged_commit(api, repo_id, "dataset", tag) if tag is not None else None
    present = read_card(api, repo_id, "dataset", named or "main")
    if named is not None and tag is not None:
        if _recorded_fingerprint(api, repo_id, named) != dataset.fingerprint:
            raise taken(repo_id, tag, named)
        if card is None and (license is None or states_licence(present, license)):
            return published(named, new=False)
    text = card or _card(dataset, repo_id, tag, license, quarantine, present)
    with tempfile.TemporaryDirectory(prefix="rec-dataset-") as place:
        folder = Path(place, "repo")
        folder.mkdir()
        write_repo_files(
            dataset,
            folder,
            card=text,
            license=license if card else None,  # the rendered one states it already
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
            return published(named, new=False)
        head = open_repo(api, repo_id, "dataset", private)
        if not may_write_card(
            api, repo_id, "dataset", head, readme, argument=readme_argument, card=files[CARD_FILE].read_bytes()
        ):
            del files[CARD_FILE]
        message = message or f"Push {dataset!r}"
        commit = commit_files(api, repo_id, "dataset", head, files, _stale_files(head.files, files), message=message)
        if verify:
            _verify(dataset, repo_id, commit, token, Path(place, "downloaded"))
    if tag is not None:
        make_tag(api, repo_id, "dataset", tag, commit, f"Fingerprint {dataset.fingerprint}")
    ignored = ignored_licence(api, repo_id, "dataset", commit, license, "its card is kept as it is")
    return published(commit, new=commit != head.commit, ignored=ignored)


def _card(
    dataset: RecDataset, repo_id: str, tag: str | None, license: str | None, quarantine: bool, present: str
) -> str:
    """The card of a dataset; the present one where it says the same and only its snippets pin another version."""
    license = license or licence_in(present)  # what an earlier publication said still holds
    configs = repo_configs(dataset, quarantine)

    def render(revision: str | None) -> str:
        return render_dataset_card(DatasetFacts.from_dataset(dataset, repo_id, revision, license), configs)

    pinned = _PINNED.search(present)
    return present if pinned and render(pinned[1]) == present else render(tag)


def states_licence(card: str, license: str) -> bool:
    """Whether a card's front matter states this licence, under its own name or as the Hub would have it."""
    stated = license_of(card)
    return stated.get("license") == license or licence_fields(license).items() <= stated.items()


def ignored_licence(api: HfApi, repo_id: str, kind: str, commit: str, license: str | None, why: str) -> str | None:
    """That a licence which was asked for stands nowhere in the card of a commit, in words; None where it does."""
    if license is None or states_licence(read_card(api, repo_id, kind, commit), license):
        return None
    return f"`license` {license!r} changed nothing at {repo_id}: {why}"


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


def _stale_files(remote: Iterable[str], new: Iterable[str]) -> list[str]:
    """Data files of an earlier version; everything else in the repo is not ours to delete."""
    ours = (f"{INTERACTIONS}/", f"{ITEMS}/", f"{QUARANTINE}/")
    kept = set(new)
    return sorted(path for path in remote if path.startswith(ours) and path.endswith(".parquet") and path not in kept)


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


def _require_equal(dataset: RecDataset, fingerprint: str, where: str) -> None:
    if fingerprint != dataset.fingerprint:
        raise ValueError(f"The dataset has fingerprint {dataset.fingerprint}, but {fingerprint} {where}.")
