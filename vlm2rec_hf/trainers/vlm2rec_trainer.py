"""`VLM2RecTrainer`: trains a `VLM2RecEmbedder` on user histories with in-batch candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..losses.gather import gather_candidates
from ..losses.similarity import ViewVectors
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from ..sentence_transformers.model_files import suits_sentence_transformers, write_sentence_transformer_files
from .collator import Chunk, ContrastiveCollator
from .data_parallel import needs_every_parameter, with_all_gradients, zero_of
from .encoder_trainer import DATA_WAIT, EncoderTrainer
from .gradient_cache import GradientCache
from .prefetch import prefetched
from .step_metrics import GRADIENT_NORM
from .step_views import STEP, ContrastiveStep, select_views, views_of, watch_gradients
from .vlm2rec_args import VLM2RecTrainingArguments

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples


class VLM2RecTrainer(EncoderTrainer):
    """Contrastive training of a `VLM2RecEmbedder` on a `RecDataset`; constructor as `EncoderTrainer`'s.

    Every user's history is encoded next to the targets of the batch; all targets are candidates, except those equal
    to the user's own target and those the user has seen.

    Raises:
        ValueError: as `EncoderTrainer`; or an objective that internal fusion has no views for, or gradient caching
            with DeepSpeed or with a collator that lays out no chunks.
    """

    _tag_names = ["vlm2rec", "recommendation", "multimodal"]
    _name = _method = "VLM2Rec"
    _paper = {"title": "VLM2Rec", "id": "2603.17450"}
    _model_class = VLM2RecEmbedder
    _processor_class = VLM2RecProcessor
    _arguments_class = VLM2RecTrainingArguments

    @property
    def embedder(self) -> VLM2RecEmbedder:
        """The embedder being trained, adapters included, without PEFT's and accelerate's wrappers."""
        return self.trained

    def check_model(self, model: Any, args: Any) -> None:
        """Refuse objectives that compare views where fusion is internal."""
        if model.config.fusion == "internal" and args.objective != "sft":
            raise ValueError(
                f"`objective` {args.objective!r} needs separate views; internal fusion trains with objective='sft'."
            )

    def finish_setup(self) -> None:
        """Refuse gradient caching where it does not work."""
        if self.args.gradient_cache_mini_batch_size is None:
            return
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

    def make_collator(self, args: VLM2RecTrainingArguments) -> Callable[[list[Any]], dict[str, Any]]:
        """A `ContrastiveCollator`."""
        return ContrastiveCollator(self.catalogue, args.max_history, args.gradient_cache_mini_batch_size)

    def rank(self, catalogue: PreparedCatalogue, examples: Examples, **options: Any) -> dict[str, float]:
        """Rank in all three views.

        Args:
            catalogue: see `EncoderTrainer.rank`.
            examples: see `EncoderTrainer.rank`.
            options: see `EncoderTrainer.rank`.

        Returns:
            `text_hit@10`, `image_ndcg@10`, `both_mrr@20`, ..., plus `margin_text`, `margin_image` and the other
            modality diagnostics.
        """
        from ..evaluation.embedder import evaluate_embedder

        evaluation = evaluate_embedder(self.embedder, catalogue, examples, **options)
        return {**evaluation.metrics(), **evaluation.modality}

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
        step: ContrastiveStep = inputs.get(STEP) or ContrastiveStep()
        if "chunks" in inputs:
            step.cache = GradientCache(
                lambda: self._chunks(inputs["chunks"]), lambda chunk: self._embed(model, chunk), self.args.device
            )
        users, items = self._embed(model, inputs) if step.cache is None else step.cache.first_pass()
        step.squares = watch_gradients(users, items)
        candidates = select_views(items, inputs["target_row"])
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
        total = output.total
        if model.training:
            self.record_loss(output)
            if step.cache is None:
                total = with_all_gradients(total, model)
            elif not total.requires_grad:
                total = total + torch.zeros_like(total, requires_grad=True)  # the second pass sends zeros to the model
        return (total, {"users": users, "items": items}) if return_outputs else total

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One step, with gradient caching in two passes; records the norms of the loss's gradients by view."""
        step = ContrastiveStep()
        loss = super().training_step(model, {**inputs, STEP: step}, num_items_in_batch)
        if step.cache is not None:
            step.cache.second_pass(
                accumulate=lambda: self.accelerator.no_sync(model),
                context=self.compute_loss_context_manager,
                at_the_end=lambda reached: None if reached and not needs_every_parameter(model) else zero_of(model),
            )
        # The backward pass ran on a scaled loss: divided for accumulation, multiplied for float16.
        scaler = self.accelerator.scaler
        scale = (1.0 if scaler is None else scaler.get_scale()) / self.current_gradient_accumulation_steps
        for name, square in step.squares.items():
            self.step_metrics.add(f"{GRADIENT_NORM}{name}", square.sqrt() / scale)
        return loss

    def _embed(self, model: nn.Module, batch: dict[str, Any]) -> tuple[ViewVectors, ViewVectors]:
        """Views of a batch's users and items from one call of the model: they share the vision tower's pass."""
        groups = [batch[name] for name in ("users", "items") if name in batch]
        users, *items = [views_of(output) for output in model(groups=groups, **batch["images"])]
        return users, items[0] if items else select_views(users, slice(0))

    def _chunks(self, chunks: list[Chunk]) -> Iterator[dict[str, Any]]:
        """Lay the chunks of a batch out, ahead of time and in threads, and bring them to the device one by one."""
        collator: Any = self.data_collator
        laid = prefetched(
            collator.lay_out,
            chunks,
            threads=max(self.args.dataloader_num_workers, 1),
            waited=lambda seconds: self.step_metrics.add_to_newest(DATA_WAIT, seconds),
        )
        return map(self._prepare_inputs, laid)

    def _drop_modalities(self, views: ViewVectors) -> ViewVectors:
        """Drop one view of some users, never their only one."""
        both = views.has_text & views.has_image
        drop = (torch.rand(len(views), device=both.device) < self.args.modality_dropout) & both
        drop_text = torch.rand(len(views), device=both.device) < 0.5
        return ViewVectors(
            views.text, views.image, views.has_text & ~(drop & drop_text), views.has_image & ~(drop & ~drop_text)
        )

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: base, data, objective, arguments, versions."""
        return {
            **super().training_facts(),
            "objective": self.args.objective,
            "loss": self.loss.get_config_dict(),
        }

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save and suits_sentence_transformers(folder):
            write_sentence_transformer_files(folder, self.catalogue.processor, self.embedder.config)
