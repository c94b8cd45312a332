"""`vlm2rec compare`: several evaluations in one table, with paired tests between their methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import named_as_options, say
from .parsing import with_underscores
from .places import check_folder

if TYPE_CHECKING:
    from ..evaluation.comparison import Comparison
    from ..evaluation.report import Report


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vlm2rec compare",
        description="Put evaluations of the same test users into one table, and test their methods against each other "
        "(paired permutation test, Holm's correction over all tests).",
    )
    parser.add_argument(
        "reports",
        nargs="+",
        metavar="NAME=FOLDER",
        help="folder of a report, or of a model with its report under evaluation/; NAME= may be left out",
    )
    parser.add_argument("--view", default="both", help="view of each method (text, image, both); a method's only view "
                        "where it lacks this one")  # fmt: skip
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="columns, such as hit@10 ndcg@10")
    parser.add_argument("--slice", metavar="NAME", help="only the examples of this slice, such as cold_item")
    parser.add_argument("--baseline", metavar="NAME", help="test every method against this one, not all pairs")
    parser.add_argument("--output", help="folder to save the joined report in")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    from ..evaluation.comparison import compare, compare_methods, comparisons_to_markdown
    from ..evaluation.joining import join_reports
    from ..evaluation.report import Report

    options = make_parser().parse_args(with_underscores(argv))
    if options.output:
        check_folder(options.output)
    reports: dict[str, Report] = {}
    for given in options.reports:
        name, folder = _named(given)
        if name in reports:
            raise ValueError(f"`NAME=FOLDER` names {name!r} twice; give each report a name of its own.")
        with named_as_options(folder="NAME=FOLDER"):
            reports[name] = Report.load(folder)
    joined = join_reports(reports, view=options.view)
    if options.slice is not None:
        joined = joined.within(options.slice)
    metrics = options.metrics or ["hit@10", "ndcg@10"]
    table = joined.to_markdown(metrics)
    tests: list[Comparison] = []
    if options.baseline is not None:
        if options.baseline not in joined.methods:
            raise ValueError(f"`--baseline` must be one of {joined.methods}, got {options.baseline!r}.")
        others = [method for method in joined.methods if method != options.baseline]
        if others:
            pairs = [(method, options.baseline) for method in others]
            tests = compare(joined, joined, methods=pairs, metrics=metrics)
    elif len(joined.methods) > 1:
        tests = compare_methods(joined, metrics=metrics)
    # Written before anything is said: a reader that leaves (`| head`) ends the command at the first line.
    saved = joined.save(options.output) if options.output else None
    print(table)
    if tests:
        print(comparisons_to_markdown(tests))
    if saved is not None:
        say(f"Report in {saved.parent}.")


def _named(given: str) -> tuple[str, Path]:
    """A report's label and folder; by default the label is the name of the folder, or of the model around it."""
    name, separator, path = given.partition("=")
    folder = Path(path if separator else given)
    if not (folder / "report.json").is_file() and (folder / "evaluation" / "report.json").is_file():
        folder = folder / "evaluation"
    if separator:
        return name, folder
    whole = folder.resolve()
    return (whole.parent.name if whole.name == "evaluation" else whole.name), folder
