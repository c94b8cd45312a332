"""`vlm2rec push-space`: put the shop's page on the Hub as a Space, with a model and a dataset of the Hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .common import named_as_options, say
from .parsing import quiet_libraries, with_underscores
from .push import TOKEN, add_card_option


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vlm2rec push-space",
        description="Publish a Space: app, requirements and card in one commit, for a model and a dataset on the Hub.",
        epilog=TOKEN,
    )
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the Space; created if there is none")
    parser.add_argument("--model", required=True, metavar="OWNER/NAME", help="model on the Hub")
    parser.add_argument("--dataset", required=True, metavar="OWNER/NAME", help="dataset on the Hub")
    parser.add_argument("--model_revision", default="main", help="tag, branch or commit; the Space keeps its commit")
    parser.add_argument("--dataset_revision", default="main", help="tag, branch or commit; the Space keeps its commit")
    parser.add_argument("--title", help="shown on top of the page; by default the Space's name")
    parser.add_argument("--new_items", action="store_true", help="let every visitor put items into the shop")
    parser.add_argument("--license", help="licence of the app, as the Hub names it (mit, ...)")
    parser.add_argument("--private", action="store_true", default=None, help="make a new Space private")
    add_card_option(parser)
    parser.add_argument("--no_verify", action="store_true", help="do not open the model, nor read the files back")
    parser.add_argument("--dry_run", action="store_true", help="print the files; write nothing on the Hub")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    options = make_parser().parse_args(with_underscores(argv))
    quiet_libraries()
    from ..hub_cards.publish_space import push_space

    with named_as_options(model="--model", dataset="--dataset", repo_id="OWNER/NAME", card="--card"):
        done = push_space(
            options.repo_id,
            options.model,
            options.dataset,
            model_revision=options.model_revision,
            dataset_revision=options.dataset_revision,
            title=options.title,
            new_items=options.new_items,
            private=options.private,
            license=options.license,
            card=options.card,
            verify=not options.no_verify,
            dry_run=options.dry_run,
            say=say,
        )
    if options.dry_run:
        for name, text in done.files.items():
            print(f"---- {name}\n{text}")
        say(f"Nothing was written; without --dry_run this is one commit on {done.url}.")
        return
    for note in done.notes():
        say(note)
    print(done)
