"""`PixRecTrainer`: next-item generation and two contrastive terms on one vision-language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..evaluation.metrics import ranking_metric_names
from ..evaluation.pixrec import evaluate_pixrec, method_name
from ..losses.gather import gather_pairs
from ..modeling.modeling_pixrec import PixRecModel
from ..modeling.processing_pixrec import PixRecProcessor
from .data_parallel import with_all_gradients
from .encoder_trainer import EncoderTrainer, check_count
from .pixrec_args import PixRecTrainingArguments
from .pixrec_batches import DistinctTargetSampler, ExampleDataset, PixRecCollator, SamplerEpochs, trainable_examples

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples


class PixRecTrainer(EncoderTrainer):
    """Training of a `PixRecModel` on a `RecDataset`; constructor as `EncoderTrainer`'s.

    It follows TRL's conventions but does not extend TRL's `SFTTrainer`, although the first term of the loss is
    supervised fine-tuning: that trainer prepares texts into flat `input_ids` and takes its loss from them, where an
    example here is a history, a target, images and a second batch of items. All that was left of it was wrapping a
    model with adapters, which `trainers/adapters.py` does by the same rules.

    Raises:
        ValueError: as `EncoderTrainer`; or an adapter on the language-model head, whose weight is used directly.
    """

    _tag_names = ["vlm2rec", "pixrec", "recommendation", "multimodal"]
    _name = _method = "PixRec"
    _paper = {"title": "PixRec", "id": "2601.06458"}
    _model_class = PixRecModel
    _processor_class = PixRecProcessor
    _arguments_class = PixRecTrainingArguments

    @property
    def pixrec(self) -> PixRecModel:
        """The model being trained, adapters included, without PEFT's and accelerate's wrappers."""
        return self.trained

    def finish_setup(self) -> None:
        """Note the objective in the model's configuration; refuse an adapter that would not train."""
        self.add_callback(SamplerEpochs())
        if hasattr(self.pixrec.lm_head, "base_layer"):
            raise ValueError(
                "`peft_config` puts an adapter on `lm_head`, whose weight the loss uses directly: it would never be "
                "trained. Leave 'lm_head' out of its `target_modules`."
            )
        config = self.pixrec.config
        config.alpha, config.beta, config.temperature = self.args.alpha, self.args.beta, self.args.temperature

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Read histories, targets and items in one call, compare them, sum the terms of the objective."""
        rows = {name: value for name, value in inputs.items() if name not in ("target_row", "target_ids", "seen_ids")}
        states = model(**rows)
        users, targets, items = states.user_embeddings, states.target_embeddings, states.item_embeddings
        items = items[inputs["target_row"]]
        ids, seen = inputs["target_ids"], inputs["seen_ids"] if self.args.mask_seen else None
        if self.args.gather_negatives:
            (users, targets, items), ids, seen = gather_pairs([users, targets, items], ids, seen)
        output = self.loss(users, targets, items, states.token_nll, target_ids=ids, history_ids=seen)
        total = output.total
        if model.training:
            self.record_loss(output)
            total = with_all_gradients(total, model)
        return (total, states) if return_outputs else total

    def make_train_dataset(self, dataset: RecDataset, args: PixRecTrainingArguments) -> ExampleDataset:
        """Histories and targets.

        Raises:
            ValueError: fewer than two, or fewer than a batch where the last, shorter one is dropped.
        """
        examples = trainable_examples(
            dataset.examples("train", max_history=self.catalogue.processor.max_history), self.catalogue
        )
        count = len(examples)
        check_count(count)
        if args.dataloader_drop_last and count < args.train_batch_size:
            raise ValueError(
                f"`per_device_train_batch_size` must be at most the number of training examples, {count}, got "
                f"{args.train_batch_size}: with `dataloader_drop_last` there would be no batch at all."
            )
        return ExampleDataset(examples)

    def make_collator(self, args: PixRecTrainingArguments) -> Callable[[list[Any]], dict[str, Any]]:
        """A `PixRecCollator`."""
        return PixRecCollator(self.catalogue, self.catalogue.processor.max_history)

    def rank(self, catalogue: PreparedCatalogue, examples: Examples, **options: Any) -> dict[str, float]:
        """Rank by tower similarity.

        Args:
            catalogue: see `EncoderTrainer.rank`.
            examples: see `EncoderTrainer.rank`.
            options: see `EncoderTrainer.rank`.

        Returns:
            `hit@10`, `ndcg@10`, `mrr@20`, ...
        """
        return evaluate_pixrec(self.pixrec, catalogue, examples, **options).metrics()

    def rank_names(self, model: Any) -> list[str]:
        """Names of what `rank` measures."""
        return ranking_metric_names()

    def items_of(self, dataset: RecDataset, processor: Any, like: Any = None) -> Any:
        """The items of a dataset, described by the same columns as `like`; without images where none is read."""
        from ..data.described_items import DescribedItems

        columns = None if like is None else described_by(like)
        return DescribedItems(dataset, columns, images=processor.images)

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: base, data, objective, arguments, versions."""
        processor: Any = self.catalogue.processor
        return {
            **super().training_facts(),
            "objective": method_name(processor),
            "loss": self.loss.get_config_dict(),
            "item_columns": described_by(self.catalogue.items),
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if not self.args.distinct_targets:
            return super()._get_train_sampler(train_dataset)
        dataset: Any = self.train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        together = self.args.train_batch_size * (self.args.world_size if self.args.gather_negatives else 1)
        return DistinctTargetSampler(dataset.examples.targets, together, seed)


def described_by(items: Any) -> list[str] | None:
    """The columns that make the items' texts: none for a dataset's own texts; `None` where nobody knows."""
    from ..data.catalogue_items import CatalogueItems

    return [] if isinstance(items, CatalogueItems) else list(items.columns) if hasattr(items, "columns") else None
