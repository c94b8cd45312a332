"""Arguments of `PixRecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..losses.pixrec import PixRecLoss
from .encoder_args import EncoderTrainingArguments


@dataclass
class PixRecTrainingArguments(EncoderTrainingArguments):
    """`EncoderTrainingArguments` plus the objective of PixRec (arXiv 2601.06458).

    Defaults that differ: `per_device_train_batch_size=32` and
    `metric_for_best_model="eval_ndcg@10"`. The base class names those that differ from `TrainingArguments`.
    """

    output_dir: str | None = field(default="pixrec-output", metadata={"help": "Folder of checkpoints and logs."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Users per batch = in-batch candidates."})
    metric_for_best_model: str | None = field(
        default="eval_ndcg@10", metadata={"help": "Validation metric that picks the best checkpoint."}
    )

    alpha: float = field(default=0.125, metadata={"help": "Weight of the item-item term."})
    beta: float = field(default=0.125, metadata={"help": "Weight of the user-item term; may be negative."})
    generation_weight: float | None = field(
        default=None, metadata={"help": "Weight of next-item generation; 1 - alpha - beta by default."}
    )
    temperature: float = field(default=0.5, metadata={"help": "tau of both contrastive terms (divides)."})
    symmetric: bool = field(default=True, metadata={"help": "Contrast in both directions."})
    distinct_targets: bool = field(
        default=True, metadata={"help": "Put examples into batches so that targets differ, where that is possible."}
    )

    def make_loss(self) -> PixRecLoss:
        """The loss these arguments describe.

        Raises:
            ValueError: a number that the loss does not take.
        """
        return PixRecLoss(
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            generation_weight=self.generation_weight,
            symmetric=self.symmetric,
        )
