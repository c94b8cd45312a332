"""Checkpoints that are either whole or not there, as far as resuming is concerned."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

COMPLETE = "checkpoint_complete"


def complete_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The whole checkpoints of an output folder, oldest first; half-written ones are left out."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = pattern.fullmatch(path.name)
        if match and (path / COMPLETE).is_file():
            found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


class CompleteCheckpoints:
    """Mixin before `transformers.Trainer`: a process killed while saving leaves nothing that looks like a checkpoint.

    A marker is the last file written into a checkpoint; `train(resume_from_checkpoint=True)` takes the newest one that
    has it and moves half-written ones aside as `incomplete-checkpoint-N`.
    """

    args: Any
    state: Any

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        (folder / COMPLETE).unlink(missing_ok=True)  # the step may be saved again over an older run's folder
        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
        if self.args.should_save and folder.is_dir():
            (folder / COMPLETE).touch()

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a path, or `True` for the newest whole checkpoint of `args.output_dir` (a fresh
                start if there is none yet).
            kwargs: passed on.

        Raises:
            ValueError: the named checkpoint is half-written.
        """
        if resume_from_checkpoint is True:
            whole = complete_checkpoints(self.args.output_dir)
            if self.args.should_save:
                _set_half_written_aside(Path(self.args.output_dir), whole)
            resume_from_checkpoint = str(whole[-1]) if whole else None
        elif resume_from_checkpoint and not (Path(resume_from_checkpoint) / COMPLETE).is_file():
            raise ValueError(
                f"`resume_from_checkpoint` {str(resume_from_checkpoint)!r} is missing or half-written; whole "
                f"checkpoints: {[path.name for path in complete_checkpoints(self.args.output_dir)]}."
            )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]


def _set_half_written_aside(folder: Path, whole: list[Path]) -> None:
    names = {path.name for path in whole}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if path.is_dir() and path.name not in names:
            target = folder / f"incomplete-{path.name}"
            number = 1
            while target.exists():
                number += 1
                target = folder / f"incomplete-{path.name}.{number}"
            path.rename(target)
