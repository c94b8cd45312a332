"""Arguments of `PixRecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from ..losses.pixrec import PixRecLoss
from .data_parallel import settle_batches


@dataclass
class PixRecTrainingArguments(SFTConfig):
    """TRL's `SFTConfig` plus the objective of PixRec (arXiv 2601.06458).

    Defaults that differ from `SFTConfig`: `learning_rate=1e-4` (LoRA's usual range), `per_device_train_batch_size=32`
    and `dataloader_drop_last=True` (the contrastive terms need company), `bf16=False` and
    no `gradient_checkpointing` (they are asked for where the hardware wants them), `remove_unused_columns=False`,
    `max_length=None`, `dataset_kwargs={"skip_prepare_dataset": True}` and `loss_type="nll"` (rows come from
    `PixRecProcessor`, the loss is ours), `report_to="none"`, `metric_for_best_model="eval_ndcg@10"`,
    `save_total_limit=2`, `restore_callback_states_from_checkpoint=True` (a resumed run keeps counting its patience).
    """

    output_dir: str | None = field(default="pixrec-output", metadata={"help": "Folder of checkpoints and logs."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Users per batch = in-batch candidates."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last, shorter batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are nested: keep False."})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=False, metadata={"help": "Train in bfloat16, where the hardware has it."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Less memory for slower steps."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Unused: see max_history and the processor."})
    dataset_kwargs: dict[str, Any] | str | None = field(
        default_factory=lambda: {"skip_prepare_dataset": True},
        metadata={"help": "Rows come ready from the processor: keep skip_prepare_dataset."},
    )
    loss_type: str = field(default="nll", metadata={"help": "Unused: the loss is PixRec's."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers, such as 'trackio'."})
    metric_for_best_model: str | None = field(
        default="eval_ndcg@10", metadata={"help": "Validation metric that picks the best checkpoint."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best one included."})

    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps counting its patience."}
    )

    alpha: float = field(default=0.125, metadata={"help": "Weight of the item-item term."})
    beta: float = field(default=0.125, metadata={"help": "Weight of the user-item term; may be negative."})
    generation_weight: float | None = field(
        default=None, metadata={"help": "Weight of next-item generation; 1 - alpha - beta by default."}
    )
    temperature: float = field(default=0.5, metadata={"help": "tau of both contrastive terms (divides)."})
    symmetric: bool = field(default=True, metadata={"help": "Contrast in both directions."})
    max_history: int = field(default=5, metadata={"help": "Most recent items of a history."})
    mask_seen: bool = field(default=True, metadata={"help": "The newest 200 seen items are no negatives."})
    distinct_targets: bool = field(
        default=True, metadata={"help": "Put examples into batches so that targets differ, where that is possible."}
    )
    gather_negatives: bool = field(
        default=True, metadata={"help": "With several processes, contrast the examples of all of them."}
    )
    freeze_vision: bool = field(default=True, metadata={"help": "Keep the vision tower fixed."})
    cache_vision_features: bool = field(
        default=True, metadata={"help": "Run each picture through a frozen tower once and keep the features."}
    )
    eval_users: int | None = field(
        default=None, metadata={"help": "Evaluate on this many validation users (evenly spread); all by default."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better validation metric, and end with the best "
            "checkpoint: save as often as you evaluate."
        },
    )

    def __post_init__(self) -> None:
        if self.early_stopping_patience is not None:
            if self.eval_strategy == "no":
                raise ValueError(
                    "`early_stopping_patience` needs evaluations: set `eval_strategy` (and `save_strategy`) to "
                    "'steps' or 'epoch'."
                )
            self.load_best_model_at_end = True  # before the base class checks that the best one is saved at all
        super().__post_init__()
        steps = self.eval_strategy == self.save_strategy == "steps"
        if self.early_stopping_patience is not None and steps and self.save_steps != self.eval_steps:
            raise ValueError(
                f"`save_steps` must equal `eval_steps` with `early_stopping_patience`, got {self.save_steps} and "
                f"{self.eval_steps}: the best step would be lost where no checkpoint was written at it."
            )
        settle_batches(self)
        if self.per_device_train_batch_size < 2:
            raise ValueError(
                f"`per_device_train_batch_size` must be at least 2, got {self.per_device_train_batch_size}: the other "
                "users' targets of the batch are the negatives. With 1 both contrastive terms are zero, and "
                "accumulation does not change that."
            )
        for name in ("max_history", "eval_users", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.packing or self.padding_free:
            raise ValueError("`packing` and `padding_free` do not fit PixRec's rows; leave them out.")
        if not isinstance(self.dataset_kwargs, dict) or not self.dataset_kwargs.get("skip_prepare_dataset"):
            raise ValueError(
                f"`dataset_kwargs` must hold skip_prepare_dataset=True, got {self.dataset_kwargs!r}: rows come ready "
                "from `PixRecProcessor`."
            )
        self.make_loss()

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
            sync_counts=self.world_size > 1,  # every user and token of the global batch weighs alike
        )
