"""`vlm2rec push`: publish a model or a prepared dataset on the Hub: one commit, checked, then tagged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .common import say
from .parsing import with_underscores


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vlm2rec push",
        description="Publish a saved embedder, adapter or head, or a folder that `vlm2rec prepare` wrote.",
        epilog="The token of `hf auth login` (or HF_TOKEN) is used. Doing it again after a failure is safe.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="model folder or prepared dataset")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="Hub repo; created if there is none")
    parser.add_argument("--tag", help="name of this version, such as v1.0; tags are never moved")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--license", help="licence of the weights or data, as the Hub names it (mit, cc-by-4.0, ...)")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")
    parser.add_argument(
        "--card",
        choices=("write", "replace", "keep"),
        default="write",
        help="README.md: write it but keep one that a person wrote (write), write it in any case, leave it alone",
    )
    parser.add_argument("--report_name", help="name of the model in the evaluation's report")
    parser.add_argument("--no_verify", action="store_true", help="do not load the published copy back")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    from ..data.storage import is_saved_dataset

    options = make_parser().parse_args(with_underscores(argv))
    folder = Path(options.folder)
    if not folder.is_dir():
        raise ValueError(f"`FOLDER` {options.folder!r} is no folder; name a saved model or a prepared dataset.")
    if is_saved_dataset(folder):
        push_dataset(folder, options)
    else:
        push_model(folder, options)


def push_model(folder: Path, options: argparse.Namespace) -> None:
    """Publish a model folder and tell what happened."""
    from ..hub_cards.publish import publish_model

    done = publish_model(
        folder,
        options.repo_id,
        tag=options.tag,
        private=options.private,
        message=options.message,
        license=options.license,
        card=options.card,
        method=options.report_name,
        verify=not options.no_verify,
        say=say,
    )
    if done.left_out:
        say(f"Left out: {', '.join(done.left_out)}.")
    if done.removed:
        say(f"Removed of the earlier version: {', '.join(done.removed)}.")
    checked = "not checked" if done.difference is None else f"vectors equal to {done.difference:.1e}"
    print(f"{'Published' if done.new else 'Already published'}: {done.url} (commit {done.oid[:8]}, {checked})")


def push_dataset(folder: Path, options: argparse.Namespace) -> None:
    """Publish a prepared dataset and tell what happened."""
    from ..data.dataset import RecDataset
    from ..hub_cards.card import render_dataset_card
    from ..hub_cards.facts import DatasetFacts

    dataset = RecDataset.load(folder)
    facts = DatasetFacts.from_dataset(dataset, options.repo_id, options.tag, license=options.license)
    done = dataset.push_to_hub(
        options.repo_id,
        tag=options.tag,
        private=options.private,
        commit_message=options.message,
        license=options.license,
        card=render_dataset_card(facts),
        readme=options.card,
        verify=not options.no_verify,
    )
    print(f"Published: {done.url} (commit {done.oid[:8]}, fingerprint {dataset.fingerprint[:16]})")
