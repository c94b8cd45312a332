"""Arguments of `VLM2RecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..catalogues.vision_cache_files import DTYPES
from ..losses.vlm2rec import OBJECTIVES, VLM2RecLoss
from .data_parallel import settle_batches


@dataclass
class VLM2RecTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus the objective of VLM2Rec.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-4` (LoRA's usual range), `num_train_epochs=3` and
    `gradient_checkpointing` stay as the paper has them where memory asks for it, `per_device_train_batch_size=64`
    (in-batch candidates need company), `dataloader_drop_last=True` (a short last batch would have fewer candidates),
    `remove_unused_columns=False` and `label_names=[]` (batches are nested), `logging_steps=10`, `report_to="none"`,
    `metric_for_best_model="eval_both_ndcg@10"`, `save_total_limit=2`.

    Every `float | str` number below may be a schedule over training progress, such as `"linear:0->5@0.2"`.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    output_dir: str | None = field(default="vlm2rec-output", metadata={"help": "Folder of checkpoints and logs."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Users per batch = in-batch candidates."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last, shorter batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are nested: keep False."})
    logging_steps: float = field(default=10, metadata={"help": "Log every this many steps."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers, such as 'trackio'."})
    metric_for_best_model: str | None = field(
        default="eval_both_ndcg@10", metadata={"help": "Validation metric that picks the best checkpoint."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best one included."})

    objective: str = field(default="wpcl+crtr", metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    temperature: str = field(default="0.05", metadata={"help": "tau of InfoNCE and WPCL (divides)."})
    wpcl_lambda: str = field(default="5.0", metadata={"help": "Strength of the weak-modality penalty."})
    crtr_beta: str = field(default="0.2", metadata={"help": "Weight of CRTR."})
    crtr_temperature: str = field(default="0.1", metadata={"help": "tau_r of CRTR (divides)."})
    margin: str = field(default="mean", metadata={"help": "Margin form: mean, hardest, logmeanexp or logprob."})
    penalty: str = field(default="exp", metadata={"help": "Weight form: exp or linear."})
    detach: str = field(default="strong", metadata={"help": "Margins without gradient: strong or both."})
    scope: str = field(default="user", metadata={"help": "One gap per user, or per pair of user and negative."})
    crtr_stop_gradient: str = field(default="strong", metadata={"help": "none, or strong: only the weak one moves."})
    unimodal_weight: str = field(
        default="0.3333333333333333", metadata={"help": "Weight of each single view in sft+unimodal."}
    )
    modality_dropout: float = field(
        default=0.3, metadata={"help": "Chance that one view of an example is dropped (objective modality_dropout)."}
    )
    max_history: int = field(default=10, metadata={"help": "Most recent items of a history that are encoded."})
    mask_seen: bool = field(default=True, metadata={"help": "The newest 200 seen items are no negatives."})
    gradient_cache_mini_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Users per forward pass with gradient caching: large batches in the memory of this many; off by "
            "default, as every row is embedded twice."
        },
    )
    gather_negatives: bool = field(
        default=True, metadata={"help": "With several processes, the targets of all of them are candidates."}
    )
    freeze_vision: bool = field(
        default=True,
        metadata={
            "help": "Keep the vision tower fixed, adapters inside it included. false: train it; with an adapter only "
            "the adapter's own weights inside the tower train, as the tower's would not be saved."
        },
    )
    cache_vision_features: bool = field(
        default=True, metadata={"help": "Run each picture through a frozen tower once and keep the features."}
    )
    vision_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that keeps a frozen tower's features across runs."}
    )
    vision_cache_dtype: str = field(
        default="float32", metadata={"help": "What they are kept in: float32, bfloat16 or float16."}
    )
    eval_users: int | None = field(
        default=None, metadata={"help": "Evaluate on this many validation users (evenly spread); all by default."}
    )
    model_init_kwargs: dict | str | None = field(
        default=None, metadata={"help": "For `from_pretrained` where `model` is a Hub id or path."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_batches(self)
        if self.per_device_train_batch_size < 2:
            raise ValueError(
                f"`per_device_train_batch_size` must be at least 2, got {self.per_device_train_batch_size}: the other "
                "users' targets of the batch are the negatives, and accumulation does not add any."
            )
        if isinstance(self.model_init_kwargs, str):
            raise ValueError(f"`model_init_kwargs` must be a dict or a JSON object, got {self.model_init_kwargs!r}.")
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"`modality_dropout` must lie in [0, 1), got {self.modality_dropout}.")
        if self.max_history < 1:
            raise ValueError(f"`max_history` must be at least 1, got {self.max_history}.")
        if self.vision_cache_dtype not in DTYPES:
            raise ValueError(f"`vision_cache_dtype` must be one of {DTYPES}, got {self.vision_cache_dtype!r}.")
        if self.vision_cache_dir is not None and not self.cache_vision_features:
            raise ValueError("`vision_cache_dir` needs `cache_vision_features=True`; leave one of them out.")
        if self.gradient_cache_mini_batch_size is not None and self.gradient_cache_mini_batch_size < 1:
            raise ValueError(
                f"`gradient_cache_mini_batch_size` must be at least 1 or None, got "
                f"{self.gradient_cache_mini_batch_size}."
            )
        if self.ddp_find_unused_parameters is None:
            # Searching the graph takes time and cannot follow gradient caching; the trainer gives every parameter a
            # gradient instead, of zero where a batch leaves one out.
            self.ddp_find_unused_parameters = False
        if self.eval_users is not None and self.eval_users < 1:
            raise ValueError(f"`eval_users` must be at least 1 or None, got {self.eval_users}.")
        self.make_loss()

    def make_loss(self) -> VLM2RecLoss:
        """The loss these arguments describe.

        Raises:
            ValueError: a switch or number that the loss does not take.
        """
        return VLM2RecLoss(
            self.objective,
            temperature=self.temperature,
            wpcl_lambda=self.wpcl_lambda,
            crtr_beta=self.crtr_beta,
            crtr_temperature=self.crtr_temperature,
            margin=self.margin,
            penalty=self.penalty,
            detach=self.detach,
            scope=self.scope,
            crtr_stop_gradient=self.crtr_stop_gradient,
            unimodal_weight=self.unimodal_weight,
        )
