"""`vlm2rec train --method vlm2rec`: train an embedder, pick the best checkpoint, evaluate it on the test split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments, EvaluateArguments, ModelArguments, VisionCacheFolder, WarmUpArguments
from .common import build_model, open_dataset, parse, require, say

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report.

    Runs in one process, or in several through `accelerate launch -m vlm2rec_hf.cli.main train ...`.
    """
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..hub_cards.model_folder import weights_fingerprint
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer, default_lora_config
    from .evaluate import evaluate

    data, models, warm, options, training, cached = parse(
        "train",
        __doc__ or "",
        (
            DataArguments,
            ModelArguments,
            WarmUpArguments,
            EvaluateArguments,
            VLM2RecTrainingArguments,
            VisionCacheFolder,
        ),
        argv,
    )
    if cached.vision_cache:
        if training.vision_cache_dir not in (None, cached.vision_cache) or not training.cache_vision_features:
            raise ValueError(
                f"`--vision_cache` {cached.vision_cache!r} contradicts `--vision_cache_dir` "
                f"{training.vision_cache_dir!r} (another name of it) or `--cache_vision_features false`; give one."
            )
        training.vision_cache_dir = cached.vision_cache
    require(training.output_dir, "--output_dir", "the folder of the trained model")
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    model, processor, from_config = build_model(models, dataset, training.max_history, training.seed)
    lora = models.lora if models.lora is not None else not from_config
    lora = lora and not model.holds_adapter  # a loaded adapter is trained further
    if warm.warm_up_steps and (lora or model.holds_adapter):
        raise ValueError(
            "`--warm_up_steps` changes the weights under an adapter, which nobody could load then; train all weights "
            "(`--lora false`), or warm up, save and train the adapter in a second run."
        )
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    if warm.warm_up_steps:
        warm_up(model, catalogue, dataset, warm, training.seed)
    trainer = VLM2RecTrainer(
        model,
        training,
        train_dataset=dataset,
        processing_class=processor,
        catalogue=catalogue,
        peft_config=default_lora_config(models.lora_r, models.lora_alpha, models.lora_dropout) if lora else None,
    )
    if warm.warm_up_steps:
        trainer.warm_up = warm.facts()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    facts = {
        "model": training.output_dir,
        "objective": training.objective,
        "loss": trainer.loss.get_config_dict(),
        "steps": trainer.state.global_step,
        "seed": training.seed,
        "weights": weights_fingerprint(Path(str(training.output_dir))) if training.should_save else None,
        "seconds": round(time.perf_counter() - start, 1),
    }
    options.eval_max_history = training.max_history
    options.method = training.objective
    report = evaluate(trainer.embedder, catalogue, dataset, options, facts, trainer.shares_evaluation)
    if not training.should_save:
        return  # every process has encoded its share; one of them writes
    folder = Path(options.output or Path(str(training.output_dir)) / "evaluation")
    report.save(folder)
    trainer.create_model_card()
    print(report.to_markdown())
    say(f"Model and card in {training.output_dir}, report in {folder}.")


def warm_up(
    model: Any, catalogue: PreparedCatalogue, dataset: RecDataset, warm: WarmUpArguments, seed: int
) -> list[dict[str, float]]:
    """Warm a backbone up on what captions would say: the item column `description`, else the item's text."""
    from ..columns import DESCRIPTION
    from ..trainers.warm_up import warm_up_backbone

    column = DESCRIPTION if DESCRIPTION in dataset.items.column_names else None
    return warm_up_backbone(
        model,
        catalogue,
        dataset.items[column] if column else dataset.item_texts(),
        target=warm.warm_up_target,
        steps=warm.warm_up_steps,
        batch_size=warm.warm_up_batch_size,
        learning_rate=warm.warm_up_learning_rate,
        seed=seed,
        show_progress=True,
    )
