"""`EncoderTrainer`: what training a vision-language model on histories takes, whatever the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..modeling.backbone_vlm2rec import BackboneModel
from ..modeling.hub_loading import hub_arguments
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .adapters import continue_adapter, inner_model, is_peft, prepare_adapter_training, wrap_with_adapter
from .base_trainer import RecommendationTrainer, require_dataset
from .encoder_args import EncoderTrainingArguments
from .frozen_vision import evaluated_catalogue, settle_features, unfreeze_vision
from .training_facts import adapter_facts
from .validation import EvaluationCatalogues, has_validation, validation_examples

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from ..data.dataset import RecDataset
    from ..data.sequences import Examples

Evaluator = Callable[[nn.Module], dict[str, float]]
DATA_WAIT = "data_wait"


class EncoderTrainer(RecommendationTrainer):
    """Base of `VLM2RecTrainer` and `PixRecTrainer`; follows TRL's conventions.

    Model (given, or loaded by name), processor, adapters, vision tower, catalogue, training examples and the ranking
    of the validation split are settled here, so every option of `EncoderTrainingArguments` acts in both. A subclass
    sets the class attributes and overrides `compute_loss`, `make_collator` and `rank`.

    Args:
        model: a model of `_model_class`, a PEFT model around one, or a Hub id or path to load one from.
        args: of `_arguments_class`; its defaults where not given.
        data_collator: by default what `make_collator` makes.
        train_dataset: a `RecDataset`; its training split is used.
        eval_dataset: a `RecDataset` whose validation split is ranked at every evaluation; `train_dataset` by default.
        processing_class: the processor; loaded beside `model` where that is an id or path.
        callbacks: more callbacks.
        optimizers: an optimizer and a schedule, by default AdamW and `args.lr_scheduler_type`.
        peft_config: wrap the model, for instance with `default_lora_config()`.
        evaluator: replaces the ranking of the validation split: called with the model, returns metrics.
        catalogue: prepared items, to share between trainers; made from the dataset otherwise.

    Raises:
        ValueError: missing or contradicting arguments.
    """

    _model_class: type[BackboneModel]
    _processor_class: type[VLM2RecProcessor]
    _arguments_class: type[EncoderTrainingArguments]
    _trained_beside_adapters: str | None = ".modules_to_save."
    """Part of the names of weights that are trained and saved with an adapter."""

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: RecDataset | None = None,
        eval_dataset: RecDataset | None = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
        evaluator: Evaluator | None = None,
        catalogue: PreparedCatalogue | None = None,
    ) -> None:
        dataset = require_dataset(train_dataset)
        args = args if args is not None else self._arguments_class()
        model, processor = self._model_and_processor(model, args, processing_class)
        inner = inner_model(model, self._model_class)
        self.check_model(inner, args)
        model = self._with_adapters(model, inner, args, peft_config)
        settle_history(args, processor)
        self.catalogue = self._prepared(catalogue, dataset, processor)
        settle_features(self.catalogue, inner, args)
        self.loss = args.make_loss()
        self.loss.sync_counts = args.world_size > 1  # every user of the global batch weighs alike
        self.evaluator = evaluator
        self.recommendation_eval = eval_dataset if eval_dataset is not None else dataset
        if args.eval_strategy != "no" and evaluator is None and not has_validation(self.recommendation_eval):
            given = "train_dataset" if eval_dataset is None else "eval_dataset"
            raise ValueError(
                f"`{given}` has no validation split; call `leave_one_out()` or `temporal_split(...)` on it, or train "
                "with eval_strategy='no'."
            )
        self._catalogues = EvaluationCatalogues(dataset, self.catalogue, self._other_catalogue)
        training = self.make_train_dataset(dataset, args)
        super().__init__(
            model,
            args,
            dataset,
            data_collator=data_collator or self.make_collator(args),
            train_dataset=training,
            # The base class only asks whether there is one; `evaluate` ranks the validation split itself.
            eval_dataset=self.recommendation_eval,
            processing_class=processor,
            callbacks=callbacks,
            early_stopping_patience=args.early_stopping_patience,
            optimizers=optimizers,
        )
        self.finish_setup()

    def check_model(self, model: Any, args: Any) -> None:
        """Refuse a model that the arguments cannot train; nothing is refused here.

        Args:
            model: of `_model_class`, without PEFT's wrapper.
            args: the training arguments.
        """

    def finish_setup(self) -> None:
        """End the constructor with what a method needs; here nothing."""

    def make_train_dataset(self, dataset: RecDataset, args: Any) -> Any:
        """What training batches are made of; subclasses make it.

        Args:
            dataset: whose training split.
            args: the training arguments.
        """
        raise NotImplementedError

    def make_collator(self, args: Any) -> Callable[[list[Any]], dict[str, Any]]:
        """The collator of training batches, over `self.catalogue`; subclasses make it."""
        raise NotImplementedError

    def rank(self, catalogue: PreparedCatalogue, examples: Examples, **options: Any) -> dict[str, float]:
        """Rank held-out interactions over a catalogue; subclasses do.

        Args:
            catalogue: the prepared items, in the order in which `examples` count them.
            examples: who to rank for.
            options: `batch_size` and `across_processes` of the method's evaluation.

        Returns:
            Metrics by name, without a prefix.
        """
        raise NotImplementedError

    def rank_names(self, model: Any) -> Sequence[str]:
        """Names of what `rank` measures of a model."""
        raise NotImplementedError

    def items_of(self, dataset: RecDataset, processor: Any, like: Any = None) -> Any:
        """The items of a dataset, as a catalogue is prepared from them.

        Args:
            dataset: whose items.
            processor: the trainer's.
            like: items of the training dataset, to describe these alike; `None` for that dataset itself.
        """
        return dataset.catalogue_items()

    def validation_names(self, model: Any) -> Sequence[str] | None:
        """Names of what `rank` measures; None where an `evaluator` measures what it likes."""
        return self.rank_names(model) if self.evaluator is None else None

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank the validation split over the full catalogue, or call the `evaluator`.

        Args:
            eval_dataset: a `RecDataset`; the trainer's own by default.

        Returns:
            See `rank`.
        """
        if self.evaluator is not None:
            return self.evaluator(self.accelerator.unwrap_model(self.model))
        dataset = eval_dataset if eval_dataset is not None else self.recommendation_eval
        return self.rank(
            self._catalogues.of(dataset),
            validation_examples(dataset, self.args.max_history, self.args.validation_users),
            batch_size=self.args.per_device_eval_batch_size,
            across_processes=self.shares_evaluation,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the next step; records the seconds that the step had to wait for them."""
        start = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self.step_metrics.add(DATA_WAIT, time.perf_counter() - start)
        return samples

    def record_loss(self, output: Any) -> None:
        """Record the terms and diagnostics of a training step's loss."""
        for name, value in (*output.terms.items(), *output.diagnostics.items()):
            self.step_metrics.add(name, value)

    def _model_and_processor(
        self, model: Any, args: EncoderTrainingArguments, processor: ProcessorMixin | None
    ) -> tuple[Any, Any]:
        """Both as objects, loaded where `model` is a name."""
        if isinstance(model, str):
            options: Any = args.model_init_kwargs or {}
            processor = processor or self._processor_class.from_pretrained(model, **hub_arguments(options))
            model = self._model_class.from_pretrained(model, **options)
        elif args.model_init_kwargs:
            raise ValueError("`model_init_kwargs` only applies where `model` is a Hub id or path.")
        if not isinstance(processor, self._processor_class):
            wanted = self._processor_class.__name__
            raise ValueError(f"`processing_class` must be a {wanted}, got {type(processor).__name__}.")
        return model, processor

    def _with_adapters(
        self, model: Any, inner: BackboneModel, args: EncoderTrainingArguments, peft_config: PeftConfig | None
    ) -> Any:
        """The model with the adapters that are trained, and the vision tower frozen or not."""
        continue_adapter(inner, peft_config, also=self._trained_beside_adapters)
        if not args.freeze_vision and not is_peft(model) and not inner.holds_adapter:
            unfreeze_vision(inner)
        if peft_config is not None:
            model = wrap_with_adapter(model, peft_config, args)
        if adapter_facts(model) is not None:
            prepare_adapter_training(model, inner, args)
        if args.freeze_vision:
            inner.freeze_vision()  # after the adapters: those inside the tower stay as they are, too
        return model

    def _prepared(self, catalogue: PreparedCatalogue | None, dataset: RecDataset, processor: Any) -> PreparedCatalogue:
        """The catalogue that was given, or one made of the dataset's items."""
        if catalogue is None:
            return PreparedCatalogue(self.items_of(dataset, processor), processor)
        if _settings(catalogue.processor) != _settings(processor):
            raise ValueError(
                "`catalogue` was prepared with a processor of other settings than `processing_class`, which is what "
                "would be saved; pass `processing_class=catalogue.processor`, or prepare the catalogue again."
            )
        catalogue.check_items(dataset.item_ids)
        return catalogue

    def _other_catalogue(self, dataset: RecDataset) -> PreparedCatalogue:
        processor = self.catalogue.processor
        items = self.items_of(dataset, processor, like=self.catalogue.items)
        return evaluated_catalogue(items, processor, self.trained, self.args)


def _settings(processor: Any) -> dict[str, Any]:
    """What decides how a processor lays out rows, beside tokenizer and image processor."""
    return {name: value for name, value in vars(processor).items() if isinstance(value, (str, int, bool, type(None)))}


def settle_history(args: EncoderTrainingArguments, processor: Any) -> None:
    """Give training the processor's `max_history`: what is trained and what the saved processor lays out are one.

    Raises:
        ValueError: the arguments name another number.
    """
    if args.max_history not in (None, processor.max_history):
        raise ValueError(
            f"`max_history` of the arguments is {args.max_history}, but the processor, which is saved with the model, "
            f"keeps {processor.max_history} items of a history; make the processor with `max_history="
            f"{args.max_history}`, or leave it out of the arguments."
        )
    args.max_history = processor.max_history


def check_count(count: int) -> None:
    """Refuse a dataset that gives no batch.

    Raises:
        ValueError: fewer than two training examples.
    """
    if count < 2:
        raise ValueError(
            f"`train_dataset` has {'one' if count else 'no'} training example, and a batch contrasts two or more: a "
            "user needs two training interactions, the second one with an item that has a text or an image."
        )
