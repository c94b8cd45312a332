"""`vlm2rec train --method vlm2rec`: train an embedder, pick the best checkpoint, evaluate it on the test split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    DataArguments,
    EncoderRankingArguments,
    TrainModelArguments,
    WarmUpArguments,
    given_options,
)
from .common import named_as_options, open_dataset, print_report, refuse_for_trained, say
from .parsing import check_options_early, parse
from .train import MethodArguments
from .training_run import best_by_validation, check_ranking, check_training, run

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..loading import LoadedModel

CHEAP = (MethodArguments, DataArguments, TrainModelArguments, WarmUpArguments, EncoderRankingArguments)
USAGE = "--dataset DATA (--model MODEL | --language_model MODEL | --tiny FAMILY) --output_dir DIR [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the model, checkpoints and, under `evaluation/`, the test report.

    Runs in one process, or in several through `accelerate launch -m vlm2rec_hf.cli.main train ...`.
    """
    check_options_early(argv, CHEAP, TRAINING_MODULES)
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..evaluation.evaluating import evaluate
    from ..loading import weight_files_fingerprint
    from ..trainers.adapters import default_lora_config
    from ..trainers.best_metric import embedder_metric_names
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer
    from ..trainers.warm_up import captions_of, warm_up_backbone

    _, data, models, warm, ranking, training = parse(
        "train", __doc__ or "", (*CHEAP, VLM2RecTrainingArguments), argv, USAGE, best_by_validation(argv)
    )
    check_training(training, embedder_metric_names())
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    check_ranking(dataset, ranking, training.max_history)
    loaded, from_config = starting_model(models, dataset, training.max_history, training.seed)
    lora = wants_lora(models, loaded.model, from_config)
    if warm.warm_up_backbone and (lora or loaded.model.holds_adapter):
        raise ValueError(
            "`--warm_up_backbone` changes the weights under an adapter, which nobody could load then; train all "
            "weights (`--lora false`), or warm up, save and train the adapter in a second run."
        )
    catalogue = PreparedCatalogue(dataset.catalogue_items(), loaded.processor)
    if warm.warm_up_backbone:
        warm_up_backbone(loaded.model, catalogue, captions_of(dataset), seed=training.seed, **warm_up_options(warm))
    trainer = VLM2RecTrainer(
        loaded.model,
        training,
        train_dataset=dataset,
        processing_class=loaded.processor,
        catalogue=catalogue,
        peft_config=default_lora_config(models.lora_r, models.lora_alpha, models.lora_dropout) if lora else None,
    )
    if warm.warm_up_backbone:
        trainer.warm_up = warm.facts()
    run(trainer, argv)
    report = evaluate(
        trainer.embedder,
        dataset,
        processor=loaded.processor,
        catalogue=catalogue,
        max_history=training.max_history,
        facts={
            "model": training.output_dir,
            "objective": training.objective,
            "loss": trainer.loss.get_config_dict(),
            "steps": trainer.state.global_step,
            "seed": training.seed,
            "weights": weight_files_fingerprint(Path(str(training.output_dir))) if training.should_save else None,
            "seconds": round(time.perf_counter() - start, 1),
        },
        across_processes=trainer.shares_evaluation,
        show_progress=True,
        **{**ranking.ranking(), "report_name": ranking.report_name or training.objective},
    )
    if training.should_save:  # every process has encoded its share; one of them writes
        finish(trainer, report)


TRAINING_MODULES = (
    "transformers.training_args", "vlm2rec_hf.trainers.vlm2rec_args", "vlm2rec_hf.trainers.encoder_args"
)  # fmt: skip


def starting_model(
    models: TrainModelArguments,
    dataset: RecDataset,
    max_history: int | None,
    seed: int,
    method: str = "vlm2rec",
    new: Mapping[str, Any] | None = None,
) -> tuple[LoadedModel, bool]:
    """The model that training starts from, and whether it is a tiny embedder made from config.

    Args:
        models: the arguments.
        dataset: a tiny backbone's tokenizer is trained on its texts.
        max_history: items of a history that the processor keeps; `None`: its own number.
        seed: of a tiny backbone's weights.
        method: `"vlm2rec"` or `"pixrec"`.
        new: options of a model made around a raw backbone.

    Raises:
        ValueError: none or several of `--model`, `--language_model` and `--tiny`, or nothing loadable there.
    """
    from ..loading import LoadedModel, load_or_build, load_parts, model_type_of
    from ..tiny.backbones import tiny_vlm

    if sum(name is not None for name in (models.model, models.tiny, models.language_model)) != 1:
        raise ValueError(
            "Name exactly one of `--model` (folder or Hub id), `--language_model` (with `--image_encoder` or "
            "`--feature_size`) and `--tiny` (build one from config)."
        )
    if models.template is not None and method != "vlm2rec":
        raise ValueError(f"`--template` {models.template!r} is for `--method vlm2rec`; PixRec has rows of its own.")
    if "fusion" in given_options(models) and method != "vlm2rec":
        raise ValueError(f"`--fusion` {models.fusion!r} is for `--method vlm2rec`; PixRec has one way; leave it out.")
    if models.template is not None and models.language_model is not None:
        raise ValueError(f"`--template` {models.template!r} goes with `--model` or `--tiny`; leave it out.")
    template = {} if models.template is None else {"template": models.template}
    options = {**models.processor_options(), **({} if max_history is None else {"max_history": max_history})}
    pixels = models.pixels()
    named = {name: f"--{name}" for name in (*options, *pixels)}
    if models.tiny is not None:
        texts = [text for text in dataset.item_texts() if text]
        with named_as_options(**named, family="--tiny", template="--template"):
            sizes = models.tiny_options()
            model, processor = tiny_vlm(
                models.tiny, texts, seed=seed, processor_options={**options, **template}, **sizes
            )
            _set(processor, pixels)
        return LoadedModel(model, processor), True
    if models.language_model is not None:
        if method != "vlm2rec":
            raise ValueError("`--language_model` builds embedders; for PixRec name a backbone as `--model`.")
        with named_as_options(**named, language_model="--language_model", image_encoder="--image_encoder"):
            loaded = load_parts(
                str(models.language_model),
                image_encoder=models.image_encoder,
                image_encoder_revision=models.image_encoder_revision,
                revision=models.model_revision,
                fusion=models.fusion,
                seed=seed,
                **models.feature_options(),
                **models.loading(),
            )
            _set(loaded.processor, {**options, **pixels})
        return loaded, False
    fusion = {"fusion": models.fusion} if method == "vlm2rec" else {}
    refuse_for_trained(model_type_of(str(models.model), models.model_revision), models)
    with named_as_options(where="--model", method="--method", model="--model", template="--template"):
        loaded = load_or_build(
            str(models.model),
            method,
            revision=models.model_revision,
            backbone_options={**fusion, **(new or {})},
            processor_options={**fusion, **template},
            **models.loading(),
        )
    with named_as_options(**named):
        _set(loaded.processor, {**options, **pixels})
    return loaded, False


def _set(processor: Any, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        setattr(processor, name, value)


def wants_lora(models: TrainModelArguments, model: Any, from_config: bool) -> bool:
    """Whether fresh adapters are trained; a loaded adapter is trained further instead."""
    lora = models.lora if models.lora is not None else not from_config
    return lora and not model.holds_adapter


def warm_up_options(warm: WarmUpArguments) -> dict[str, Any]:
    """Options of `warm_up_backbone`."""
    return {
        "target": warm.warm_up_target,
        "steps": warm.warm_up_backbone,
        "batch_size": warm.warm_up_batch_size,
        "learning_rate": warm.warm_up_learning_rate,
        "show_progress": True,
    }


def finish(trainer: Any, report: Any) -> None:
    """Save the test report and the card of a trained model, print the report and say where they are."""
    folder = Path(str(trainer.args.output_dir))
    report.save(folder / "evaluation")
    trainer.create_model_card()
    print_report(report)
    say(f"Model and card in {folder}, report in {folder / 'evaluation'}.")
