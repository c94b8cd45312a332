"""Checkpoints that are either whole or not there, as far as resuming is concerned."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .adapters import load_held_adapter

logger = logging.getLogger(__name__)
COMPLETE = "checkpoint_complete"


def complete_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The whole checkpoints of an output folder, oldest first; half-written ones are left out."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    complete = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = pattern.fullmatch(path.name)
        if match and (path / COMPLETE).is_file():
            complete.append((int(match.group(1)), path))
    return [path for _, path in sorted(complete)]


class CompleteCheckpoints:
    """Mixin before `transformers.Trainer`: a process killed while saving leaves nothing that looks like a checkpoint.

    A marker is the last file written into a checkpoint and the first one deleted, and an older checkpoint is deleted
    only once the new one has its marker: after the first save there is a whole one at every moment.
    `train(resume_from_checkpoint=True)` takes the newest whole one and moves half-written ones aside as
    `incomplete-checkpoint-N`; a fresh start moves the whole ones of an earlier run aside as `earlier-checkpoint-N`.
    Resumed from a checkpoint at which training had ended, it takes no further step.
    """

    args: Any
    model: Any
    state: Any
    callback_handler: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial=trial))  # type: ignore[attr-defined]
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / COMPLETE).unlink(missing_ok=True)  # the step may be saved again over an older run's folder
        limit = self.args.save_total_limit
        self.args.save_total_limit = None  # the base class would delete before the marker stands
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            torch.save(self.args, folder / TRAINING_ARGS_NAME)  # with the limit it was given
            (folder / COMPLETE).touch()
            _delete_oldest(run, limit, {str(folder), str(Path(self.state.best_model_checkpoint or folder))})

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: `True` (or `"true"`) for the newest whole checkpoint of `args.output_dir` (a fresh
                start if there is none yet), the name of one, such as `"checkpoint-100"`, or a path. `None` or `False`:
                a fresh start.
            kwargs: passed on.

        Raises:
            ValueError: the named checkpoint is half-written.
        """
        if isinstance(resume_from_checkpoint, str):
            resume_from_checkpoint = _named_checkpoint(resume_from_checkpoint, Path(self.args.output_dir))
        if not resume_from_checkpoint and self.args.should_save:  # else one of theirs might become "the newest"
            _set_aside(complete_checkpoints(self.args.output_dir), "earlier")
        if resume_from_checkpoint is True:
            whole = complete_checkpoints(self.args.output_dir)
            if self.args.should_save:
                every = Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
                _set_aside([path for path in every if path.is_dir() and path not in whole], "incomplete")
            resume_from_checkpoint = str(whole[-1]) if whole else None
        elif resume_from_checkpoint and not (Path(resume_from_checkpoint) / COMPLETE).is_file():
            raise ValueError(
                f"`resume_from_checkpoint` {str(resume_from_checkpoint)!r} is missing or half-written; whole "
                f"checkpoints: {[path.name for path in complete_checkpoints(self.args.output_dir)]}."
            )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """Epochs and batches that are done already; all epochs where training had ended at the checkpoint.

        The library itself takes up training again at the checkpoint's place, whatever had ended it: one step too many
        after the last step, an epoch or more after early stopping.
        """
        patience = _early_stopping(self.callback_handler.callbacks)
        done = super()._init_training_state(  # type: ignore[misc]
            max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial
        )
        # The library restores the arguments of callbacks, too; what this run was given counts.
        waiting = _early_stopping(self.callback_handler.callbacks)
        for restored, given in zip(waiting, patience, strict=False):
            restored.early_stopping_patience = given.early_stopping_patience
            restored.early_stopping_threshold = given.early_stopping_threshold
        steps = self.state.global_step
        impatient = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in waiting)
        has_ended = steps >= max_steps or impatient
        if resume_from_checkpoint is None or not has_ended:
            return done  # type: ignore[no-any-return]
        logger.info("Training had ended at step %d; no step is left to take.", steps)
        return epochs, 0

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End training; with a limit of one checkpoint, too, the best one and the newest one stay.

        The library would delete the newest, with which the knowledge that training has ended would go.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load weights; of a model that was loaded with an adapter those of the adapter, which the library cannot."""
        if not load_held_adapter(self.model if model is None else model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        """Load the best checkpoint; see `_load_from_checkpoint`."""
        if not load_held_adapter(self.model, Path(self.state.best_model_checkpoint)):
            super()._load_best_model()  # type: ignore[misc]


def _early_stopping(callbacks: Iterable[Any]) -> list[EarlyStoppingCallback]:
    return [one for one in callbacks if isinstance(one, EarlyStoppingCallback)]


def _named_checkpoint(name: str, run: Path) -> str | bool:
    """What the command line's word for a checkpoint stands for: yes or no, one of the run's, or a path."""
    if name.lower() in ("true", "false"):
        return name.lower() == "true"
    return str(run / name) if not Path(name).exists() and (run / name).exists() else name


def _delete_oldest(folder: Path, limit: int | None, protected: set[str]) -> None:
    """Keep `limit` whole checkpoints (all of them for `None` or 0), the `protected` ones in any case."""
    if not limit or limit < 0:
        return
    whole = sorted(complete_checkpoints(folder), key=lambda path: (path / COMPLETE).stat().st_mtime_ns)
    spare = [path for path in whole if str(path) not in protected]
    for path in spare[: max(len(whole) - max(limit, len(protected)), 0)]:
        (path / COMPLETE).unlink()
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(checkpoints: Sequence[Path], why: str) -> None:
    """Rename checkpoints to `WHY-checkpoint-N`, with a number behind it where that is taken."""
    for path in checkpoints:
        target = path.with_name(f"{why}-{path.name}")
        number = 1
        while target.exists():
            number += 1
            target = path.with_name(f"{why}-{path.name}.{number}")
        path.rename(target)
