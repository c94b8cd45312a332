"""A budget in seconds: steps are timed once, and the number that fits is what the run then has."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .runs import Run, read_json, write_json

if TYPE_CHECKING:
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments

MAX_SECONDS = "max_seconds"
BUDGET_FILE = "budget.json"
FIRST_STEPS, TIMED_STEPS = 3, 12
"""Steps that are not timed, as they warm caches up, and steps that are (our choice)."""


class StepTimes(TrainerCallback):
    """Seconds at the end of every step: of this process on a CPU, where others may slow it down, else of the wall."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.times.append(time.process_time() if args.device.type == "cpu" else time.perf_counter())


def steps_within(run: Run, seconds: Any) -> int:
    """Steps that a run has for its seconds; 1 as long as its steps were not timed.

    Raises:
        ValueError: `max_seconds` is no positive number, or `max_steps` is named as well.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
        raise ValueError(f"`max_seconds` must be a number above 0, got {seconds!r}.")
    if "max_steps" in run.arguments:
        raise ValueError("`max_seconds` and `max_steps` are both named; a budget is one of them.")
    path = run.folder / BUDGET_FILE
    return int(read_json(path)["max_steps"]) if path.is_file() else 1


def settle_budget(
    run: Run, arguments: VLM2RecTrainingArguments, make_trainer: Callable[[VLM2RecTrainingArguments], Any]
) -> None:
    """Time some steps of a run, on weights that are thrown away, and write the number of steps for its seconds.

    So the learning rate falls over the steps that there will be, and a resumed run has as many as an unbroken one.

    Args:
        run: the run.
        arguments: its training arguments.
        make_trainer: makes its trainer.
    """
    if (run.folder / BUDGET_FILE).is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        timed = replace(
            arguments,
            output_dir=scratch,
            max_steps=FIRST_STEPS + TIMED_STEPS,
            load_best_model_at_end=False,
            eval_strategy="no",
            save_strategy="no",
        )
        trainer, times = make_trainer(timed), StepTimes()
        trainer.add_callback(times)
        trainer.train()
    seconds = (times.times[-1] - times.times[FIRST_STEPS - 1]) / TIMED_STEPS
    steps = max(int(run.arguments[MAX_SECONDS] / seconds), 1)
    write_json(run.folder / BUDGET_FILE, {"seconds_per_step": seconds, "max_steps": steps})
