"""Train the embedder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .budget import MAX_SECONDS, settle_budget, steps_within
from .fitting import BEST_BY_VALIDATION, QUIET, fit
from .runs import Run
from .shared_work import shared_features, shared_start, vision_folder

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer


def embedder_arguments(run: Run) -> VLM2RecTrainingArguments:
    """The training arguments of a run.

    Raises:
        ValueError: an argument that does not exist, that the study itself sets, or whose value cannot be used.
    """
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments

    given = checked_arguments(run, VLM2RecTrainingArguments, MAX_SECONDS)
    seconds = given.pop(MAX_SECONDS, None)
    if seconds is not None:
        given["max_steps"] = steps_within(run, seconds)
    if given.get("freeze_vision", True) and given.get("cache_vision_features", True):
        given.setdefault("vision_cache_dir", str(vision_folder(run.study)))
    if "metric_for_best_model" not in given:
        given["metric_for_best_model"] = f"eval_{run.method.view}_ndcg@10"
    return VLM2RecTrainingArguments(
        **{**BEST_BY_VALIDATION, **QUIET, **given, "output_dir": str(run.folder), "seed": run.seed}
    )


def checked_arguments(run: Run, kind: type[Any], *more: str) -> dict[str, Any]:
    """The training arguments that a study names for a run.

    Args:
        run: the run.
        kind: the arguments' class.
        more: what may be named besides.

    Raises:
        ValueError: one that does not exist, or that the study itself sets.
    """
    from dataclasses import fields

    from .study_file import one_of

    given = dict(run.arguments)
    known = {field.name for field in fields(kind)} - {"output_dir", "seed", "resume_from_checkpoint", "push_to_hub"}
    for name in given:
        one_of("training", name, sorted(known | set(more)), f" for {run.method.name!r}")
    return given


def train_embedder(run: Run, dataset: RecDataset, deadline: float | None) -> None:
    """Train a run's embedder from where its folder stands; see `fit`."""
    if MAX_SECONDS in run.arguments:
        settle_budget(run, embedder_arguments(run), lambda timed: _trainer(run, dataset, timed))
    fit(_trainer(run, dataset, embedder_arguments(run)), run, deadline)


def _trainer(run: Run, dataset: RecDataset, arguments: VLM2RecTrainingArguments) -> VLM2RecTrainer:
    """The trainer of a run at its start."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..trainers.adapters import default_lora_config
    from ..trainers.frozen_vision import keeps_features
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer

    start = run.start
    assert start is not None
    loaded = shared_start(run, dataset)
    lora = start.lora
    if arguments.freeze_vision:
        loaded.model.freeze_vision()
    catalogue = PreparedCatalogue(dataset.catalogue_items(), loaded.processor)
    if keeps_features(loaded.model, arguments):
        shared_features(run, loaded, catalogue)
    trainer = VLM2RecTrainer(
        loaded.model,
        arguments,
        train_dataset=dataset,
        processing_class=loaded.processor,
        catalogue=catalogue,
        peft_config=None if lora is None else default_lora_config(**{**LORA, **lora}),
    )
    if start.warm_up:
        trainer.warm_up = {"steps": 350, "target": "semantic", **start.warm_up}
    return trainer


LORA: dict[str, Any] = {"r": 16, "alpha": None, "dropout": 0.05}
"""Options of `start.lora` and their defaults, those of the command line."""
