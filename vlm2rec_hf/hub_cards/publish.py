"""Publish a folder with a model or a dataset: one commit, loaded back and compared, and only then a tag."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.dataset import RecDataset
from ..data.storage import is_saved_dataset
from ..files import json_bytes
from ..hub.card_marks import CARD_FILE, check_readme, is_ours, licence_in, marked, may_write_card, read_card
from ..hub.commits import Head, commit_files, is_at, make_tag, open_repo, tagged_commit, taken
from ..hub.errors import check_repo_id, check_tag, explained
from ..hub.tokens import holds_token, redact
from .code_files import OWN_CODE, earlier_code
from .model_card import render_model_card
from .model_folder import REPORT_FILE, TRAINING_FILE, publishable, read_json
from .model_kinds import kind_of
from .probes import largest_difference
from .publish_dataset import ignored_licence, publish_dataset
from .publishable_files import ModelFiles, find_model_files, stale_files
from .published import PublishedDataset, PublishedModel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOLERANCE = 1e-5
_TEXT = (".json", ".md", ".py", ".txt", ".jinja")


def push(
    source: str | Path,
    repo_id: str,
    *,
    tag: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    license: str | None = None,
    card: str = "write",
    report_name: str | None = None,
    verify: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> PublishedModel | PublishedDataset:
    """Publish a saved model or a prepared dataset on the Hub: one commit, checked, then tagged.

        push("runs/shop/final", "org/shop-embedder", tag="v1.0")

    Args:
        source: folder of a model of any kind (embedder, PixRec, head, DMESR; whole or an adapter), see
            `publish_model`; or of a dataset, as `RecDataset.save` and `vlm2rec prepare` write it, see
            `RecDataset.push_to_hub`.
        repo_id: `owner/name`; created if there is none.
        tag: name of the version, such as `"v1.0"`. Tags are never moved.
        private: whether a new repo is private; the account's default otherwise.
        token: with the right to write there; by default the one of `hf auth login`.
        message: of the commit.
        license: of the weights or the data, as the Hub names it.
        card: `"write"` a README.md but refuse to replace one that a person wrote or changed, `"replace"` it in any
            case, `"keep"` the repo's.
        report_name: the model's name in its evaluation's report, where that holds several; not for a dataset.
        verify: load the published copy back and compare before it is tagged.
        say: called with a sentence before every step of a model's publication.

    Returns:
        What was published; printed, it is one line.

    Raises:
        ValueError: `source` is neither, or what `publish_model` and `RecDataset.push_to_hub` raise.
        ConnectionError: the Hub cannot be reached or keeps failing.
    """
    if not Path(source).is_dir():
        raise ValueError(f"`source` {str(source)!r} is no folder; name a saved model or a prepared dataset.")
    options: dict[str, Any] = {
        "tag": tag, "private": private, "token": token, "message": message, "license": license, "verify": verify,
    }  # fmt: skip
    if not is_saved_dataset(Path(source)):
        return publish_model(source, repo_id, card=card, report_name=report_name, say=say, **options)
    if report_name is not None:
        raise ValueError(f"`report_name` {report_name!r} names a model in a report, but `source` holds a dataset.")
    check_readme("card", card)
    return publish_dataset(RecDataset.load(source), repo_id, readme=card, readme_argument="card", **options)


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
    report_name: str | None = None,
    verify: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> PublishedModel:
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
        report_name: the model's name in the evaluation's report, where that holds several and `training.json` does
            not say.
        verify: load the published copy back and compare.
        say: called with a sentence before every step.

    Raises:
        ValueError: the folder is not whole, a file holds a token, an adapter's base is not on the Hub, the tag names
            something else, the Hub refuses, main moved meanwhile, or the published copy gives other vectors.
        ConnectionError: the Hub cannot be reached or keeps failing.
    """
    from huggingface_hub import HfApi

    check_readme("card", card)
    check_repo_id(repo_id)
    check_tag(tag)
    model = find_model_files(Path(folder))
    contents = _contents(model, repo_id)
    _refuse_tokens(contents, token)
    before = kind_of(model.model_type).probe(str(folder), {"token": token}) if verify else None
    api = HfApi(token=token)
    named = tagged_commit(api, repo_id, "model", tag) if tag else None
    if tag and named and not is_at(api, repo_id, "model", named, contents):
        raise taken(repo_id, tag, named)
    removed: list[str] = []
    if named:
        head, commit = Head(named, {}), named
    else:
        card_text = None
        if card != "keep":  # rendered before anything is made on the Hub
            card_text = _card(api, model, repo_id, tag, license, report_name, replace=card == "replace")
            _refuse_tokens({CARD_FILE: card_text}, token)
        head = open_repo(api, repo_id, "model", private)
        if card_text and may_write_card(api, repo_id, "model", head, card, argument="card", card=card_text):
            contents[CARD_FILE] = card_text
        removed = stale_files(head.files, contents, OWN_CODE | earlier_code(api, repo_id, head))
        say(f"Uploading {len(contents)} files to {repo_id} ...")
        message = message or f"Publish {tag or model.model_type}"
        commit = commit_files(api, repo_id, "model", head, contents, removed, message=message)
    new, difference = commit != head.commit, None
    if before is not None:
        say(f"Loading {repo_id} at {commit[:8]} back ...")
        difference = _compare(before, model, repo_id, commit, token)
    if tag and not named:
        make_tag(api, repo_id, "model", tag, commit, message or f"Version {tag}")
    why = f"{tag} is published, and tags never move; name a new tag" if named else "its card is somebody's own"
    ignored = ignored_licence(api, repo_id, "model", commit, license, why)
    return PublishedModel(
        repo_id=repo_id,
        oid=commit,
        tag=tag,
        url=f"{api.endpoint}/{repo_id}/tree/{tag or commit}",
        files=tuple(sorted(contents)),
        left_out=model.left_out,
        removed=tuple(removed) if new else (),
        difference=difference,
        new=new,
        ignored=ignored,
    )


def _contents(model: ModelFiles, repo_id: str) -> dict[str, Path | bytes]:
    """Path in the repo to file or content; an adapter's configuration is rewritten in memory."""
    contents: dict[str, Path | bytes] = {name: model.folder / name for name in model.published}
    if model.adapter is not None:
        base = model.config.get("base_model")
        if not base:
            raise ValueError(
                f"`folder` {str(model.folder)!r} holds an adapter on "
                f"{model.adapter.get('base_model_name_or_path')!r}, which is no model on the Hub, so nobody else "
                "could load it. Publish the base first and train on it, or merge the adapter (`vlm2rec merge`), then "
                "publish the whole model."
            )
        # `AutoModel.from_pretrained` follows this name. It must come back to this repo, whose config.json names base
        # and commit; the base's own name would lose the commit, and make a bare backbone of it.
        adapter = {**model.adapter, "base_model_name_or_path": repo_id, "revision": None}
        contents["adapter_config.json"] = json_bytes(adapter)
    for name in (TRAINING_FILE, REPORT_FILE):
        if name in contents:
            contents[name] = json_bytes(publishable(read_json(model.folder / name), nulls=True))
    return contents | kind_of(model.model_type).contents(model.folder, model.published, model.config)


def _refuse_tokens(contents: Mapping[str, Path | bytes], token: str | None) -> None:
    for name, content in contents.items():
        if not name.endswith(_TEXT):
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        if holds_token(text, token):
            raise ValueError(f"`folder`: {name} holds what looks like a Hub token; take it out (and revoke it).")


def _card(
    api: HfApi,
    model: ModelFiles,
    repo_id: str,
    tag: str | None,
    license: str | None,
    report_name: str | None,
    *,
    replace: bool,
) -> bytes:
    """The README to publish: the folder's if a person wrote it, else a new one."""
    local = model.folder / CARD_FILE
    text = local.read_text(encoding="utf-8") if local.is_file() else ""
    if text and not is_ours(text) and not replace:
        return text.encode()
    license = license or licence_in(text) or licence_in(read_card(api, repo_id, "model"))
    text = render_model_card(model.folder, repo_id, tag, license=license, report_name=report_name, api=api)
    return marked(text).encode()


def _compare(before: dict[str, Any], model: ModelFiles, repo_id: str, commit: str, token: str | None) -> float:
    """Download a commit into a cache of its own, load it, and compare its answers with the folder's."""
    from huggingface_hub import snapshot_download

    stands = f"Published as {repo_id}@{commit[:8]}, but not tagged, because that copy could not be loaded back"
    try:
        with tempfile.TemporaryDirectory() as cache, explained(repo_id, revision=commit):
            # By its path: a folder of the repo's name in the working directory would be loaded in its stead.
            copy = snapshot_download(repo_id, revision=commit, token=token, cache_dir=cache)
            after = kind_of(model.model_type).probe(copy, {"token": token})
    except (OSError, ConnectionError) as error:  # transformers wraps whatever happens on the line into an OSError
        raise ConnectionError(f"{stands}: {redact(str(error), token)}. Publish again to check and tag it.") from error
    except ValueError as error:
        raise ValueError(f"{stands}: {redact(str(error), token)}") from error
    difference = largest_difference(before, after)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"`folder` {str(model.folder)!r}: the copy published as {repo_id}@{commit[:8]} gives other vectors "
            f"(difference {difference:.3g}, allowed {TOLERANCE:g}). It was not tagged; do not use it."
        )
    return difference
