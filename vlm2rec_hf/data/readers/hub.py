"""A dataset repo with the configs `interactions` and `items`, on the Hub or as a local folder."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...columns import IMAGE
from ...hub.card_marks import CARD_FILE
from ...hub.errors import check_repo_id, explained
from ...hub.files import file_if_there
from ..dataset import RecDataset
from ..fingerprint import dataset_fingerprint
from ..hub_files import INFO_FILE, INTERACTIONS, ITEMS, is_ours, read_info, read_repo_files
from ..hub_tables import HubTable, declared_tables, reader_options
from ..ingest import Source
from ..tables import to_arrow
from .jsonl import json_object, parse_lines

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

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
    and compared. Any other repo goes through `RecDataset.from_tables`. Either way `source` records repo and commit.

    Of a repo somebody else laid out, the card and the list of files are read first. The `data_files` of the configs
    `interactions` and `items` must be paths (or patterns) within the repo and end in `.parquet`, `.arrow`, `.csv`,
    `.tsv`, `.json`, `.jsonl` or `.ndjson` (texts also in `.gz` or `.zst`), of one kind per config; all else is refused
    before any of it is fetched: addresses, archives, pickles, folders of images. `datasets` is then handed the files
    and the reader by name, so that neither the card nor a file can make it choose another one. Of a config, `data_dir`
    and, for texts, separators and the like and `features` are heeded; its splits are put together in the card's order.

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

    Images stay encoded (`{bytes, path}`, for `vlm2rec_hf.data.images.decode_image`), so that no cell of a foreign
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
    base = path if commit is None else f"hf://datasets/{path}@{commit}"
    streams = {}
    for name, table in _tables(path, commit, token).items():
        files = [f"{glob.escape(base)}/{glob.escape(file)}" for file in table.files]
        with explained(path, kind="dataset", revision=revision):
            stream = datasets.load_dataset(
                table.reader, data_files=files, split="train", token=token, streaming=True, **reader_options(table)
            )
        streams[name] = stream.decode(False) if _decodes(stream.features or {}) else stream
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
            known = hf_hub_download(repo_id, CARD_FILE, repo_type="dataset", revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            known = None
        if known is None:
            raise
        commit = Path(known).parent.name
        logger.warning("The Hub cannot be reached; using commit %s of %s from the cache.", commit, repo_id)
        return commit


def _download(repo_id: str, revision: str | None, token: str | None) -> Path | None:
    """The files of a repo that was pushed by us; None for any other."""
    from huggingface_hub import HfApi, snapshot_download

    # By the revision as given, not by its commit: so the cache knows the name when the Hub is out of reach.
    path = file_if_there(HfApi(token=token), repo_id, INFO_FILE, kind="dataset", revision=revision)
    if path is None or not is_ours(path.parent):
        return None
    folder = path.parent
    with explained(repo_id, kind="dataset", revision=revision):
        # The names are patterns here; those that we write hold nothing that a pattern would take for a wildcard.
        wanted = [CARD_FILE, *read_info(folder / INFO_FILE)["files"]]
        snapshot_download(repo_id, repo_type="dataset", revision=folder.name, token=token, allow_patterns=wanted)
    return folder


def _pushed(folder: Path, source: Source | None) -> RecDataset:
    files = read_repo_files(folder)
    fingerprint = dataset_fingerprint(files.log, files.items)
    if fingerprint != files.fingerprint:
        where = f"{source['repo_id']!r} at commit {source['revision']}" if source else repr(str(folder))
        raise ValueError(
            f"The dataset {where} has fingerprint {fingerprint}, but its {INFO_FILE} records {files.fingerprint}: its "
            "files were changed after they were written. Name a sound version with `revision=`, or push it again."
        )
    # A local clone does not record which commit it holds.
    provenance = replace(files.provenance, source=source)
    dataset = RecDataset(files.log, files.items, files.quarantine, provenance)
    dataset.__dict__["fingerprint"] = fingerprint
    return dataset


def _tables(path: str, commit: str | None, token: str | None) -> dict[str, HubTable]:
    """The tables that a repo's card declares; of the repo, its card and its list of files are read, no more."""
    if commit is None:
        folder = Path(path)
        there = [entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file()]
        card = folder / CARD_FILE if CARD_FILE in there else None
    else:
        from huggingface_hub import hf_hub_download

        there = _list_files(path, commit, token)
        card = None
        if CARD_FILE in there:
            with explained(path, kind="dataset", revision=commit):
                card = Path(hf_hub_download(path, CARD_FILE, repo_type="dataset", revision=commit, token=token))
    text = "" if card is None else card.read_text(encoding="utf-8-sig", errors="replace")
    return declared_tables(text, there, path, (INTERACTIONS, ITEMS))


def _list_files(repo_id: str, commit: str, token: str | None) -> list[str]:
    """The paths of a commit; where the Hub cannot be reached, as `huggingface_hub` last listed them."""
    import huggingface_hub

    try:
        with explained(repo_id, kind="dataset", revision=commit):
            return list(
                huggingface_hub.HfApi(token=token).list_repo_files(repo_id, repo_type="dataset", revision=commit)
            )
    except ConnectionError:
        cached = getattr(huggingface_hub, "get_cached_repo_tree", None)  # since 2.0
        if cached is None:
            raise
        try:
            entries = cached(repo_id, repo_type="dataset", revision=commit)
        except huggingface_hub.errors.LocalEntryNotFoundError:
            entries = None
        if entries is None:
            raise
        return [entry.path for entry in entries]


def _from_configs(path: str, commit: str | None, token: str | None, kwargs: dict[str, Any]) -> RecDataset:
    """Read a repo as two plain tables."""
    from huggingface_hub import snapshot_download

    tables = _tables(path, commit, token)
    folder = Path(path)
    if commit is not None:
        wanted = [CARD_FILE, *(glob.escape(file) for table in tables.values() for file in table.files)]
        with explained(path, kind="dataset", revision=commit):
            folder = Path(
                snapshot_download(path, repo_type="dataset", revision=commit, token=token, allow_patterns=wanted)
            )
    rows = {name: _all_rows(table, folder, f"{name!r} of {path!r}") for name, table in tables.items()}
    events = rows[INTERACTIONS]
    kwargs.setdefault("name", Path(path).name)
    dataset = RecDataset.from_tables(events, rows.get(ITEMS), **kwargs)
    if commit is not None:
        dataset._provenance = replace(dataset._provenance, source={"repo_id": path, "revision": commit})
    return dataset


def _all_rows(table: HubTable, folder: Path, what: str) -> datasets.Dataset | pa.Table:
    import datasets

    files = [glob.escape(str(folder / file)) for file in table.files]
    try:
        # One Hub split: ours is a column, and all rows are wanted.
        whole = datasets.load_dataset(table.reader, data_files=files, split="train", **reader_options(table))
    except (datasets.exceptions.DatasetGenerationError, TypeError) as error:
        # A column of mixed types, which need not concern us, stops that reader: ours makes text of it.
        rows = _json_rows(table, folder)
        if rows is not None:
            return rows
        said = error.__cause__ or error
        raise ValueError(
            f"The table {what} cannot be read as {table.reader}: {said!r}. Read it yourself and use "
            "`RecDataset.from_tables`."
        ) from error
    if isinstance(whole.features.get(IMAGE), datasets.Image):
        whole = whole.cast_column(IMAGE, datasets.Image(decode=False))
    return whole


def _json_rows(table: HubTable, folder: Path) -> pa.Table | None:
    """The rows of files with a JSON object per line; None where they hold, or the card asks for, something else."""
    endings = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
    if table.reader != "json" or table.options or not all(file.endswith(endings) for file in table.files):
        return None
    parsed = [parse_lines(folder / file, json_object) for file in table.files]
    if any(bad for _, bad in parsed):
        return None
    return to_arrow([row for rows, _ in parsed for row in rows], "interactions")


def _decodes(features: Mapping[str, Any]) -> bool:
    return any(getattr(feature, "decode", False) for feature in features.values())
