"""Running a trainer from the command line: one bar, a log file, nothing written over, a way to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .common import named_as_options, require, say
from .config_file import without_option
from .parsing import option_of
from .places import check_folder

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from .arguments import RankingArguments

BEST_BY_VALIDATION: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "load_best_model_at_end": True,
}
"""Unless said otherwise, training is validated and saved after each tenth, and ends with the best of these."""


def best_by_validation(argv: Sequence[str]) -> dict[str, Any]:
    """Defaults that keep the best checkpoint; none where the command line or its config file says when to save."""
    named = (*BEST_BY_VALIDATION, "early_stopping_patience", "save_only_model")
    if any(option_of(argv, name) is not None for name in named):
        return {}
    return {**BEST_BY_VALIDATION, "validation_users": 2000}


def check_training(training: Any, metric_names: Sequence[str]) -> None:
    """Refuse, before anything is read, training that could not end well.

    An output folder that holds checkpoints of an earlier run is refused unless it is said what becomes of them.

    Args:
        training: the training arguments.
        metric_names: what validation may measure.

    Raises:
        ValueError: no folder named, a file in its place, checkpoints of which it is not said, an option
            of the library that would have no effect, or a metric that validation does not measure.
    """
    from ..trainers.best_metric import check_best_metric
    from ..trainers.checkpoints import complete_checkpoints

    with named_as_options(metric_for_best_model="--metric_for_best_model"):
        check_best_metric(training, metric_names)
    folder = check_folder(
        require(training.output_dir, "--output_dir", "the folder of the trained model"), "--output_dir"
    )
    check_folder(folder / "evaluation", "--output_dir")
    if training.label_smoothing_factor:
        raise ValueError(
            f"`--label_smoothing_factor` {training.label_smoothing_factor} smooths labels of classes, which no method "
            "here has; leave it out."
        )
    checkpoints = complete_checkpoints(folder)
    if checkpoints and training.resume_from_checkpoint is None:
        raise ValueError(
            f"`--output_dir` {str(folder)!r} holds {checkpoints[-1].name} of an earlier run; go on with it "
            "(`--resume_from_checkpoint true`), start anew beside it (`--resume_from_checkpoint false`), or name "
            "another folder."
        )


def check_ranking(dataset: RecDataset, ranking: RankingArguments, max_history: int | None) -> None:
    """Check before training what the test report after it needs.

    Raises:
        ValueError: nobody to rank, or cut-offs beyond the catalogue.
    """
    from ..evaluation.evaluating import check_cut_offs, users_of

    split = getattr(ranking, "eval_split", "test")
    with named_as_options(dataset="--dataset", split="--split", max_users="--max_users", ks="--ks"):
        users_of(dataset, split, max_history or 1, ranking.max_users)  # who is ranked does not depend on it
        check_cut_offs(ranking.cut_offs(), dataset.n_items)


def run(trainer: Any, argv: Sequence[str]) -> None:
    """Train, and save the model to the output folder.

    Args:
        trainer: of any method.
        argv: the command line, to say how to go on after Ctrl-C.
    """
    from ..trainers.checkpoints import complete_checkpoints
    from ..trainers.progress_bar import LogFile, show_only

    training = trainer.args
    # Not `training.disable_tqdm`, which the library sets where its warnings are not shown.
    if (option_of(argv, "disable_tqdm") or "false").lower() == "false":
        show_only(trainer, trainer.training_facts()["method"])
    trainer.add_callback(LogFile())
    try:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    except KeyboardInterrupt:
        checkpoints = complete_checkpoints(training.output_dir)
        if checkpoints and training.should_save:
            words = without_option(argv, "resume_from_checkpoint")
            again = shlex.join(["vlm2rec", "train", *words, "--resume_from_checkpoint=true"])
            say(f"\nStopped; the newest checkpoint is {checkpoints[-1]}. To go on:\n    {again}")
        raise
    trainer.save_model(training.output_dir)
