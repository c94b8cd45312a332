"""What a person sees while a model trains: one bar; and the file that keeps every number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..files import whole_file

LOG_FILE = "training_log.jsonl"
SHOWN = {"loss": "loss", "margin_text": "text", "margin_image": "image"}


class StepBar(TrainerCallback):
    """Shows steps, elapsed and remaining time, targets (or examples) per second, loss and both margins.

    Args:
        label: text in front of the bar.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, in the process that writes."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, leave=True)
        self.start, self.first = time.perf_counter(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest numbers."""
        shown = {short: f"{logs[name]:.3f}" for name, short in SHOWN.items() if logs and name in logs}
        if self.bar is not None and shown:
            per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            rate = (state.global_step - self.first) * per_step / (time.perf_counter() - self.start)
            speed = {"examples/s": f"{rate:.0f}"}
            if logs and "targets_per_second" in logs:
                speed = {"targets/s": f"{logs['targets_per_second']:.0f}"}
            self.bar.set_postfix({**speed, **shown})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class LogFile(TrainerCallback):
    """Keeps everything that is logged in `output_dir/training_log.jsonl`, one JSON object with its `step` per line.

    A resumed run goes on behind the step it resumes from; what an earlier run logged after that step is dropped, as
    its weights were. A fresh run keeps an earlier one's file under another name.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the file."""
        path = Path(args.output_dir, LOG_FILE)
        if not state.is_world_process_zero or not path.exists():
            return
        if state.global_step == 0:
            number = 1
            while (older := path.with_name(f"training_log.{number}.jsonl")).exists():
                number += 1
            path.rename(older)
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= state.global_step]
        with whole_file(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Append a line."""
        if state.is_world_process_zero and logs:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            with Path(args.output_dir, LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}, default=str) + "\n")


def show_only(trainer: Any, label: str) -> None:
    """Replace the trainer's own printing by a `StepBar`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(StepBar(label))


def _step_of(line: str) -> float:
    """The step of a line; a half-written one, of a run that was killed, belongs to no step that is kept."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
