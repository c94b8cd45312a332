"""`RecommendationTrainer`: what the trainers of all methods do alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from .adapters import inner_model
from .best_metric import check_best_metric
from .checkpoints import CompleteCheckpoints
from .hub_publishing import PublishesToHub
from .step_metrics import StepMetrics
from .training_facts import dataset_facts

if TYPE_CHECKING:
    from ..data.dataset import RecDataset


class RecommendationTrainer(PublishesToHub, CompleteCheckpoints, Trainer):  # type: ignore[misc]
    """Base of our trainers, over `transformers.Trainer`.

    It adds whole checkpoints (`CompleteCheckpoints`), saving and publishing (`PublishesToHub`), means of what steps
    measure in the training log (`step_metrics`), evaluation that ranks held-out interactions in the place of a loss
    over an evaluation set, early stopping, and the dataset's facts in `training.json`.

    A subclass sets the class attributes and overrides `compute_loss` and `validation_metrics`.

    Args:
        model: of class `_model_class`, or a PEFT model around one.
        args: the method's training arguments.
        dataset: the `RecDataset` that is trained on, for the facts.
        callbacks: more callbacks.
        early_stopping_patience: evaluations without improvement before training stops; `None` or 0: it does not.
        options: other arguments of `Trainer`.
    """

    _tag_names: list[str] = []
    _model_class: type[PreTrainedModel]

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        dataset: RecDataset,
        *,
        callbacks: list[TrainerCallback] | None = None,
        early_stopping_patience: int | None = None,
        **options: Any,
    ) -> None:
        self.step_metrics = StepMetrics()
        self._dataset_facts = dataset_facts(dataset)
        names = self.validation_names(inner_model(model, self._model_class))
        if names is not None:
            check_best_metric(args, names)
        callbacks = list(callbacks or [])
        if early_stopping_patience:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience))
        super().__init__(model=model, args=args, callbacks=callbacks, **options)
        self.model_accepts_loss_kwargs = False
        if hasattr(self.model, "add_model_tags"):
            self.model.add_model_tags(self._tag_names)

    @property
    def trained(self) -> Any:
        """The model being trained, adapters included, without PEFT's and accelerate's wrappers."""
        return inner_model(self.accelerator.unwrap_model(self.model), self._model_class)

    @property
    def shares_evaluation(self) -> bool:
        """Whether processes can encode different rows: each holds the whole model (DDP), and there are several."""
        return self.args.world_size > 1 and not self.is_fsdp_enabled and not self.is_deepspeed_enabled

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank what is held out; subclasses do.

        Args:
            eval_dataset: what to rank instead of the trainer's own validation users.

        Returns:
            Metrics by name, without a prefix.
        """
        raise NotImplementedError

    def validation_names(self, model: Any) -> Sequence[str] | None:
        """Names of what `validation_metrics` measures, to check `metric_for_best_model` by; None: not known before.

        Args:
            model: the model before it is trained, without PEFT's wrapper.
        """
        return None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank what is held out over the full catalogue; see `validation_metrics`.

        Args:
            eval_dataset: see `validation_metrics`.
            ignore_keys: not used.
            metric_key_prefix: of the names.

        Returns:
            The metrics, each name behind the prefix (`eval_...`), and `eval_runtime` in seconds.
        """
        start = time.perf_counter()
        ranked = self.validation_metrics(eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in ranked.items()}
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - start
        self.log({**metrics})  # the library adds the epoch to what it is given
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: the library's rule of thumb is for one flat batch of a language model."""
        return 0

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; to a training loss the means of `step_metrics` since the last one are added."""
        # An evaluation, under whatever prefix, leaves them for the training log.
        if any(name == "loss" or name.startswith("train_") for name in logs):
            logs = {**logs, **self.step_metrics.means()}
        super().log(logs, *args, **kwargs)

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: as `PublishesToHub`'s, plus the dataset."""
        return {**super().training_facts(), "dataset": self._dataset_facts}


def require_dataset(dataset: RecDataset | None) -> RecDataset:
    """The dataset that a trainer was given.

    Raises:
        ValueError: none was.
    """
    if dataset is None:
        raise ValueError("`train_dataset` is required; make one with `load_recsys(...)` or `RecDataset`.")
    return dataset
