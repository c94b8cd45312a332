"""`vlm2rec train --method pixrec`: train a PixRecModel, pick the best checkpoint, evaluate it on the test split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .arguments import DataArguments, EvaluateArguments, ModelArguments, WarmUpArguments
from .common import open_dataset, parse, require, say, weights_of
from .pixrec_models import PixRecArguments, build_pixrec, print_report, report_pixrec


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.described_items import DescribedItems
    from ..trainers.pixrec_args import PixRecTrainingArguments
    from ..trainers.pixrec_trainer import PixRecTrainer, method_name, pixrec_lora_config

    kinds = (
        DataArguments, ModelArguments, WarmUpArguments, EvaluateArguments, PixRecArguments, PixRecTrainingArguments
    )  # fmt: skip
    data, models, warm, options, own, training = parse("train --method pixrec", __doc__ or "", kinds, argv)
    require(training.output_dir, "--output_dir", "the folder of the trained model")
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    model, processor, from_config = build_pixrec(models, warm, own, dataset, training.max_history, training.seed)
    lora = models.lora if models.lora is not None else not from_config
    lora = lora and not model.holds_adapter  # a loaded adapter is trained further
    if lora and from_config:
        raise ValueError(
            "`--lora` needs weights that lie somewhere (`--model`): nobody could load an adapter on a tiny model made "
            "from config, whose weights are saved nowhere."
        )
    items = DescribedItems(dataset, own.columns(), pictures=processor.pictures)
    catalogue = PreparedCatalogue(items, processor)
    trainer = PixRecTrainer(
        model,
        training,
        train_dataset=dataset,
        processing_class=processor,
        catalogue=catalogue,
        peft_config=pixrec_lora_config(models.lora_r, models.lora_alpha, models.lora_dropout) if lora else None,
    )
    if warm.warm_up_steps:
        trainer.warm_up = warm.facts()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    where = str(training.output_dir)
    trainer.save_model(where)
    facts = {
        "model": where,
        "objective": method_name(processor),
        "loss": trainer.loss.get_config_dict(),
        "item_columns": list(items.columns) or None,
        "steps": trainer.state.global_step,
        "seed": training.seed,
        **weights_of(where),
        "seconds": round(time.perf_counter() - start, 1),
    }
    options.eval_max_history = training.max_history
    options.method = method_name(processor)
    report = report_pixrec(trainer.pixrec, catalogue, dataset, options, own, facts)
    folder = Path(options.output or Path(where) / "evaluation")
    report.save(folder)
    trainer.create_model_card()
    print_report(report)
    say(f"Model and card in {where}, report in {folder}.")
