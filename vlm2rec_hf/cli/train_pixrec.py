"""`vlm2rec train --method pixrec`: train a PixRecModel, pick the best checkpoint, evaluate it on the test split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .arguments import (
    DataArguments,
    EncoderRankingArguments,
    PixRecRankingArguments,
    TrainModelArguments,
    WarmUpArguments,
    check_at_least,
)
from .common import open_dataset, say
from .parsing import check_options_early, parse
from .train import MethodArguments
from .train_vlm2rec import finish, starting_model, wants_lora, warm_up_options
from .training_run import best_by_validation, check_ranking, check_training, run

DIMENSIONS = 128
"""Length of vectors in the paper."""


@dataclass
class PixRecArguments(PixRecRankingArguments):
    """What is PixRec's own."""

    next_item_prompt: str | None = field(default=None, metadata={"help": "Text between a history and its target."})
    projection_dim: int | None = field(
        default=None, metadata={"help": f"Length of a new model's user and item vectors; {DIMENSIONS} by default."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "projection_dim")


CHEAP = (
    MethodArguments, DataArguments, TrainModelArguments, PixRecArguments, WarmUpArguments, EncoderRankingArguments
)  # fmt: skip
TRAINING_MODULES = (
    "transformers.training_args", "vlm2rec_hf.trainers.pixrec_args", "vlm2rec_hf.trainers.encoder_args"
)  # fmt: skip
USAGE = "--method pixrec --dataset DATA (--model MODEL | --tiny FAMILY) --output_dir DIR [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report."""
    check_options_early(argv, CHEAP, TRAINING_MODULES)
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.described_items import DescribedItems
    from ..evaluation.evaluating import evaluate
    from ..evaluation.metrics import ranking_metric_names
    from ..evaluation.pixrec import method_name
    from ..loading import weight_files_fingerprint
    from ..tiny.pixrec import pixrec_from_embedder
    from ..trainers.adapters import pixrec_lora_config
    from ..trainers.pixrec_args import PixRecTrainingArguments
    from ..trainers.pixrec_trainer import PixRecTrainer
    from ..trainers.warm_up import captions_of, warm_up_backbone

    _, data, models, own, warm, ranking, training = parse(
        "train", __doc__ or "", (*CHEAP, PixRecTrainingArguments), argv, USAGE, best_by_validation(argv)
    )
    check_training(training, ranking_metric_names())
    generation = own.generation()  # says now, and not after hours of training, that a library is missing
    if models.model is not None and warm.warm_up_backbone:
        raise ValueError("`--warm_up_backbone` is for backbones built from config (`--tiny`); `--model` has learnt.")
    if models.lora and models.tiny is not None:
        raise ValueError(
            "`--lora` needs weights that lie somewhere (`--model`): nobody could load an adapter on a tiny model made "
            "from config, whose weights are saved nowhere."
        )
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    check_ranking(dataset, ranking, training.max_history)
    size = own.projection_dim or DIMENSIONS
    loaded, from_config = starting_model(
        models, dataset, training.max_history, training.seed, "pixrec", {"projection_dim": size, "seed": training.seed}
    )
    model, processor = loaded.model, loaded.processor
    options = {name: getattr(own, name) for name in ("next_item_prompt", "images") if getattr(own, name) is not None}
    if from_config:
        if warm.warm_up_backbone:
            catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
            warm_up_backbone(model, catalogue, captions_of(dataset), seed=training.seed, **warm_up_options(warm))
        history = {} if training.max_history is None else {"max_history": training.max_history}
        options = {**models.processor_options(), **history, **options}
        model, processor = pixrec_from_embedder(
            model, processor, seed=training.seed, processor_options=options, projection_dim=size
        )
    elif own.projection_dim not in (None, model.config.projection_dim):
        raise ValueError(
            f"`--projection_dim` {own.projection_dim} does not fit the trained model {models.model!r}, which has "
            f"{model.config.projection_dim}; leave it out."
        )
    else:
        for name, value in options.items():
            setattr(processor, name, value)
    lora = wants_lora(models, model, from_config)
    items = DescribedItems(dataset, own.columns(), images=processor.images)
    catalogue = PreparedCatalogue(items, processor)
    trainer = PixRecTrainer(
        model,
        training,
        train_dataset=dataset,
        processing_class=processor,
        catalogue=catalogue,
        peft_config=pixrec_lora_config(models.lora_r, models.lora_alpha, models.lora_dropout) if lora else None,
    )
    if warm.warm_up_backbone:
        trainer.warm_up = warm.facts()
    run(trainer, argv)
    report = evaluate(
        trainer.pixrec,
        dataset,
        processor=processor,
        catalogue=catalogue,
        max_history=training.max_history,
        generation=generation,
        facts={
            "model": training.output_dir,
            "objective": method_name(processor),
            "loss": trainer.loss.get_config_dict(),
            "item_columns": list(items.columns) or None,
            "steps": trainer.state.global_step,
            "seed": training.seed,
            "weights": weight_files_fingerprint(Path(str(training.output_dir))),
            "seconds": round(time.perf_counter() - start, 1),
        },
        show_progress=True,
        **ranking.ranking(),
    )
    finish(trainer, report)
