"""A dataset repo with the configs `interactions` and `items`, on the Hub or as a local folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2rec_hf.columns import IMAGE
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.fingerprint import dataset_fingerprint
from vlm2rec_hf.data.hub_files import INFO_FILE, INTERACTIONS, ITEMS, is_ours, read_info, read_repo_files
from vlm2rec_hf.data.ingest import Source
from vlm2rec_hf.data.interaction_log import SPLIT
from vlm2rec_hf.hub.errors import check_repo_id, explained

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


def matches(folder: Path) -> bool:
    """Whether a local folder looks like a dataset repo: its card declares the config `interactions`."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    head = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    return len(head) == 3 and "config_name: interactions" in head[1]


def read_hub(path: str | Path, *, revision: str | None = None, token: str | None = None, **kwargs: Any) -> RecDataset:
    """Read a dataset repo.

    What `RecDataset.push_to_hub` pushed comes back whole: split, steps, quarantine, name; its fingerprint is computed
    and compared. Any other repo goes through `RecDataset.from_tables`. Either way `source` tells repo and commit.

    Args:
        path: `owner/name` on the Hub, or a local folder with a card that declares the configs.
        revision: branch, tag or commit; name one to get the same data for ever.
        token: access token for private repos; the one you are logged in with by default.
        **kwargs: passed to `RecDataset.from_tables`, so that a repo of ours is read as plain tables too. A column
            `split` of the interactions is taken over by default.

    Raises:
        ValueError: no such repo or revision, no right to read it, no config `interactions`, a file missing or
            changed.
        ConnectionError: the Hub cannot be reached and the revision is not in the cache.
    """
    if Path(path).is_dir():
        if revision is not None:
            raise ValueError(f"`revision` = {revision!r} applies to Hub repos; {str(path)!r} is a local folder.")
        if not kwargs and is_ours(Path(path)):
            return _pushed(Path(path), None)
        return _from_configs(str(path), None, None, kwargs)
    repo_id = str(path)
    check_repo_id(repo_id)
    commit = resolve_commit(repo_id, revision, token)
    if not kwargs:
        folder = _download(repo_id, revision, token)
        if folder is not None:
            # A snapshot lies in a folder named by its commit.
            return _pushed(folder, {"repo_id": repo_id, "revision": folder.name})
    return _from_configs(repo_id, commit, token, kwargs)


def stream_hub(
    path: str | Path, *, revision: str | None = None, token: str | None = None
) -> dict[str, datasets.IterableDataset]:
    """The tables of a dataset repo as streams: nothing is downloaded before it is asked for.

    Pictures stay encoded (`{bytes, path}`, for `vlm2rec_hf.data.images.decode_image`), so that no cell of a foreign
    repo makes this process open a file or an address. `datasets.load_dataset(path, "items", streaming=True)` decodes.

    Args:
        path: as in `read_hub`.
        revision: likewise; it is resolved once, so that both streams are of one commit.
        token: likewise.

    Returns:
        `interactions` (all splits one after another, with the column `split`: 0, 1, 2) and, where there are any,
        `items`. `RecDataset.from_tables` takes them; with `split_column="split"` the fingerprint is the repo's.

    Raises:
        ValueError: as `read_hub`.
        ConnectionError: likewise.
    """
    import datasets

    path, commit = str(path), None
    if Path(path).is_dir():
        if revision is not None:
            raise ValueError(f"`revision` = {revision!r} applies to Hub repos; {path!r} is a local folder.")
    else:
        check_repo_id(path)
        commit = resolve_commit(path, revision, token)
    names = _configs(path, commit, token)
    streams = {}
    for name in (INTERACTIONS, ITEMS):
        if name in names:
            with explained(path, kind="dataset", revision=revision):
                loaded = datasets.load_dataset(path, name, revision=commit, token=token, streaming=True)
            stream = datasets.concatenate_datasets(list(loaded.values()))
            streams[name] = stream.decode(False) if stream.features is None or _decodes(stream.features) else stream
    return streams


def resolve_commit(repo_id: str, revision: str | None, token: str | None = None) -> str:
    """The commit that a branch, tag or commit id names now; offline, what the cache last knew.

    Raises:
        ValueError: no such repo or revision, or no right to read it.
        ConnectionError: the Hub cannot be reached, and the cache does not know the revision.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with explained(repo_id, kind="dataset", revision=revision):
            sha = HfApi(token=token).dataset_info(repo_id, revision=revision).sha
            assert sha is not None
            return sha
    except ConnectionError:
        try:
            known = hf_hub_download(
                repo_id, "README.md", repo_type="dataset", revision=revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            known = None
        if known is None:
            raise
        commit = Path(known).parent.name
        logger.warning("The Hub cannot be reached; using commit %s of %s from the cache.", commit, repo_id)
        return commit


def _download(repo_id: str, revision: str | None, token: str | None) -> Path | None:
    """The files of a repo that was pushed by us; None for any other."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with explained(repo_id, kind="dataset", revision=revision):
        try:
            # By the revision as given, not by its commit: so the cache knows the name when the Hub is out of reach.
            path = hf_hub_download(repo_id, INFO_FILE, repo_type="dataset", revision=revision, token=token)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            return None
        folder = Path(path).parent
        if not is_ours(folder):
            return None
        # The names are patterns here; those that we write hold nothing that a pattern would take for a wildcard.
        wanted = ["README.md", *read_info(folder / INFO_FILE)["files"]]
        snapshot_download(repo_id, repo_type="dataset", revision=folder.name, token=token, allow_patterns=wanted)
    return folder


def _pushed(folder: Path, source: Source | None) -> RecDataset:
    files = read_repo_files(folder)
    found = dataset_fingerprint(files.log, files.items)
    if found != files.fingerprint:
        where = f"{source['repo_id']!r} at commit {source['revision']}" if source else repr(str(folder))
        raise ValueError(
            f"The dataset {where} has fingerprint {found}, but its {INFO_FILE} records {files.fingerprint}: its files "
            "were changed after they were written. Name a sound version with `revision=`, or push it again."
        )
    # A local clone is of a repo, but of which commit it does not tell.
    provenance = replace(files.provenance, source=source)
    dataset = RecDataset(files.log, files.items, files.quarantine, provenance)
    dataset.__dict__["fingerprint"] = found
    return dataset


def _configs(path: str, commit: str | None, token: str | None) -> list[str]:
    import datasets

    try:
        with explained(path, kind="dataset", revision=commit):
            names = datasets.get_dataset_config_names(path, revision=commit, token=token)
    except ConnectionError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"The dataset {path!r} (`revision` = {commit!r}) cannot be read: {error}") from error
    if INTERACTIONS not in names:
        raise ValueError(f"The dataset {path!r} has the configs {names}; it needs `{INTERACTIONS}` (and `{ITEMS}`).")
    return names


def _from_configs(path: str, commit: str | None, token: str | None, kwargs: dict[str, Any]) -> RecDataset:
    """Read a repo as two plain tables."""
    names = _configs(path, commit, token)
    events = _all_rows(path, INTERACTIONS, commit, token)
    items = _all_rows(path, ITEMS, commit, token) if ITEMS in names else None
    kwargs.setdefault("name", Path(path).name)
    kwargs.setdefault("split_column", SPLIT if SPLIT in events.column_names else None)
    dataset = RecDataset.from_tables(events, items, **kwargs)
    if commit is not None:
        dataset._provenance = replace(dataset._provenance, source={"repo_id": path, "revision": commit})
    return dataset


def _all_rows(path: str, config: str, commit: str | None, token: str | None) -> datasets.Dataset:
    import datasets

    with explained(path, kind="dataset", revision=commit):
        loaded = datasets.load_dataset(path, config, revision=commit, token=token)
    # Files of a config may be laid out as several Hub splits; our own split is a column.
    whole = datasets.concatenate_datasets(list(loaded.values()))
    if isinstance(whole.features.get(IMAGE), datasets.Image):
        whole = whole.cast_column(IMAGE, datasets.Image(decode=False))
    return whole


def _decodes(features: Mapping[str, Any]) -> bool:
    return any(getattr(feature, "decode", False) for feature in features.values())
