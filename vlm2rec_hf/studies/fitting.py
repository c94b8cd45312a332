"""Train a run from wherever its folder stands, and keep the model whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..files import whole_folder
from ..trainers.checkpoints import complete_checkpoints
from ..trainers.progress_bar import LOG_FILE
from .callbacks import Deadline, Progress, TimedLog
from .runs import MODEL_FOLDER, TRAINED_FILE, Run, write_json

BEST_BY_VALIDATION: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "load_best_model_at_end": True,
    "validation_users": 2000,
    "save_total_limit": 2,  # with 1 the library deletes the newest checkpoint at the end if another one is best
}
"""Embedders are validated after each tenth, and the best of these is tested (our choice)."""
QUIET: dict[str, Any] = {"disable_tqdm": True, "report_to": "none"}


def is_trained(run: Run) -> bool:
    """Whether a run's model is there."""
    return (run.folder / MODEL_FOLDER).is_dir()


def fit(trainer: Any, run: Run, deadline: float | None) -> None:
    """Train on from the newest whole checkpoint, write `trained.json` and then `model/`.

    Args:
        trainer: of any method, with the run's folder as `output_dir`.
        run: the run.
        deadline: moment of `time.time()` after which training ends at the next checkpoint.

    Raises:
        TimeIsUp: the deadline has passed.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    folder = run.folder
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    for watching in (TimedLog(), Deadline(deadline), Progress(run.key, trainer.args.metric_for_best_model)):
        trainer.add_callback(watching)
    resumes = bool(complete_checkpoints(folder))
    if not resumes:  # what a run logged that died before its first checkpoint is done again
        (folder / LOG_FILE).unlink(missing_ok=True)
    trainer.train(resume_from_checkpoint=resumes or None)
    clock = next(each for each in trainer.callback_handler.callbacks if isinstance(each, TimedLog))
    state = trainer.state
    best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
    best_step = state.global_step if best is None else int(best.rpartition("-")[2])
    write_json(
        folder / TRAINED_FILE,
        {
            "steps": state.global_step,
            "epochs": state.epoch,
            "best_step": best_step,
            "metric": trainer.args.metric_for_best_model,
            "best_metric": state.best_metric,
            "validation": _validation(state.log_history, best_step),
            "seconds": {
                "training": round(clock.seconds, 2),
                "training_process": round(clock.process_seconds, 2),
                "validation": round(clock.evaluation_seconds, 2),
            },
        },
    )
    with whole_folder(folder / MODEL_FOLDER) as partial:
        trainer.save_model(str(partial))


def drop_checkpoints(folder: Path) -> None:
    """Delete what only training needs, once the model is there."""
    for path in folder.glob("*checkpoint-*"):  # those set aside, too
        shutil.rmtree(path, ignore_errors=True)


def _validation(records: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Validation metrics at a step; of the newest evaluation where it had none."""
    of_evaluations = [record for record in records if any(name.startswith("eval_") for name in record)]
    chosen = next((record for record in of_evaluations if record["step"] == step), None)
    chosen = chosen or (of_evaluations[-1] if of_evaluations else {})
    return {name.removeprefix("eval_"): value for name, value in chosen.items() if name.startswith("eval_")}
