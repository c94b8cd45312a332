"""Publish the shop's page as a Space: app, requirements and card for a model and a dataset there, one commit."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..hub.card_marks import CARD_FILE, check_readme, licence_in, may_write_card, read_card
from ..hub.commits import commit_files, open_repo, read_head
from ..hub.errors import check_repo_id
from ..hub.files import file_if_there
from ..hub.tokens import holds_token, logged_in
from ..version import __version__
from .card import render_space_card
from .facts import SpaceFacts
from .markdown import one_line
from .publish_dataset import ignored_licence
from .published import Published

APP_FILE, REQUIREMENTS = "app.py", "requirements.txt"
GRADIO = "6.31.0"
"""What the Hub runs the page with where gradio is not installed here: the version that the page was tested with."""
PYTHON = "3.11"
PORT = 7860
"""Where the Hub expects a Space to listen."""


@dataclass(frozen=True, kw_only=True)
class PublishedSpace(Published):
    """A version of a Space.

    Attributes:
        files: path -> text of what was published, or would be (`dry_run`).
        model_commit: the model's commit that the Space loads.
        dataset_commit: the dataset's.
        checked: whether the model and the dataset were opened, and the published files read back.
    """

    files: dict[str, str]
    model_commit: str
    dataset_commit: str
    checked: bool

    def _check(self) -> str:
        return "files read back" if self.checked else "not checked"


def push_space(
    repo_id: str,
    model: str,
    dataset: str,
    *,
    model_revision: str = "main",
    dataset_revision: str = "main",
    title: str | None = None,
    new_items: bool = False,
    private: bool | None = None,
    license: str | None = None,
    token: str | None = None,
    card: str = "write",
    verify: bool = True,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PublishedSpace:
    """Publish a Space on which a model of the Hub recommends items of a dataset of the Hub.

    The Space loads both at the commits that stand there now, so that it shows tomorrow what it shows today; publish it
    again to move it on. Nothing is written before both were opened and have made one list, as the Space will.

    Args:
        repo_id: of the Space, `owner/name`; created if there is none.
        model: Hub id of a model of any kind.
        dataset: Hub id of the items, with the interactions.
        model_revision: tag, branch or commit.
        dataset_revision: likewise.
        title: shown on top of the page; by default the Space's name.
        new_items: whether any visitor may put items into the index, for all to see, until the Space starts anew.
        private: whether a new Space is private; the account's default otherwise. A private model or dataset is
            loaded by a Space only with a token among the Space's secrets, HF_TOKEN, which you set on its page.
        license: of the app; by default that of an earlier card of this package there.
        token: with the right to write there; by default the one of `hf auth login`.
        card: as in `publish_model`.
        verify: open the model and the dataset before, and read the files back afterwards.
        dry_run: write nothing on the Hub.
        say: called with a sentence before every step.

    Raises:
        ValueError: no such model or dataset, one that cannot be loaded, a file that holds a token, a card of somebody
            else, or the Hub refuses.
        ConnectionError: the Hub cannot be reached or keeps failing.
    """
    from huggingface_hub import HfApi

    check_readme("card", card)
    check_repo_id(repo_id)
    for name, value in (("model", model), ("dataset", dataset)):
        if value.count("/") != 1 or Path(value).exists():
            raise ValueError(f"`{name}` {value!r} must be a Hub id (owner/name): push it first (`vlm2rec push`).")
    api = HfApi(token=token)
    model_commit = read_head(api, model, "model", model_revision).commit
    dataset_commit = read_head(api, dataset, "dataset", dataset_revision).commit
    title = one_line(title or "") or repo_id.split("/")[-1]
    if verify:
        say(f"Opening {model} at {model_commit[:8]} and {dataset} at {dataset_commit[:8]} ...")
        with logged_in(token):
            _open(model, model_commit, dataset, dataset_commit)
    facts = SpaceFacts(
        repo_id,
        title,
        "Click items that you like: a model recommends what goes with them, by their texts and their images, and "
        "says why. Search by words or by an image.",
        sdk_version=_gradio_version(),
        python_version=PYTHON,
        app_file=APP_FILE,
        models=(model,),
        datasets=(dataset,),
        license=license or licence_in(read_card(api, repo_id, "space")),
    )
    files = {
        APP_FILE: app_text(model, model_commit, dataset, dataset_commit, title, new_items),
        REQUIREMENTS: f"vlm2rec-hf[demo]=={__version__}\n",
        CARD_FILE: render_space_card(facts),
    }
    for name, text in files.items():
        if holds_token(text, token):
            raise ValueError(f"`{name}` would hold what looks like a Hub token; take it out of the arguments.")
    ast.parse(files[APP_FILE], APP_FILE)

    def published(commit: str, new: bool, checked: bool, ignored: str | None = None) -> PublishedSpace:
        return PublishedSpace(
            repo_id=repo_id, oid=commit, url=f"{api.endpoint}/spaces/{repo_id}", tag=None, new=new, files=files,
            model_commit=model_commit, dataset_commit=dataset_commit, checked=checked, ignored=ignored,
        )  # fmt: skip

    if dry_run:
        return published("", new=False, checked=False)
    head = open_repo(api, repo_id, "space", private)
    contents: dict[str, Path | bytes] = {name: text.encode() for name, text in files.items()}
    if not may_write_card(api, repo_id, "space", head, card, argument="card", card=files[CARD_FILE].encode()):
        del contents[CARD_FILE]
    say(f"Uploading {len(contents)} files to {repo_id} ...")
    message = f"Show {model} on {dataset}"
    commit = commit_files(api, repo_id, "space", head, contents, message=message)
    if verify:
        with tempfile.TemporaryDirectory() as cache:
            for name, content in contents.items():
                path = file_if_there(api, repo_id, name, kind="space", revision=commit, cache_dir=cache)
                if path is None or path.read_bytes() != content:
                    raise ValueError(f"`repo_id` {repo_id!r} at {commit[:8]} holds another {name}; publish again.")
    ignored = ignored_licence(api, repo_id, "space", commit, license, "its card is kept as it is")
    return published(commit, commit != head.commit, verify, ignored)


def app_text(model: str, model_commit: str, dataset: str, dataset_commit: str, title: str, new_items: bool) -> str:
    """The Space's `app.py`; every value is a Python literal, whatever it holds."""
    return f'''"""A model recommends items of a dataset, on a page; written by `vlm2rec push-space`."""

from vlm2rec_hf import open_recommender, show_page

recommender = open_recommender(
    model={model!r},
    revision={model_commit!r},
    dataset={dataset!r},
    dataset_revision={dataset_commit!r},
)
show_page(recommender, title={title!r}, host="0.0.0.0", port={PORT}, new_items={new_items!r})
'''


def _open(model: str, model_commit: str, dataset: str, dataset_commit: str) -> None:
    """Open both as the Space will, and make one list.

    Raises:
        ValueError: one cannot be loaded, or they do not belong together.
    """
    from ..recommending.opening import open_recommender

    recommender = open_recommender(
        model=model, revision=model_commit, dataset=dataset, dataset_revision=dataset_commit
    )
    ids, items = recommender.catalogue.ids, getattr(recommender.side, "catalogue", None)
    # An encoder reads nothing of an item without text and image; a catalogue may begin with some.
    readable = (i for i in range(len(ids)) if items is None or not items.is_empty(i))
    recommender.recommend([[str(ids[next(readable, 0)])]], k=1)


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return GRADIO
