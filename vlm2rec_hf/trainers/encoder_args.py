"""Arguments that `VLM2RecTrainer` and `PixRecTrainer` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..catalogues.vision_cache_files import DTYPES
from .data_parallel import settle_batches


@dataclass
class EncoderTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus what training a vision-language model on histories needs, whatever the loss.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-4` (LoRA's usual range),
    `dataloader_drop_last=True` (a short last batch would have fewer candidates), `remove_unused_columns=False` and
    `label_names=[]` (batches are nested), `logging_steps=10`, `report_to="none"`, `save_total_limit=2`,
    `restore_callback_states_from_checkpoint=True` (a resumed run keeps counting its patience) and
    `ddp_find_unused_parameters=False` (the trainer gives every parameter a gradient).
    """

    _argument_group_name = "training"
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Rows per batch, on average; the targets of all of them are the candidates."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last, shorter batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are nested: keep False."})
    logging_steps: float = field(default=10, metadata={"help": "Log every this many steps."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers, such as 'trackio'."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best one included."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps counting its patience."}
    )

    max_history: int | None = field(
        default=None,
        metadata={"help": "Most recent items of a history that are encoded; the processor's own number by default."},
    )
    mask_seen: bool = field(default=True, metadata={"help": "Items that the user has seen are no negatives."})
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
        default=True, metadata={"help": "Run each image through a frozen tower once and keep the features."}
    )
    vision_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that keeps a frozen tower's features across runs."}
    )
    vision_cache_dtype: str = field(
        default="float32", metadata={"help": "What they are kept in: float32, bfloat16 or float16."}
    )
    validation_users: int | None = field(
        default=None,
        metadata={"help": "Rank this many validation users while training, evenly spread; in Python all by default."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better validation metric, and end with the best "
            "checkpoint: save as often as you evaluate."
        },
    )
    model_init_kwargs: dict | str | None = field(
        default=None, metadata={"help": "For `from_pretrained` where `model` is a Hub id or path."}
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
                "users' targets of the batch are the negatives, and accumulation does not add any."
            )
        if isinstance(self.model_init_kwargs, str):
            raise ValueError(f"`model_init_kwargs` must be a dict or a JSON object, got {self.model_init_kwargs!r}.")
        if self.max_history is not None and self.max_history < 1:
            raise ValueError(f"`max_history` must be at least 1, got {self.max_history}.")
        for name in ("validation_users", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1 or None, got {value}.")
        if self.vision_cache_dtype not in DTYPES:
            raise ValueError(f"`vision_cache_dtype` must be one of {DTYPES}, got {self.vision_cache_dtype!r}.")
        if self.vision_cache_dir is None and self.vision_cache_dtype != "float32":
            raise ValueError(
                f"`vision_cache_dtype` {self.vision_cache_dtype!r} is how `vision_cache_dir` keeps features, and "
                "there is none; name it, or leave both out."
            )
        if self.vision_cache_dir is not None and not self.cache_vision_features:
            raise ValueError("`vision_cache_dir` needs `cache_vision_features=True`; leave one of them out.")
        if self.ddp_find_unused_parameters is None:
            # Searching the graph takes time and cannot follow gradient caching; the trainer gives every parameter a
            # gradient instead, of zero where a batch leaves one out.
            self.ddp_find_unused_parameters = False
        self.make_loss()  # so that a bad switch is named now rather than after loading the data

    def make_loss(self) -> Any:
        """The loss these arguments describe; subclasses make it.

        Raises:
            ValueError: a switch or number that the loss does not take.
        """
        raise NotImplementedError
