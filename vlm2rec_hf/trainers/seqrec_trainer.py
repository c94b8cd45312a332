"""`SeqRecTrainer`: trains a `SequentialRecommender` on whole user sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..columns import TITLE
from ..data.training_part import choose_users, with_validation_trained
from ..evaluation.heads import rank_head
from ..evaluation.metrics import ranking_metric_names, ranking_metrics
from ..modeling.modeling_seqrec import MASK, PADDING, HeadModel, SequentialRecommender
from .base_trainer import RecommendationTrainer, require_dataset
from .seqrec_args import SeqRecTrainingArguments
from .seqrec_windows import EpochLoader, LengthBatches, Windows

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples

_METHODS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec"}
MASK_LAST = 0.5
"""Chance that a row's newest item is masked (bert4rec): that is what is asked when recommending (our choice)."""


class SeqRecTrainer(RecommendationTrainer):
    """Trains a sequential head: every place of a user's sequence predicts its next item, once per epoch.

    Batches hold rows of similar length, only real targets are scored, and with the default loss they are scored
    against the whole catalogue in bounded memory. BERT4Rec guesses masked items instead. The validation split is
    ranked over the full catalogue after each epoch; the best epoch by NDCG@10 is what remains.

    Args:
        model: the head; its `catalogue` is set from the dataset.
        args: see `SeqRecTrainingArguments`.
        train_dataset: a split `RecDataset`.
        callbacks: as in `Trainer`.
        optimizers: as in `Trainer`.

    Raises:
        ValueError: a catalogue of another size than the model's, or, for a model that has one already, of other items
            or in another order; content vectors that were never set, or a dataset without validation or training
            interactions.
    """

    _tag_names = ["vlm2rec", "recommendation", "sequential-recommendation"]
    _name = "SeqRec"
    _model_class: type[HeadModel] = SequentialRecommender

    def __init__(
        self,
        model: HeadModel,
        args: SeqRecTrainingArguments | None = None,
        train_dataset: RecDataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        dataset = require_dataset(train_dataset)
        if not isinstance(model, self._model_class):
            raise ValueError(f"`model` must be a {self._model_class.__name__}, got {type(model).__name__}.")
        args = args or SeqRecTrainingArguments()
        if model.config.n_items != dataset.n_items:
            raise ValueError(
                f"`model` has n_items={model.config.n_items}, but `train_dataset` has {dataset.n_items} items; "
                f"build it with `{type(model.config).__name__}(n_items=dataset.n_items, ...)`."
            )
        model.check_content()
        if model.catalogue is not None and model.catalogue.ids != [str(item) for item in dataset.item_ids]:
            raise ValueError(
                "`model` already has a catalogue, of other items than `train_dataset` or in another order: what it "
                "learnt of one item would be another's. Train it on the same items in the same order, or build a new "
                "model."
            )
        sequences = dataset.sequences()
        self.validation: Examples | None = None
        model.config.validation_users = model.config.validation_seed = None
        if args.eval_strategy != "no":
            everybody = dataset.examples("validation", max_history=model.config.max_length)
            if len(everybody) == 0:
                raise ValueError(
                    "`train_dataset` has no validation split; call `leave_one_out()` or `temporal_split(...)` on it, "
                    "or train with eval_strategy='no'."
                )
            self.validation = choose_users(everybody, args.validation_users, args.seed)
            if args.validation_users is not None:
                sequences = with_validation_trained(sequences, np.unique(self.validation.user))
                # With these, evaluation finds out what was trained on.
                model.config.validation_users, model.config.validation_seed = args.validation_users, args.seed
        self.masked = model.config.encoder == "bert4rec"
        windows = Windows(sequences, model.config.max_length, args.windows, shifted=not self.masked)
        counts = sequences.train_counts()
        names = dataset.items.column_names
        titles = dataset.items.select_columns([TITLE])[TITLE] if TITLE in names else None
        model.set_catalogue(list(dataset.item_ids), torch.from_numpy(counts), titles)
        self.loss = args.make_loss(torch.from_numpy(counts))
        super().__init__(
            model,
            args,
            dataset,
            train_dataset=windows,
            # The base class only asks whether there is one; `evaluate` below ranks the validation users itself.
            eval_dataset=windows if self.validation is not None else None,
            callbacks=callbacks,
            early_stopping_patience=args.early_stopping_patience if self.validation is not None else None,
            optimizers=optimizers,
        )

    @property
    def head(self) -> Any:
        """The head being trained, without accelerate's wrappers."""
        return self.trained

    @property
    def _method(self) -> str:  # type: ignore[override]
        return _METHODS[self.head.config.encoder]

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds: data, loss, arguments, the embedder of the item vectors, versions."""
        config = self.head.config
        return {
            **super().training_facts(),
            "objective": self.args.loss,
            "embedder": config.embedder,
            "embedder_revision": config.embedder_revision,
        }

    def get_train_dataloader(self) -> EpochLoader:
        """Batches of windows of similar length."""
        windows: Any = self.train_dataset
        batches = LengthBatches(
            windows.lengths,
            self.args.train_batch_size,
            self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            bucketed=self.args.bucket_by_length,
            process=self.accelerator.process_index,
            n_processes=self.accelerator.num_processes,
        )
        return EpochLoader(windows, batches, self.args.dataloader_num_workers)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Encode the rows and score the places that have a target."""
        input_ids = inputs["input_ids"]
        if self.masked:
            input_ids, labels = mask_items(input_ids, self.args.mask_probability)
        else:
            labels = inputs["labels"]
        output = model(input_ids)
        places = (labels.flatten() != PADDING).nonzero()[:, 0]
        states = output.last_hidden_state.flatten(0, 1)[places]
        loss = self.loss(states, output.item_vectors, labels.flatten()[places])
        return (loss, output) if return_outputs else loss

    def validation_names(self, model: Any) -> list[str]:
        """`hit@10`, `ndcg@10`, `mrr@10` and the same at 20."""
        return ranking_metric_names()

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank the validation users' held-out items over the full catalogue, seen items left out.

        Args:
            eval_dataset: `Examples` to rank instead.

        Returns:
            `hit@10`, `ndcg@10`, `mrr@10` and the same at 20.
        """
        from ..data.sequences import Examples

        examples = self.validation if eval_dataset is None else eval_dataset
        if not isinstance(examples, Examples):
            raise ValueError(
                f"`eval_dataset` must be `Examples`, as from `dataset.examples('test')`, got {type(examples).__name__}"
                + ("; training holds no validation users out." if examples is None else ".")
            )
        if [str(item) for item in examples.sequences.item_ids] != list(self.head.catalogue.ids):
            raise ValueError(
                f"`eval_dataset` counts {examples.sequences.n_items} items, which are not those of the head's "
                f"catalogue ({len(self.head.catalogue)}) in their order; cut the examples from the training dataset."
            )
        return ranking_metrics(rank_head(self.head, examples).ranks)


def mask_items(input_ids: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Hide items for BERT4Rec: each with `probability`, the row's newest one with chance `MASK_LAST`.

    Args:
        input_ids: `(b, t)` with `PADDING` on the right.
        probability: share of items masked.

    Returns:
        `input_ids` with `MASK` in places, and labels: the item where masked, `PADDING` elsewhere. At least one place
        is masked.
    """
    present = input_ids != PADDING
    hidden = torch.rand(input_ids.shape, device=input_ids.device) < probability
    rows = torch.arange(len(input_ids), device=input_ids.device)
    last = present.sum(dim=1) - 1
    hidden[rows, last] |= torch.rand(len(rows), device=input_ids.device) < MASK_LAST
    hidden &= present
    if not bool(hidden.any()):
        hidden[0, last[0]] = True
    return input_ids.masked_fill(hidden, MASK), input_ids.masked_fill(~hidden, PADDING)
