"""`DMESRTrainer`: trains a `DMESRModel` on whole user sequences, its descriptions aligned on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..losses.dmesr import alignment_loss
from ..modeling.modeling_dmesr import DMESRModel
from ..modeling.modeling_seqrec import PADDING
from .dmesr_args import DMESRTrainingArguments
from .seqrec_trainer import SeqRecTrainer


class DMESRTrainer(SeqRecTrainer):
    """As `SeqRecTrainer`, plus `alignment_weight` times the alignment loss over the items of each batch.

    Both terms are logged: `loss_next_item`, and `loss_alignment` without its weight. The catalogue's vectors are fused
    anew in every step, so that the adapters and the fusion learn from every item.

    Args:
        model: a `DMESRModel` with its inputs set.
        args: see `DMESRTrainingArguments`.
        train_dataset: a split `RecDataset`.
        callbacks: as in `Trainer`.
        optimizers: as in `Trainer`.

    Raises:
        ValueError: as `SeqRecTrainer`; or a model without inputs.
    """

    _tag_names = [*SeqRecTrainer._tag_names, "dmesr"]
    _name = "DMESR"
    _paper = {"title": "DMESR", "id": "2602.13715"}
    _model_class = DMESRModel

    def __init__(
        self, model: DMESRModel, args: DMESRTrainingArguments | None = None, *positional: Any, **options: Any
    ) -> None:
        super().__init__(model, args or DMESRTrainingArguments(), *positional, **options)
        inputs: Any = model.inputs
        self._same = inputs.same_descriptions()

    @property
    def _method(self) -> str:  # type: ignore[override]
        return f"DMESR ({super()._method})"

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The next-item loss plus the weighted alignment of the batch's items."""
        loss, output = super().compute_loss(model, inputs, return_outputs=True)
        if model.training:
            self.step_metrics.add("loss_next_item", loss)
        if self.args.alignment_weight > 0:
            items = self._some_items(inputs)
            vectors, present = self.head.description_vectors(items)
            alignment = alignment_loss(
                vectors,
                present,
                self._same[items.cpu()].to(vectors.device),
                temperature=self.args.alignment_temperature,
                targets=self.args.alignment_targets,
                soft_temperature=self.args.alignment_temperature,
            )
            if model.training:
                self.step_metrics.add("loss_alignment", alignment)
            loss = loss + self.args.alignment_weight * alignment
        return (loss, output) if return_outputs else loss

    def _some_items(self, inputs: dict[str, Any]) -> Tensor:
        """The different items of a batch, `alignment_items` of them at most."""
        parts = [inputs[name].flatten() for name in ("input_ids", "labels") if name in inputs]
        items = torch.cat(parts)
        items = items[items != PADDING].unique()
        if len(items) > self.args.alignment_items:
            items = items[torch.randperm(len(items), device=items.device)[: self.args.alignment_items]]
        return items

    def training_facts(self) -> dict[str, Any]:
        """As the base class's, plus the alignment and which inputs were trained on."""
        names = ("alignment_weight", "alignment_temperature", "alignment_targets", "alignment_items")
        loss = {"next_item": self.args.loss, **{name: getattr(self.args, name) for name in names}}
        return {**super().training_facts(), "loss": loss, "inputs_fingerprint": self.head.config.inputs_fingerprint}
