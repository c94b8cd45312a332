"""`vlm2rec train --method dmesr`: train DMESR over SASRec, GRU4Rec or BERT4Rec, and test it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .arguments import DataArguments, HeadEncoderArguments, RankingArguments
from .common import named_as_options, open_dataset, say
from .description_arguments import DescriptionArguments
from .parsing import check_options_early, parse
from .train import MethodArguments
from .train_seqrec import train_head
from .training_run import check_ranking, check_training


@dataclass
class DMESRArguments(HeadEncoderArguments):
    """DMESR's own switches, beside the encoder's."""

    inputs: str | None = field(
        default=None, metadata={"help": "What `vlm2rec encode-descriptions` wrote; or encode now (--text_encoder)."}
    )
    item_representation: str = field(default="content", metadata={"help": "content, or content+id."})
    adapter_size: int | None = field(default=None, metadata={"help": "Width inside an adapter; by default half."})
    fusion_heads: int = field(default=2, metadata={"help": "Heads of the cross-attention."})
    fusion_residual: bool = field(default=True, metadata={"help": "Residual around the cross-attention."})
    fusion_norm: bool = field(default=True, metadata={"help": "LayerNorm after the cross-attention."})
    items_per_block: int = field(default=4096, metadata={"help": "Items fused at once; bounds memory."})

    def model_options(self) -> dict[str, Any]:
        """Options of `build_dmesr`."""
        own = ("item_representation", "adapter_size", "fusion_heads", "fusion_residual", "fusion_norm",
               "items_per_block")  # fmt: skip
        return {**self.sizes(), **{name: getattr(self, name) for name in own}}


CHEAP = (MethodArguments, DataArguments, DMESRArguments, DescriptionArguments, RankingArguments)
TRAINING_MODULES = (
    "transformers.training_args", "vlm2rec_hf.trainers.seqrec_args", "vlm2rec_hf.trainers.dmesr_args"
)  # fmt: skip
USAGE = "--method dmesr --dataset DATA (--inputs FILE | --text_encoder MODEL) --output_dir DIR [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report."""
    check_options_early(argv, CHEAP, TRAINING_MODULES)
    from ..descriptions.encoded_items import EncodedItems
    from ..evaluation.metrics import ranking_metric_names
    from ..trainers.dmesr_args import DMESRTrainingArguments
    from ..trainers.dmesr_trainer import DMESRTrainer
    from ..trainers.head_models import build_dmesr

    _, data, options, described, ranking, training = parse(
        "train", __doc__ or "", (*CHEAP, DMESRTrainingArguments), argv, USAGE
    )
    check_training(training, ranking_metric_names())
    if bool(options.inputs) == bool(described.text_encoder):
        raise ValueError("Name exactly one of `--inputs` (encoded before) and `--text_encoder` (encode now).")
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    check_ranking(dataset, ranking, options.max_length)
    with named_as_options(inputs="--inputs", text_encoder="--text_encoder"):
        encoded = EncodedItems.load(options.inputs) if options.inputs else described.encode(dataset)
        model = build_dmesr(dataset, encoded, seed=training.seed, **options.model_options())
    train_head(DMESRTrainer(model, training, dataset), dataset, ranking, start, argv)
    say(f"Next: vlm2rec recommend --model {training.output_dir} --dataset {data.dataset} --history ID,ID")
