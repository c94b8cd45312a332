"""What watches a run while it trains: its clock and log, the end of the time that was given, a word now and then."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..files import whole_file
from ..trainers.progress_bar import LOG_FILE, LogFile

logger = logging.getLogger(__name__)


class TimeIsUp(Exception):
    """The hours that a study was given are over; the newest checkpoint is whole."""


class TimedLog(LogFile, ExportableState):
    """`training_log.jsonl` with the seconds that training took so far, over all attempts that led here.

    Evaluations and saving are counted apart. The counts are kept in the checkpoints: what a killed attempt did after
    its last checkpoint is done again and counts once.

    Attributes:
        seconds: of the wall, in training steps and between them.
        process_seconds: of this process on its processors, likewise.
        evaluation_seconds: of the wall, in evaluations, saving included.
    """

    def __init__(self) -> None:
        self.seconds = self.process_seconds = self.evaluation_seconds = 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        names = ("seconds", "process_seconds", "evaluation_seconds")
        return {"args": {}, "attributes": {name: getattr(self, name) for name in names}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; the summary of an attempt that ended before its model was saved is dropped."""
        super().on_train_begin(args, state, control, **kwargs)
        path = Path(args.output_dir, LOG_FILE)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if "train_runtime" not in json.loads(line)]
        if len(kept) < len(lines):
            with whole_file(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step and what was waited for before it."""
        wall, process = self._wall, self._process
        self._mark()
        self.seconds += self._wall - wall
        self.process_seconds += self._process - process

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an evaluation apart."""
        self._count_evaluation()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count saving apart."""
        self._count_evaluation()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Append a line with the seconds so far."""
        super().on_log(args, state, control, {**(logs or {}), "seconds": round(self.seconds, 3)} if logs else None)

    def _count_evaluation(self) -> None:
        wall = self._wall
        self._mark()
        self.evaluation_seconds += self._wall - wall

    def _mark(self) -> None:
        self._wall, self._process = time.perf_counter(), time.process_time()


class Deadline(TrainerCallback):
    """Ends training at the first checkpoint after a moment.

    Args:
        moment: of `time.time()`; `None`: never.

    Raises:
        TimeIsUp: there.
    """

    def __init__(self, moment: float | None) -> None:
        self.moment = moment

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock once a checkpoint is whole; the last one ends training anyway."""
        has_ended = control.should_training_stop or state.global_step >= state.max_steps
        if self.moment is not None and time.time() > self.moment and not has_ended:
            raise TimeIsUp


class Progress(TrainerCallback):
    """Says how validation goes.

    Args:
        label: of the run.
        metric: name of the validation metric.
    """

    def __init__(self, label: str, metric: str) -> None:
        self.label, self.metric = label, metric

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Say it."""
        value = (metrics or {}).get(self.metric)
        shown = "" if value is None else f", validation {self.metric.removeprefix('eval_')} {value:.4f}"
        logger.info("%s: step %d of %d%s", self.label, state.global_step, state.max_steps, shown)
