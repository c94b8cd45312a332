"""`PixRecTrainer`: next-item generation and two contrastive terms on one vision-language model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel, ProcessorMixin, TrainerCallback, set_seed
from trl import SFTTrainer

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..losses.gather import gather_pairs
from ..modeling.hub_loading import hub_arguments
from ..modeling.modeling_pixrec import PixRecModel
from ..modeling.processing_pixrec import PixRecProcessor
from .adapters import continue_adapter, default_lora_config, inner_model
from .checkpoints import CompleteCheckpoints
from .collator import ExampleDataset, trainable_examples
from .data_parallel import needs_every_parameter, zero_of
from .hub_publishing import PublishesToHub
from .pixrec_args import PixRecTrainingArguments
from .pixrec_batches import DistinctTargetSampler, PixRecCollator
from .ranking_evaluation import RankingEvaluation
from .step_metrics import StepMetrics
from .training_facts import dataset_facts
from .validation import EvaluationCatalogues, validation_examples

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from ..data.dataset import RecDataset

logger = logging.getLogger(__name__)
HEADS = ["user_projection", "item_projection"]


class _OneCardPerRun(SFTTrainer):
    """`SFTTrainer` without a card in every checkpoint: ours is made from the finished model's folder."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super(SFTTrainer, self)._save_checkpoint(model, trial)


class PixRecTrainer(RankingEvaluation, PublishesToHub, CompleteCheckpoints, _OneCardPerRun):  # type: ignore[misc]
    """Training of a `PixRecModel` on a `RecDataset`, on top of TRL's `SFTTrainer`.

    `SFTTrainer` takes a `datasets.Dataset` and prepares it into flat `input_ids`. An example here is a history, a
    target, pictures, and a second batch of items, so the dataset handed to it holds row numbers only, its preparation
    is skipped (`skip_prepare_dataset`), and the collator lays the rows out. Its loss is replaced by `PixRecLoss`;
    model and adapter handling, the training loop, logging and saving are its own.

    Args:
        model: a `PixRecModel`, a PEFT model around one, or a Hub id or path to load one from.
        args: a `PixRecTrainingArguments`.
        data_collator: by default a `PixRecCollator`.
        train_dataset: a `RecDataset`; its training split is used.
        eval_dataset: a `RecDataset` whose validation split is ranked at every evaluation; `train_dataset` by default.
        processing_class: the `PixRecProcessor`; loaded beside `model` where that is an id or path.
        callbacks: more callbacks.
        optimizers: an optimizer and a schedule, by default AdamW and `args.lr_scheduler_type`.
        peft_config: wrap the model, for instance with `pixrec_lora_config()`.
        catalogue: prepared items, to share between trainers; made from the dataset otherwise.

    Raises:
        ValueError: missing or contradicting arguments.
    """

    _tag_names = ["vlm2rec", "pixrec", "recommendation", "multimodal"]
    _name = _method = "PixRec"
    _paper = {"title": "PixRec", "id": "2601.06458"}

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: PixRecTrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: RecDataset | None = None,
        eval_dataset: RecDataset | None = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
        catalogue: PreparedCatalogue | None = None,
    ) -> None:
        if train_dataset is None:
            raise ValueError("`train_dataset` is required; make one with `load_recsys(...)` or `RecDataset`.")
        args = args or PixRecTrainingArguments()
        if isinstance(model, str):
            options: Any = args.model_init_kwargs or {}
            processing_class = processing_class or PixRecProcessor.from_pretrained(model, **hub_arguments(options))
            model = PixRecModel.from_pretrained(model, **options)
            args.model_init_kwargs = None  # used up
        elif args.model_init_kwargs:
            raise ValueError("`model_init_kwargs` only applies where `model` is a Hub id or path.")
        if not isinstance(processing_class, PixRecProcessor):
            raise ValueError(f"`processing_class` must be a PixRecProcessor, got {type(processing_class).__name__}.")
        inner = inner_model(model, PixRecModel)
        if args.freeze_vision:
            inner.freeze_vision()
        continue_adapter(inner, peft_config, also=".modules_to_save.")
        if catalogue is not None and _settings(catalogue.processor) != _settings(processing_class):
            raise ValueError(
                "`catalogue` was prepared with a processor of other settings than `processing_class`, which is what "
                "would be saved; pass `processing_class=catalogue.processor`, or prepare the catalogue again."
            )
        self.catalogue = catalogue or PreparedCatalogue(_items(train_dataset, processing_class), processing_class)
        self._use_features(inner, args)
        self.loss = args.make_loss()
        inner.config.alpha, inner.config.beta, inner.config.temperature = args.alpha, args.beta, args.temperature
        eval_dataset = eval_dataset if eval_dataset is not None else train_dataset
        self.recommendation_eval = eval_dataset
        self._catalogues = EvaluationCatalogues(train_dataset, self.catalogue, self._other_catalogue)
        self._dataset_facts = dataset_facts(train_dataset)
        self.examples = ExampleDataset(
            trainable_examples(train_dataset.examples("train", max_history=args.max_history), self.catalogue)
        )
        least = args.train_batch_size if args.dataloader_drop_last else 2
        if len(self.examples) < least:
            raise ValueError(
                f"`train_dataset` must give at least {least} training examples, got {len(self.examples)}; lower "
                "`per_device_train_batch_size`. A user needs two training interactions, the second one with an item "
                "that has a text or a picture."
            )
        if args.early_stopping_patience is not None:
            callbacks = [*(callbacks or []), EarlyStoppingCallback(args.early_stopping_patience)]
        if peft_config is not None:
            set_seed(args.seed)  # the adapters' random start belongs to the run; TRL 1.10 does not see to it
        forward = vars(inner).get("forward")
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=data_collator or PixRecCollator(self.catalogue, self.examples, args.max_history),
            train_dataset=_row_numbers(len(self.examples)),
            # The base class only asks whether there is one; `evaluate` below ranks the validation split itself.
            eval_dataset=eval_dataset,  # type: ignore[arg-type]
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        # SFTTrainer puts a forward with a fused head of its own in front of the model's, which nobody calls here.
        vars(inner).pop("forward", None)
        if forward is not None:
            vars(inner)["forward"] = forward
        self._recorded = {"train": StepMetrics(), "eval": StepMetrics()}
        self.model_accepts_loss_kwargs = False

    @property
    def pixrec(self) -> PixRecModel:
        """The model being trained, adapters included, without PEFT's and accelerate's wrappers."""
        return inner_model(self.accelerator.unwrap_model(self.model), PixRecModel)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Read histories, targets and items in one call, compare them, sum the terms of the objective."""
        rows = {name: value for name, value in inputs.items() if name not in ("target_row", "target_ids", "seen_ids")}
        found = model(**rows)
        users, targets, items = found.user_embeddings, found.target_embeddings, found.item_embeddings
        items = items[inputs["target_row"]]
        ids, seen = inputs["target_ids"], inputs["seen_ids"] if self.args.mask_seen else None
        if self.args.gather_negatives:
            (users, targets, items), ids, seen = gather_pairs([users, targets, items], ids, seen)
        output = self.loss(users, targets, items, found.token_nll, target_ids=ids, history_ids=seen)
        recorded = self._recorded["train" if model.training else "eval"]
        for name, value in (*output.terms.items(), *output.diagnostics.items()):
            recorded.add(name, value)
        total = output.total
        if model.training and needs_every_parameter(model):
            total = total + zero_of(model)
        return (total, found) if return_outputs else total

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank the validation split over the full catalogue by tower similarity.

        Returns:
            `hit@10`, `ndcg@10`, `mrr@20`, ...
        """
        from ..evaluation.pixrec import evaluate_pixrec

        dataset = eval_dataset if eval_dataset is not None else self.recommendation_eval
        found = evaluate_pixrec(
            self.pixrec,
            self._catalogues.of(dataset),
            validation_examples(dataset, self.args.max_history, self.args.eval_users),
            batch_size=self.args.per_device_eval_batch_size,
            across_processes=self.shares_evaluation,
        )
        return found.metrics()

    def _other_catalogue(self, dataset: RecDataset) -> PreparedCatalogue:
        """Items of another dataset, described by the same columns."""
        processor: Any = self.catalogue.processor
        return PreparedCatalogue(_items(dataset, processor, described_by(self.catalogue.items)), processor)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was recorded since the last log."""
        # What is recorded belongs to the training loss, and not to an evaluation under whatever prefix.
        training = any(name == "loss" or name.startswith("train_") for name in logs)
        super().log({**logs, **self._recorded["train" if training else "eval"].means()}, start_time)

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: base, data, objective, arguments, versions."""
        processor: Any = self.catalogue.processor
        return {
            **super().training_facts(),
            "dataset": self._dataset_facts,
            "objective": method_name(processor),
            "loss": self.loss.get_config_dict(),
            "item_columns": described_by(self.catalogue.items),
        }

    def _use_features(self, model: PixRecModel, args: PixRecTrainingArguments) -> None:
        """Picture features in place of pixels, where the tower is frozen."""
        frozen = not any(parameter.requires_grad for parameter in model.vision_parameters())
        if not frozen and self.catalogue.has_cached_features:
            raise ValueError("`catalogue` holds cached vision features, but the vision tower is being trained.")
        if args.cache_vision_features and frozen and not self.catalogue.has_cached_features:
            self.catalogue.cache_features(model, show_progress=not args.disable_tqdm)  # type: ignore[arg-type]
        self.catalogue.check_features(model)  # type: ignore[arg-type]

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if not self.args.distinct_targets:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        together = self.args.train_batch_size * (self.args.world_size if self.args.gather_negatives else 1)
        return DistinctTargetSampler(self.examples.examples.targets, together, seed)

    def _trained(self) -> PixRecModel:
        return self.pixrec


def pixrec_lora_config(r: int = 16, alpha: int | None = None, dropout: float = 0.05) -> PeftConfig:
    """LoRA as `default_lora_config`, with both projections trained whole: they start at random."""
    config: Any = default_lora_config(r, alpha, dropout)
    config.modules_to_save = list(HEADS)
    return config


def method_name(processor: PixRecProcessor) -> str:
    """`pixrec`, or `pixrec-text` for the ablation without pictures."""
    return "pixrec" if processor.pictures else "pixrec-text"


def described_by(items: Any) -> list[str] | None:
    """The columns that make the items' texts: none for a dataset's own texts; `None` where nobody knows."""
    from ..data.catalogue_items import CatalogueItems

    return [] if isinstance(items, CatalogueItems) else list(items.columns) if hasattr(items, "columns") else None


def _settings(processor: Any) -> dict[str, Any]:
    """What decides how a processor lays out rows, beside tokenizer and image processor."""
    return {name: value for name, value in vars(processor).items() if isinstance(value, (str, int, bool, type(None)))}


def _items(dataset: RecDataset, processor: PixRecProcessor, columns: Sequence[str] | None = None) -> Any:
    from ..data.described_items import DescribedItems

    return DescribedItems(dataset, columns, pictures=processor.pictures)


def _row_numbers(count: int) -> Any:
    """The dataset that `SFTTrainer` asks for."""
    from datasets import Dataset

    return Dataset.from_dict({"example": range(count)})
