"""Publish a model folder: one commit, loaded back and compared, and only then a tag."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.card_marks import CARD_FILE, check_readme, is_ours, licence_in, marked, may_write_card, read_card
from ..hub.commits import Head, commit_files, is_at, make_tag, open_repo, tagged_commit, taken
from ..hub.errors import check_repo_id, check_tag, explained
from ..hub.tokens import holds_token, redact
from .model_card import render_model_card
from .model_folder import REPORT_FILE, TRAINING_FILE, json_bytes, publishable, read_json
from .model_kinds import kind_of
from .probes import largest_difference
from .publishable_files import ModelFiles, find_model_files, stale_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOLERANCE = 1e-5
_TEXT = (".json", ".md", ".py", ".txt", ".jinja")


@dataclass(frozen=True)
class Published:
    """What `publish_model` did.

    Attributes:
        repo_id: `owner/name`.
        oid: the commit that holds the model, 40 hexadecimal digits.
        tag: the tag that names it, if one was asked for.
        url: the page of that version.
        files: what was published.
        left_out: what of the folder was not.
        removed: files of an earlier version that this one deleted.
        difference: largest difference between the folder's vectors and those of the published copy, `None` where
            that was not checked.
        new: whether there was anything to commit.
    """

    repo_id: str
    oid: str
    tag: str | None
    url: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    removed: tuple[str, ...]
    difference: float | None
    new: bool


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    tag: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    license: str | None = None,
    card: str = "write",
    method: str | None = None,
    verify: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Published:
    """Publish a saved embedder, adapter or head.

    The folder is read, never written to. All files travel in one commit whose parent is what main was when the
    publication began; files of an earlier version that would be loaded beside the new ones go in the same commit. The
    commit is then downloaded afresh, loaded, and its vectors compared with the folder's; the tag comes last, so that a
    tag always names a version that was seen to work. Doing it again after a failure is safe.

    Args:
        folder: what `save_pretrained` or a trainer wrote.
        repo_id: `owner/name`; created if there is none.
        tag: name of the version, such as `"v1.0"`. Tags are never moved.
        private: whether a new repo is private; the account's default otherwise.
        token: with the right to write there; by default the one of `hf auth login`.
        message: of the commit.
        license: of the weights; by default that of an earlier card of this package in the folder or the repo, else
            that of the base model.
        card: `"write"`: publish the folder's README.md if a person wrote it, else render one, but refuse to replace
            one in the repo that a person wrote or changed; `"replace"`: render one in any case; `"keep"`: leave the
            repo's as it is.
        method: which method of the evaluation's report this is, where it holds several and `training.json` does not
            tell.
        verify: load the published copy back and compare.
        say: told of every step.

    Raises:
        ValueError: the folder is not whole, a file holds a token, an adapter's base is not on the Hub, the tag names
            something else, the Hub refuses, main moved meanwhile, or the published copy gives other vectors.
        ConnectionError: the Hub cannot be reached or keeps failing.
    """
    from huggingface_hub import HfApi

    check_readme("card", card)
    check_repo_id(repo_id)
    check_tag(tag)
    found = find_model_files(Path(folder))
    contents = _contents(found, repo_id)
    _refuse_tokens(contents, token)
    before = kind_of(found.model_type).probe(str(folder), {"token": token}) if verify else None
    api = HfApi(token=token)
    named = tagged_commit(api, repo_id, "model", tag) if tag else None
    if tag and named and not is_at(api, repo_id, "model", named, contents):
        raise taken(repo_id, tag, named)
    if named:
        head, commit = Head(named, {}), named
    else:
        card_text = None
        if card != "keep":  # rendered before anything is made on the Hub
            card_text = _card(api, found, repo_id, tag, license, method, replace=card == "replace")
            _refuse_tokens({CARD_FILE: card_text}, token)
        head = open_repo(api, repo_id, "model", private)
        if card_text and may_write_card(api, repo_id, "model", head, card, argument="card", card=card_text):
            contents[CARD_FILE] = card_text
        say(f"Uploading {len(contents)} files to {repo_id} ...")
        message = message or f"Publish {tag or found.model_type}"
        commit = commit_files(api, repo_id, "model", head, contents, stale_files, message=message)
    new, difference = commit != head.commit, None
    if before is not None:
        say(f"Loading {repo_id} at {commit[:8]} back ...")
        difference = _compare(before, found, repo_id, commit, token)
    if tag and not named:
        make_tag(api, repo_id, "model", tag, commit, message or f"Version {tag}")
    return Published(
        repo_id=repo_id,
        oid=commit,
        tag=tag,
        url=f"{api.endpoint}/{repo_id}/tree/{tag or commit}",
        files=tuple(sorted(contents)),
        left_out=found.left_out,
        removed=tuple(stale_files(head.files, contents)) if new else (),
        difference=difference,
        new=new,
    )


def _contents(found: ModelFiles, repo_id: str) -> dict[str, Path | bytes]:
    """Path in the repo to file or content; an adapter's configuration is rewritten in memory."""
    contents: dict[str, Path | bytes] = {name: found.folder / name for name in found.published}
    if found.adapter is not None:
        base = found.config.get("base_model")
        if not base:
            raise ValueError(
                f"`folder` {str(found.folder)!r} holds an adapter on "
                f"{found.adapter.get('base_model_name_or_path')!r}, which is no model on the Hub, so nobody else "
                "could load it. Publish the base first and train on it, or merge the adapter (`vlm2rec merge`), then "
                "publish the whole model."
            )
        # `AutoModel.from_pretrained` follows this name. It must come back to this repo, whose config.json names base
        # and commit; the base's own name would lose the commit, and make a bare backbone of it.
        adapter = {**found.adapter, "base_model_name_or_path": repo_id, "revision": None}
        contents["adapter_config.json"] = json_bytes(adapter)
    for name in (TRAINING_FILE, REPORT_FILE):
        if name in contents:
            contents[name] = json_bytes(publishable(read_json(found.folder / name), nulls=True))
    return contents | kind_of(found.model_type).contents(found.folder, found.published, found.config)


def _refuse_tokens(contents: Mapping[str, Path | bytes], token: str | None) -> None:
    for name, content in contents.items():
        if not name.endswith(_TEXT):
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        if holds_token(text, token):
            raise ValueError(f"`folder`: {name} holds what looks like a Hub token; take it out (and revoke it).")


def _card(
    api: HfApi,
    found: ModelFiles,
    repo_id: str,
    tag: str | None,
    license: str | None,
    method: str | None,
    *,
    replace: bool,
) -> bytes:
    """The README to publish: the folder's if a person wrote it, else a new one."""
    local = found.folder / CARD_FILE
    text = local.read_text(encoding="utf-8") if local.is_file() else ""
    if text and not is_ours(text) and not replace:
        return text.encode()
    license = license or licence_in(text) or licence_in(read_card(api, repo_id, "model"))
    return marked(render_model_card(found.folder, repo_id, tag, license=license, method=method, api=api)).encode()


def _compare(before: dict[str, Any], found: ModelFiles, repo_id: str, commit: str, token: str | None) -> float:
    """Download a commit into a cache of its own, load it, and compare its answers with the folder's."""
    from huggingface_hub import snapshot_download

    stands = f"Published as {repo_id}@{commit[:8]}, but not tagged, because that copy could not be loaded back"
    try:
        with tempfile.TemporaryDirectory() as cache, explained(repo_id, revision=commit):
            # By its path: a folder of the repo's name in the working directory would be loaded in its stead.
            copy = snapshot_download(repo_id, revision=commit, token=token, cache_dir=cache)
            after = kind_of(found.model_type).probe(copy, {"token": token})
    except (OSError, ConnectionError) as error:  # transformers wraps whatever happens on the line into an OSError
        raise ConnectionError(f"{stands}: {redact(str(error), token)}. Publish again to check and tag it.") from error
    except ValueError as error:
        raise ValueError(f"{stands}: {redact(str(error), token)}") from error
    difference = largest_difference(before, after)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"`folder` {str(found.folder)!r}: the copy published as {repo_id}@{commit[:8]} gives other vectors "
            f"(difference {difference:.3g}, allowed {TOLERANCE:g}). It was not tagged; do not use it."
        )
    return difference
