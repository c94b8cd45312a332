"""A training progress bar on standard error, in place of the library's printed logs."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class StepBar(TrainerCallback):
    """Shows steps, loss and both margins.

    Args:
        label: text in front of the bar.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, leave=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest numbers."""
        names = {"loss": "loss", "margin_text": "text", "margin_image": "image"}
        shown = {short: f"{logs[name]:.3f}" for name, short in names.items() if logs and name in logs}
        if self.bar is not None and shown:
            self.bar.set_postfix(shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def show_only(trainer: Any, label: str) -> None:
    """Replace the trainer's own printing by a `StepBar`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(StepBar(label))
