"""`vlm2rec push`: publish a model or a prepared dataset on the Hub: one commit, checked, then tagged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .common import named_as_options, say
from .parsing import quiet_libraries, with_underscores

TOKEN = "The token of `hf auth login` (or HF_TOKEN) is used. Doing it again after a failure is safe."


def add_card_option(parser: argparse.ArgumentParser) -> None:
    """What becomes of a README.md that is there."""
    parser.add_argument(
        "--card",
        choices=("write", "replace", "keep"),
        default="write",
        help="README.md: write it but keep one that a person wrote (write), write it in any case, leave it alone",
    )


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vlm2rec push",
        description="Publish a saved embedder, adapter or head, or a folder that `vlm2rec prepare` wrote.",
        epilog=TOKEN,
    )
    parser.add_argument("folder", metavar="FOLDER", help="model folder or prepared dataset")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="Hub repo; created if there is none")
    parser.add_argument("--tag", help="name of this version, such as v1.0; tags are never moved")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--license", help="licence of the weights or data, as the Hub names it (mit, cc-by-4.0, ...)")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")
    add_card_option(parser)
    parser.add_argument("--report_name", help="name of the model in the evaluation's report")
    parser.add_argument("--no_verify", action="store_true", help="do not load the published copy back")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    options = make_parser().parse_args(with_underscores(argv))
    quiet_libraries()
    from ..hub_cards.publish import push

    with named_as_options(source="FOLDER"):
        published = push(
            options.folder,
            options.repo_id,
            tag=options.tag,
            private=options.private,
            message=options.message,
            license=options.license,
            card=options.card,
            report_name=options.report_name,
            verify=not options.no_verify,
            say=say,
        )
    for note in published.notes():
        say(note)
    print(published)
