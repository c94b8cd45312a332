"""`VLM2RecTrainer`: trains a `VLM2RecEmbedder` on user histories with in-batch candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainerCallback, set_seed

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..losses.gather import gather_candidates
from ..losses.similarity import ViewVectors
from ..modeling.hub_loading import hub_arguments
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from ..sentence_transformers.model_files import suits_sentence_transformers, write_sentence_transformer_files
from .adapters import continue_adapter, default_lora_config, embedder_of, is_peft, wrap_with_adapter
from .checkpoints import CompleteCheckpoints
from .collator import Chunk, ContrastiveCollator, ExampleDataset, trainable_examples
from .data_parallel import needs_every_parameter, zero_of
from .frozen_vision import cache_features, keeps_features, other_catalogue, unfreeze_vision
from .gradient_cache import GradientCache
from .hub_publishing import PublishesToHub
from .prefetch import prefetched
from .ranking_evaluation import RankingEvaluation
from .step_metrics import StepMetrics
from .step_views import rows_of, views_of, watch_gradients
from .training_facts import adapter_facts, dataset_facts
from .validation import EvaluationCatalogues
from .vlm2rec_args import VLM2RecTrainingArguments

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from ..data.dataset import RecDataset

__all__ = ["VLM2RecTrainer", "default_lora_config"]

Evaluator = Callable[[nn.Module], dict[str, float]]


class VLM2RecTrainer(RankingEvaluation, PublishesToHub, CompleteCheckpoints, Trainer):  # type: ignore[misc]
    """Contrastive training of an embedder on a `RecDataset`.

    Every user's history is encoded next to the targets of the batch; all targets are candidates, except those equal
    to the user's own target and those the user has seen. Follows TRL's conventions.

    Args:
        model: a `VLM2RecEmbedder`, a PEFT model around one, or a Hub id or path to load one from.
        args: a `VLM2RecTrainingArguments`.
        data_collator: by default a `ContrastiveCollator` over the dataset's items.
        train_dataset: a `RecDataset`; its training split is used.
        eval_dataset: a `RecDataset` whose validation split is ranked at every evaluation; `train_dataset` by
            default.
        processing_class: the processor; loaded beside `model` where that is an id or path.
        callbacks: more callbacks.
        optimizers: an optimizer and a schedule, by default AdamW and `args.lr_scheduler_type`.
        peft_config: wrap the model, for instance with `default_lora_config()`.
        evaluator: replaces the ranking of the validation split: called with the model, returns metrics.
        catalogue: prepared items, to share between trainers; made from the dataset otherwise.

    Raises:
        ValueError: missing or contradicting arguments.
    """

    _tag_names = ["vlm2rec", "recommendation", "multimodal"]
    _name = _method = "VLM2Rec"
    _paper = {"title": "VLM2Rec", "id": "2603.17450"}

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: VLM2RecTrainingArguments | None = None,
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
        if train_dataset is None:
            raise ValueError("`train_dataset` is required; make one with `load_recsys(...)` or `RecDataset`.")
        args = args or VLM2RecTrainingArguments()
        if isinstance(model, str):
            options: Any = args.model_init_kwargs or {}
            processing_class = processing_class or VLM2RecProcessor.from_pretrained(model, **hub_arguments(options))
            model = VLM2RecEmbedder.from_pretrained(model, **options)
        elif args.model_init_kwargs:
            raise ValueError("`model_init_kwargs` only applies where `model` is a Hub id or path.")
        if not isinstance(processing_class, VLM2RecProcessor):
            raise ValueError(f"`processing_class` must be a VLM2RecProcessor, got {type(processing_class).__name__}.")
        embedder = embedder_of(model)
        if embedder.config.fusion == "internal" and args.objective not in ("sft",):
            raise ValueError(
                f"`objective` {args.objective!r} needs separate views; internal fusion trains with objective='sft'."
            )
        if not args.freeze_vision and not is_peft(model) and not embedder.holds_adapter:
            unfreeze_vision(embedder)
        continue_adapter(embedder, peft_config)
        if peft_config is not None:
            set_seed(args.seed)  # the adapters' random start belongs to the run, as everything after it does
            model = wrap_with_adapter(model, peft_config)
        if args.gradient_checkpointing and adapter_facts(model) is not None:
            embedder.enable_input_require_grads()
        if args.freeze_vision:
            embedder.freeze_vision()  # after the adapters: those inside the tower stay as they are, too
        keeps = keeps_features(embedder, args)
        self.catalogue = catalogue or PreparedCatalogue(train_dataset.catalogue_items(), processing_class)
        if keeps and not self.catalogue.has_cached_features:
            cache_features(self.catalogue, embedder, args)
        if self.catalogue.has_cached_features and any(p.requires_grad for p in embedder.vision_parameters()):
            raise ValueError("`catalogue` holds cached vision features, but the vision tower is being trained.")
        self.catalogue.check_features(embedder)
        self.loss = args.make_loss()
        self.loss.sync_counts = args.world_size > 1  # every user of the global batch weighs alike
        self.evaluator = evaluator
        self._metrics = {"train": StepMetrics(), "eval": StepMetrics()}
        self._cache: GradientCache | None = None
        self._waiting: float | None = None
        eval_dataset = eval_dataset if eval_dataset is not None else train_dataset
        self.recommendation_eval = eval_dataset
        self._catalogues = EvaluationCatalogues(train_dataset, self.catalogue, self._other_catalogue)
        self._dataset_facts = dataset_facts(train_dataset)
        examples = trainable_examples(train_dataset.examples("train", max_history=args.max_history), self.catalogue)
        if len(examples) == 0:
            raise ValueError(
                "`train_dataset` has no training example: a user needs two training interactions, the second one with "
                "an item that has a text or a picture."
            )
        if args.dataloader_drop_last and len(examples) < args.train_batch_size:
            raise ValueError(
                f"`per_device_train_batch_size` must be at most the number of training examples, {len(examples)}, got "
                f"{args.train_batch_size}: with `dataloader_drop_last` there would be no batch at all."
            )
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=data_collator
            or ContrastiveCollator(self.catalogue, args.max_history, args.gradient_cache_mini_batch_size),
            train_dataset=ExampleDataset(examples),
            # The base class only asks whether there is one; `evaluate` below ranks the validation split itself.
            eval_dataset=eval_dataset,  # type: ignore[arg-type]
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if args.gradient_cache_mini_batch_size is not None:
            if self.is_deepspeed_enabled:
                raise ValueError(
                    "`gradient_cache_mini_batch_size` does not work with DeepSpeed, which takes one backward pass per "
                    "batch; use DDP or FSDP."
                )
            if not isinstance(self.data_collator, ContrastiveCollator):
                raise ValueError(
                    "`gradient_cache_mini_batch_size` needs a `data_collator` that lays out chunks: a "
                    f"ContrastiveCollator, got {type(self.data_collator).__name__}."
                )
        self.model_accepts_loss_kwargs = False
        tagged: Any = self.model
        if hasattr(tagged, "add_model_tags"):
            tagged.add_model_tags(self._tag_names)

    @property
    def embedder(self) -> VLM2RecEmbedder:
        """The embedder being trained, adapters included, without PEFT's and accelerate's wrappers."""
        return embedder_of(self.accelerator.unwrap_model(self.model))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Embed users and items, compare them, sum the terms of the objective.

        With gradient caching the vectors are leaves: propagating the loss back stops there, and `training_step` takes
        it on to the model.
        """
        cached = "chunks" in inputs
        if cached:
            self._cache = GradientCache(
                lambda: self._chunks(inputs["chunks"]), lambda chunk: self._embed(model, chunk), self.args.device
            )
        users, items = self._cache.first_pass() if cached else self._embed(model, inputs)  # type: ignore[union-attr]
        squares = watch_gradients(users, items)
        candidates = rows_of(items, inputs["target_row"])
        ids, positive = inputs["target_ids"], torch.arange(len(candidates), device=inputs["target_ids"].device)
        if self.args.gather_negatives:
            candidates, ids, positive = gather_candidates(candidates, ids, positive)
        output = self.loss(
            self._drop_modalities(users) if self.args.objective == "modality_dropout" else users,
            candidates,
            target_ids=inputs["target_ids"],
            candidate_ids=ids,
            positive=positive,
            history_ids=inputs["seen_ids"] if self.args.mask_seen else None,
            progress=min(self.state.global_step / max(self.state.max_steps, 1), 1.0),
        )
        recorded = self._metrics["train" if model.training else "eval"]
        for name, value in (*output.terms.items(), *output.diagnostics.items()):
            recorded.add(name, value)
        self._squares = squares
        total = output.total
        if model.training and cached and not total.requires_grad:
            total = total + torch.zeros_like(total, requires_grad=True)  # `training_step` sends zeros to the model
        elif model.training and not cached and (not total.requires_grad or needs_every_parameter(model)):
            # Nothing to learn from this batch, say image_only where no item has a picture: a step of zero gradients.
            total = total + zero_of(model)
        return (total, {"users": users, "items": items}) if return_outputs else total

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step; afterwards the gradient norms at both views are known."""
        self._cache = None
        loss = super().training_step(*args, **kwargs)
        if self._cache is not None:
            model: nn.Module = args[0] if args else kwargs["model"]
            self._cache.second_pass(
                accumulate=lambda: self.accelerator.no_sync(model),
                context=self.compute_loss_context_manager,
                at_the_end=lambda reached: None if reached and not needs_every_parameter(model) else zero_of(model),
            )
            self._cache = None
        # The backward pass ran on a scaled loss: divided for accumulation, multiplied for float16.
        scaler = self.accelerator.scaler
        scale = (1.0 if scaler is None else scaler.get_scale()) / self.current_gradient_accumulation_steps
        for name, square in self._squares.items():
            self._metrics["train"].add(f"grad_norm_{name}", square.sqrt() / scale)
        return loss

    def _embed(self, model: nn.Module, batch: dict[str, Any]) -> tuple[ViewVectors, ViewVectors]:
        """Views of a batch's users and items from one call of the model: they share the vision tower's pass."""
        groups = [batch[name] for name in ("users", "items") if name in batch]
        users, *items = [views_of(output) for output in model(groups=groups, **batch["pictures"])]
        return users, items[0] if items else rows_of(users, slice(0))

    def _chunks(self, chunks: list[Chunk]) -> Iterator[dict[str, Any]]:
        """Lay the chunks of a batch out, ahead of time and in threads, and bring them to the device one by one."""
        threads = max(self.args.dataloader_num_workers, 1)
        laid = prefetched(self.data_collator.lay_out, chunks, threads=threads, waited=self._waited)  # type: ignore
        return map(self._prepare_inputs, laid)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the next step; notes how long the step had to wait for them."""
        self._record_waiting()
        start = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        self._waited(time.perf_counter() - start)
        return found

    def _waited(self, seconds: float) -> None:
        self._waiting = (self._waiting or 0.0) + seconds

    def _record_waiting(self) -> None:
        """Record the seconds that the last step waited for data."""
        if self._waiting is not None:
            self._metrics["train"].add("data_wait", self._waiting)
        self._waiting = None

    def _drop_modalities(self, views: ViewVectors) -> ViewVectors:
        """Drop one view of some users, never their only one."""
        both = views.has_text & views.has_image
        drop = (torch.rand(len(views), device=both.device) < self.args.modality_dropout) & both
        drop_text = torch.rand(len(views), device=both.device) < 0.5
        return ViewVectors(
            views.text, views.image, views.has_text & ~(drop & drop_text), views.has_image & ~(drop & ~drop_text)
        )

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank the validation split over the full catalogue, in all three views.

        Returns:
            `text_hit@10`, `image_ndcg@10`, `both_mrr@20`, ...
        """
        from .validation import rank_validation

        dataset = eval_dataset if eval_dataset is not None else self.recommendation_eval
        model = self.accelerator.unwrap_model(self.model)
        if self.evaluator is not None:
            return self.evaluator(model)
        return rank_validation(
            embedder_of(model),
            dataset,
            self._catalogues.of(dataset),
            max_history=self.args.max_history,
            users=self.args.eval_users,
            batch_size=self.args.per_device_eval_batch_size,
            across_processes=self.shares_evaluation,
        )

    def _other_catalogue(self, dataset: RecDataset) -> PreparedCatalogue:
        model = self.accelerator.unwrap_model(self.model)
        return other_catalogue(dataset, self.catalogue, embedder_of(model), self.args)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of what was recorded since the last log."""
        mode = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        if mode == "train":
            self._record_waiting()
        prefix = "eval_" if mode == "eval" else ""
        logs = {**logs, **{f"{prefix}{name}": value for name, value in self._metrics[mode].means().items()}}
        super().log(logs, *args, **kwargs)

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: base, data, objective, arguments, versions."""
        return {
            **super().training_facts(),
            "dataset": self._dataset_facts,
            "objective": self.args.objective,
            "loss": self.loss.get_config_dict(),
        }

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save and suits_sentence_transformers(folder):
            write_sentence_transformer_files(folder, self.catalogue.processor, self.embedder.config)

    def _trained(self) -> VLM2RecEmbedder:
        return self.embedder
