"""What a study's `evaluation` may say, and what of it the report of each kind of method takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .runs import Run
from .study_file import one_of

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

OF_EMBEDDERS = ("max_history", "score_options")
"""Heads have none of these."""
OPTIONS = ("ks", "exclude_seen", "batch_size", "mix", *OF_EMBEDDERS)
"""Options of `evaluate` that a study's `evaluation` may name."""


def report_options(run: Run) -> dict[str, Any]:
    """The options of `evaluate` for a run's report: those of the study that its kind has.

    Args:
        run: of any kind.

    Raises:
        ValueError: an unknown option, or a value that cannot be used.
    """
    from ..evaluation.evaluating import checked_cut_offs
    from ..evaluation.mixed_models import MIXES
    from ..evaluation.score_options import ScoreOptions

    options = dict(run.study.evaluation)
    for name, value in options.items():
        one_of("evaluation", name, OPTIONS)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if name in ("batch_size", "max_history") and not is_count:
            raise ValueError(f"`evaluation.{name}` must be a whole number of at least 1, got {value!r}.")
        if name == "exclude_seen" and not isinstance(value, bool):
            raise ValueError(f"`evaluation.exclude_seen` must be true or false, got {value!r}.")
        if name == "mix":
            one_of("evaluation.mix", value, MIXES)
        if name == "score_options" and not isinstance(value, Mapping):
            raise ValueError(
                f"`evaluation.score_options` must hold options such as `popularity_prior`, got {value!r}."
            )
    if "ks" in options:
        if not isinstance(options["ks"], list):
            raise ValueError(f"`evaluation.ks` must be a list of cut-offs, such as [10, 20], got {options['ks']!r}.")
        options["ks"] = checked_cut_offs(options["ks"])
    if "score_options" in options:
        options["score_options"] = ScoreOptions.from_dict(options["score_options"])
    if run.method.kind == "head":
        return {name: value for name, value in options.items() if name not in OF_EMBEDDERS}
    if "score_options" in options:
        ScoreOptions.of(run.method, options["score_options"])  # refuses what its fusion has no parts for
    return options


def check_report(run: Run, dataset: RecDataset) -> None:
    """Refuse what could not be reported on a data set, before anything is trained.

    Args:
        run: of any kind.
        dataset: the prepared data set.

    Raises:
        ValueError: a mix without a validation split, or cut-offs beyond the catalogue.
    """
    from ..evaluation.evaluating import check_cut_offs
    from ..evaluation.mixed_models import check_mix

    options = report_options(run)
    if options.get("mix") is not None:
        check_mix(options["mix"], "test", dataset.examples("validation"))
    if "ks" in options:
        check_cut_offs(options["ks"], dataset.n_items)
