"""`vlm2rec train --method dmesr`: train DMESR over SASRec, GRU4Rec or BERT4Rec, and test it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arguments import DataArguments, EncoderArguments, EvaluateArguments
from .common import open_dataset, parse, require, say
from .description_arguments import DescriptionArguments
from .train_head import finish, test_examples

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..descriptions.encoded_items import EncodedItems
    from ..modeling.modeling_dmesr import DMESRModel


@dataclass
class DMESRArguments(EncoderArguments):
    """DMESR's own switches, beside the encoder's."""

    method: str = field(default="dmesr", metadata={"help": "dmesr."})
    inputs: str | None = field(
        default=None, metadata={"help": "What `vlm2rec encode-descriptions` wrote; or encode now (--text_encoder)."}
    )
    item_representation: str = field(default="content", metadata={"help": "content, or content+id."})
    adapter_size: int | None = field(default=None, metadata={"help": "Width inside an adapter; by default half."})
    fusion_heads: int = field(default=2, metadata={"help": "Heads of the cross-attention."})
    fusion_residual: bool = field(default=True, metadata={"help": "Residual around the cross-attention."})
    fusion_norm: bool = field(default=True, metadata={"help": "LayerNorm after the cross-attention."})
    items_per_block: int = field(default=4096, metadata={"help": "Items fused at once; bounds memory."})
    report_name: str = field(default="", metadata={"help": "Name in the report; dmesr-ENCODER by default."})


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report."""
    from transformers.utils.logging import disable_progress_bar

    from ..trainers.dmesr_args import DMESRTrainingArguments
    from ..trainers.dmesr_trainer import DMESRTrainer

    data, options, described, training = parse(
        "train", __doc__ or "", (DataArguments, DMESRArguments, DescriptionArguments, DMESRTrainingArguments), argv
    )
    require(training.output_dir, "--output_dir", "the folder of the trained model")
    if bool(options.inputs) == bool(described.text_encoder):
        raise ValueError("Name exactly one of `--inputs` (encoded before) and `--text_encoder` (encode now).")
    ks = EvaluateArguments(ks=options.ks).cut_offs()
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    examples = test_examples(dataset, options.max_length, options.max_users)
    model = build_dmesr(options, dataset, encoded_items(options, described, dataset), training.seed)
    disable_progress_bar()  # one bar per checkpoint of a model that is written in no time
    trainer = DMESRTrainer(model, training, dataset)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    name = options.report_name or f"dmesr-{options.encoder}"
    finish(trainer, dataset, examples, options, name, ks, time.perf_counter() - start)
    say(f"Next: vlm2rec recommend --model {training.output_dir} --dataset {data.dataset} --history ID,ID")


def encoded_items(options: DMESRArguments, described: DescriptionArguments, dataset: RecDataset) -> EncodedItems:
    """The frozen inputs of the dataset's items, read or made now.

    Raises:
        ValueError: a file or an encoder that does not fit.
    """
    from ..descriptions.encoded_items import EncodedItems

    if options.inputs:
        return EncodedItems.load(options.inputs).for_dataset(dataset)
    return described.encode(dataset)


def build_dmesr(options: DMESRArguments, dataset: RecDataset, encoded: EncodedItems, seed: int) -> DMESRModel:
    """A fresh model as the arguments say, with its inputs in place."""
    from transformers import set_seed

    from ..modeling.configuration_dmesr import DMESRConfig
    from ..modeling.inputs_dmesr import ItemInputs
    from ..modeling.modeling_dmesr import DMESRModel

    set_seed(seed)
    inputs = ItemInputs(encoded.coarse, encoded.coarse_present, encoded.fine, encoded.fine_present)
    own = ("item_representation", "adapter_size", "fusion_heads", "fusion_residual", "fusion_norm", "items_per_block")
    config = DMESRConfig(
        n_items=dataset.n_items,
        content_dims=inputs.dims,
        **options.sizes(),
        **{name: getattr(options, name) for name in own},
    )
    model = DMESRModel(config)
    model.set_inputs(
        inputs,
        embedder=encoded.facts.get("model"),
        embedder_revision=encoded.facts.get("revision"),
        fingerprint=encoded.fingerprint,
    )
    return model
