"""`VLM2RecTrainer`: trains a `VLM2RecEmbedder` on user histories with in-batch candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..catalogues.vision_tower import is_sharded
from ..evaluation.score_options import ScoreOptions
from ..losses.gather import (
    average_over_processes,
    distinct_candidates,
    gather_candidates,
    largest_of_processes,
)
from ..losses.similarity import ViewVectors
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
from ..modeling.passes_vlm2rec import USEFUL_TOKENS, USEFUL_TOKENS_OF_ACCELERATORS, free_memory
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from ..sentence_transformers.model_files import suits_sentence_transformers, write_sentence_transformer_files
from .best_metric import embedder_metric_names
from .candidate_draws import candidate_log_q
from .click_windows import ClickWindows, WindowBatches, WindowLoader
from .collator import ROW_VIEWS, ContrastiveCollator, Example, tokens_per_item
from .data_parallel import needs_every_parameter, with_all_gradients, zero_of
from .encoder_trainer import DATA_WAIT, EncoderTrainer, check_count
from .gradient_cache import GradientCache
from .prefetch import prefetched
from .score_choice import choose_on_validation, note_trained_score, write_score_table
from .step_metrics import GRADIENT_NORM
from .step_views import STEP, ContrastiveStep, assemble, watch_gradients
from .throughput import Throughput
from .validation import has_validation, validation_examples
from .vlm2rec_args import VLM2RecTrainingArguments

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples

WEIGHT = "weight"
"""Key of a batch's weight among the batches that are accumulated for one step."""
CACHED_LOSS_BYTES = 2**25
"""Memory of the loss's matrices with gradient caching: little beside a chunk's activations (our choice)."""
LOSS_BYTES = 120
"""Memory of the loss per pair of query and candidate: about thirty numbers of four bytes (measured, WPCL + CRTR)."""


class VLM2RecTrainer(EncoderTrainer):
    """Contrastive training of a `VLM2RecEmbedder` on a `RecDataset`; constructor as `EncoderTrainer`'s.

    An example is a window of a user's training sequence, and every click in it is a query whose target is the next
    item: the states at a row's end tokens are the vectors after each click, so one pass teaches them all. Candidates
    are the distinct targets of the batch; a query's negatives are those that are not its target, that its user has
    not seen, and (`mask_row_targets`) that are no target of its row.

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
        """Start counting; refuse gradient caching, or choosing score options, where it does not work."""
        self.throughput = Throughput()
        self._log_q = self._candidate_log_q() if self.args.logq_correction else None
        if self.args.choose_score_options and not has_validation(self.recommendation_eval):
            raise ValueError(
                "`choose_score_options` needs a validation split; call `leave_one_out()` or `temporal_split(...)` on "
                "the dataset, or leave it out."
            )
        if self.args.gradient_cache_tokens is None:
            return
        if self.is_deepspeed_enabled:
            raise ValueError(
                "`gradient_cache_tokens` does not work with DeepSpeed, which takes one backward pass per "
                "batch; use DDP or FSDP."
            )
        if not isinstance(self.data_collator, ContrastiveCollator):
            raise ValueError(
                "`gradient_cache_tokens` needs a `data_collator` that lays out chunks: a "
                f"ContrastiveCollator, got {type(self.data_collator).__name__}."
            )

    def make_train_dataset(self, dataset: RecDataset, args: VLM2RecTrainingArguments) -> ClickWindows:
        """Windows of the training sequences.

        Raises:
            ValueError: fewer than two targets.
        """
        self._item_tokens = tokens_per_item(self.catalogue, trained_views(args.objective))
        empty = np.array([self.catalogue.is_empty(i) for i in range(len(self.catalogue))], dtype=bool)
        windows = ClickWindows(
            dataset.sequences(),
            self.catalogue.processor.max_history,
            args.targets_per_row,
            tokens=self._item_tokens,
            empty=empty,
            seed=args.data_seed if args.data_seed is not None else args.seed,
        )
        check_count(windows.n_targets)
        return windows

    def make_collator(self, args: VLM2RecTrainingArguments) -> Callable[[list[Any]], dict[str, Any]]:
        """A `ContrastiveCollator`."""
        useful = USEFUL_TOKENS.get(args.device.type, USEFUL_TOKENS_OF_ACCELERATORS)
        return ContrastiveCollator(
            self.catalogue,
            pass_tokens=useful,
            cache_tokens=args.gradient_cache_tokens,
            item_tokens=self._item_tokens,
            views=trained_views(args.objective),
        )

    def get_train_dataloader(self) -> DataLoader:
        """Batches of windows whose rows are of like length."""
        windows: Any = self.train_dataset
        batches = WindowBatches(
            windows,
            self.args.train_batch_size,
            windows.seed,
            process=self.accelerator.process_index,
            n_processes=self.accelerator.num_processes,
        )
        workers = self.args.dataloader_num_workers
        return WindowLoader(
            windows,
            batches,
            self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the next step; notes how many queries they have, of all processes."""
        samples, number = super().get_batch_samples(*args, **kwargs)
        counts = torch.tensor([float(len(batch["target_row"])) for batch in samples], device=self.args.device)
        if len(samples) > 1:  # batches that are accumulated weigh as many queries as they have
            counts = average_over_processes(counts)
            for batch, weight in zip(samples, (counts / counts.mean()).tolist(), strict=True):
                batch[WEIGHT] = weight
        return samples, number

    def rank(self, catalogue: PreparedCatalogue, examples: Examples, **options: Any) -> dict[str, float]:
        """Rank in all three views.

        Args:
            catalogue: see `EncoderTrainer.rank`.
            examples: see `EncoderTrainer.rank`.
            options: see `EncoderTrainer.rank`.

        Returns:
            `text_hit@10`, `image_ndcg@10`, `both_mrr@20`, ..., `scored_ndcg@10` where the model's config has score
            options, plus `margin_text`, `margin_image` and the other
            modality diagnostics.
        """
        from ..evaluation.embedder import evaluate_embedder

        evaluation = evaluate_embedder(self.embedder, catalogue, examples, **options)
        return {**evaluation.metrics(), **evaluation.modality}

    def rank_names(self, model: Any) -> list[str]:
        """Names of what `rank` measures of a model."""
        return embedder_metric_names(has_scored=not ScoreOptions.of(model.config).is_bare)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; then, with the best checkpoint loaded, choose the score options (`args.choose_score_options`).

        Arguments and result are those of `Trainer.train`. The choice is kept in the model's config, and the table of
        all options tried in `score_options.json` in the output folder.
        """
        temperature = self.loss.temperature(1.0)
        note_trained_score(self.embedder, temperature, self.loss.cross_terms)
        result = super().train(*args, **kwargs)
        dataset, wanted = self.recommendation_eval, self.args.choose_score_options
        if wanted is None:
            wanted = self.args.eval_strategy != "no" and self.evaluator is None and has_validation(dataset)
        if wanted:
            examples = validation_examples(dataset, self.args.max_history, self.args.score_option_users)
            trials = choose_on_validation(
                self.embedder,
                self._catalogues.of(dataset),
                examples,
                temperature,
                batch_size=self.args.per_device_eval_batch_size,
                across_processes=self.shares_evaluation,
            )
            if self.args.should_save:
                write_score_table(str(self.args.output_dir), trials, len(examples))
        return result

    def _candidate_log_q(self) -> Tensor:
        """`(n_items,)` log of the probability that an item is a candidate of a batch."""
        windows: Any = self.train_dataset
        rows = self.args.train_batch_size * (self.args.world_size if self.args.gather_negatives else 1)
        per_batch = rows * windows.n_targets / max(len(windows), 1)
        return candidate_log_q(windows.target_counts(), per_batch).to(self.args.device)

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
            parts: list[Tensor] = []
            step.cache = GradientCache(
                lambda: self._chunks(inputs["chunks"]),
                lambda chunk: self._embed(model, chunk, parts),
                self.args.device,
            )
            vectors, whose = step.cache.first_pass(), torch.cat(parts)
        else:
            vectors, whose = self._embed(model, inputs), inputs["owners"]
        users, items = assemble(vectors, whose, inputs)
        step.squares = watch_gradients(users, items)
        candidates, ids, positive = items, inputs["item_ids"], inputs["target_row"]
        if self.args.gather_negatives:
            candidates, ids, positive = distinct_candidates(*gather_candidates(candidates, ids, positive))
        history_ids, past = self._no_negatives(inputs)
        output = self.loss(
            self._drop_modalities(users) if self.args.objective == "modality_dropout" else users,
            candidates,
            target_ids=inputs["item_ids"][inputs["target_row"]],
            candidate_ids=ids,
            positive=positive,
            history_ids=history_ids,
            past=past,
            progress=min(self.state.global_step / max(self.state.max_steps, 1), 1.0),
            block=self._block(len(users), len(candidates)),
            candidate_log_q=None if self._log_q is None else self._log_q[ids],
        )
        total = output.total
        if model.training:
            self.record_loss(output)
            self.throughput.add_targets(len(users))
            total = total * inputs.get(WEIGHT, 1.0)
            if step.cache is None:
                total = with_all_gradients(total, model)
            elif not total.requires_grad:
                total = total + torch.zeros_like(total, requires_grad=True)  # the second pass sends zeros to the model
        return (total, {"users": users, "items": items}) if return_outputs else total

    def _no_negatives(self, batch: dict[str, Any]) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Items that are no negatives: `(Q, W)` of each query, and those that all queries of a window share."""
        rows, window = batch["query_row"], batch["window_ids"]
        if self.args.mask_row_targets:
            shared = torch.cat([window, batch["past_ids"]], dim=1) if self.args.mask_seen else window
            return None, (shared, rows)
        if not self.args.mask_seen:
            return None, None
        later = torch.arange(window.shape[1], device=window.device) > batch["query_click"][:, None]
        return window[rows].masked_fill(later, -1), (batch["past_ids"], rows)

    def _block(self, queries: int, candidates: int) -> int | None:
        """Queries whose matrices are held at once: all, or as many as fit into a quarter of the free memory.

        With gradient caching, which is there to save memory, they fit into `CACHED_LOSS_BYTES`.
        """
        room = free_memory(self.args.device) // 4
        if self.args.gradient_cache_tokens is not None:
            room = min(room, CACHED_LOSS_BYTES)
        budget = room // LOSS_BYTES
        return None if queries * candidates <= budget else max(1, budget // max(candidates, 1))

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

    def _embed(self, model: nn.Module, batch: dict[str, Any], owners: list[Tensor] | None = None) -> Tensor:
        """Vectors `(n, d)` of a batch's rows from one call of the model: its passes share the vision tower's."""
        groups = self._even(batch["groups"])
        vectors = [output.embeddings for output in model(groups=groups, **batch["images"])]
        if owners is not None:
            owners.append(batch["owners"])
        if owners is None or not torch.is_grad_enabled():
            self.throughput.add_tokens(batch["real_tokens"], batch["padded_tokens"])
        whole = torch.cat(vectors[: len(batch["groups"])])
        # What was run only to keep pace with the other processes takes part with a gradient of zero.
        return sum((extra.sum() * 0.0 for extra in vectors[len(batch["groups"]) :]), whole)

    def _even(self, parts: list[Any]) -> list[Any]:
        """Parts of a batch; as many as in the process that has most where the model's layers are spread over all.

        Such processes have to run every layer equally often; the first part is run again.
        """
        if self.args.world_size == 1 or not (is_sharded(self.trained) or self.is_deepspeed_enabled):
            return parts
        return parts + [parts[0]] * (largest_of_processes(len(parts), self.args.device) - len(parts))

    def _chunks(self, chunks: list[list[Example]]) -> Iterator[dict[str, Any]]:
        """Lay the chunks of a batch out, ahead of time and in threads, and bring them to the device one by one."""
        collator: Any = self.data_collator
        even = self._even(chunks)
        laid = prefetched(
            collator.lay_out,
            even,
            threads=max(self.args.dataloader_num_workers, 1),
            waited=lambda seconds: self.step_metrics.add_to_newest(DATA_WAIT, seconds),
        )
        for number, chunk in enumerate(laid):
            if number >= len(chunks):  # run to keep pace only: its vectors are nobody's
                chunk["owners"] = torch.full_like(chunk["owners"], -1)
            yield self._prepare_inputs(chunk)

    def _drop_modalities(self, views: ViewVectors) -> ViewVectors:
        """Drop one view of some users, never their only one."""
        both = views.has_text & views.has_image
        drop = (torch.rand(len(views), device=both.device) < self.args.modality_dropout) & both
        drop_text = torch.rand(len(views), device=both.device) < 0.5
        return ViewVectors(
            views.text, views.image, views.has_text & ~(drop & drop_text), views.has_image & ~(drop & ~drop_text)
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; to a training loss also targets and tokens per second, and the share of padding."""
        if "loss" in logs:
            logs = {**logs, **self.throughput.since_last(self.args.device)}
        super().log(logs, *args, **kwargs)

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


def trained_views(objective: str) -> tuple[str, ...]:
    """Views whose rows an objective needs."""
    return {"text_only": ("text",), "image_only": ("image",)}.get(objective, ROW_VIEWS)
