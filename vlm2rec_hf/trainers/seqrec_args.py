"""Arguments of `SeqRecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..losses.next_item import LOSSES, NEGATIVES_FROM, NextItemLoss
from .data_parallel import settle_batches


@dataclass
class SeqRecTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus what a sequential head is trained with.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-3`, `adam_beta2=0.98` and no weight decay (as
    SASRec), `num_train_epochs=100` bounded by `early_stopping_patience`, evaluation and checkpoint once per epoch, the
    best one by validation NDCG@10 loaded at the end, `report_to="none"`, `remove_unused_columns=False`,
    `restore_callback_states_from_checkpoint=True` (a resumed run keeps counting its patience).
    """

    _argument_group_name = "training"

    output_dir: str | None = field(default="seqrec-output", metadata={"help": "Folder of checkpoints and logs."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second moment's decay."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over all users, at most."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Rows per batch, on average."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=100, metadata={"help": "Steps (or share of them) of linear warm-up."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to rank the validation users."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept: the best and the newest."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the loss."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(default="eval_ndcg@10", metadata={"help": "What best means."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of it is better."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps counting its patience."}
    )
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers, such as 'trackio'."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False."})

    loss: str = field(default="cross_entropy", metadata={"help": f"One of {', '.join(LOSSES)}."})
    n_negatives: int = field(default=256, metadata={"help": "Negatives of the sampled losses."})
    negatives_from: str = field(default="uniform", metadata={"help": f"One of {', '.join(NEGATIVES_FROM)}."})
    popularity_power: float = field(default=1.0, metadata={"help": "Exponent of popularity draws."})
    gbce_t: float = field(default=0.75, metadata={"help": "Calibration t of gbce."})
    block_scores: int | None = field(
        default=None, metadata={"help": "Scores the full softmax holds at once; by device if not given."}
    )
    mask_probability: float = field(default=0.2, metadata={"help": "Share of items masked (bert4rec)."})
    windows: str = field(
        default="last", metadata={"help": "Train on each user's last max_length items, or on all of them in rows."}
    )
    bucket_by_length: bool = field(default=True, metadata={"help": "Put rows of similar length together."})
    validation_users: int | None = field(
        default=None,
        metadata={"help": "Hold out this many users' validation items and train on the others'; all users' if None."},
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Evaluations without improvement before stopping; 0 never stops early."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_batches(self)
        for name in ("n_negatives", "per_device_train_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("block_scores", "validation_users"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1 or None, got {getattr(self, name)}.")
        if not 0.0 < self.mask_probability < 1.0:
            raise ValueError(f"`mask_probability` must lie between 0 and 1, got {self.mask_probability}.")
        if self.windows not in ("last", "all"):
            raise ValueError(f"`windows` must be 'last' or 'all', got {self.windows!r}.")
        if self.early_stopping_patience < 0:
            raise ValueError(f"`early_stopping_patience` must be at least 0, got {self.early_stopping_patience}.")
        if self.negatives_from == "uniform":
            self.make_loss()  # so that a bad switch is named now rather than after loading the data

    def make_loss(self, counts: object = None) -> NextItemLoss:
        """The loss these arguments describe.

        Args:
            counts: `(n_items,)` tensor of training counts, for popularity draws.

        Raises:
            ValueError: a switch or number that the loss does not take.
        """
        return NextItemLoss(
            self.loss,
            n_negatives=self.n_negatives,
            negatives_from=self.negatives_from,
            popularity_power=self.popularity_power,
            gbce_t=self.gbce_t,
            counts=counts,  # type: ignore[arg-type]
            # A processor wants blocks that fit its cache, an accelerator large ones.
            block_scores=self.block_scores or (2**20 if self.device.type == "cpu" else 2**26),
        )
