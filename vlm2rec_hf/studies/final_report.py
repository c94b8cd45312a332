"""The one time that a run's test split is read: its report, with every rank and with one modality removed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .report_options import report_options
from .runs import MODEL_FOLDER, REPORT_FOLDER, Run
from .shared_work import shared_start, vision_cache
from .study_file import DEMO_SHOP

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..evaluation.report import Report


def report_test_users(run: Run, dataset: RecDataset) -> dict[str, Any]:
    """Rank a run's test users and save the report, with every single rank.

    Args:
        run: trained.
        dataset: the prepared data set.

    Returns:
        Facts for the run's result.
    """
    from ..evaluation.evaluating import evaluate
    from ..evaluation.without_modality import WITHOUT
    from ..loading import load_with_processor, weight_files_fingerprint

    began, folder = time.perf_counter(), run.folder / MODEL_FOLDER
    facts: dict[str, Any] = {"seed": run.seed, "study": run.study.name}
    if run.method.kind == "zero_shot":
        loaded = shared_start(run, dataset)
    else:
        loaded = load_with_processor(folder)
        facts["weights"] = weight_files_fingerprint(folder)
    chosen = report_options(run)
    options = {**chosen, "max_users": run.data.max_users, "report_name": run.method.name, "facts": facts}
    if run.method.kind == "head":
        report = evaluate(loaded.model, dataset, **options)
    else:
        options |= {"vision_cache": vision_cache(run.study), "without": tuple(WITHOUT)}
        report = evaluate(loaded, dataset, **options)
    if run.data.source == DEMO_SHOP:
        _add_oracle(report, run, dataset, loaded, chosen)
    report.facts["seconds"] = round(time.perf_counter() - began, 1)
    report.save(run.folder / REPORT_FOLDER)
    return {"weights": facts.get("weights")}


def _add_oracle(report: Report, run: Run, dataset: RecDataset, loaded: Any, chosen: Mapping[str, Any]) -> None:
    """What a model that knew the demo shop's true choice probabilities would score."""
    from ..data.demo_shop import make_demo_shop
    from ..evaluation.evaluating import users_of
    from ..evaluation.ranking import rank_targets

    is_head = run.method.kind == "head"
    history = loaded.model.config.max_length if is_head else chosen.get("max_history", loaded.max_history)
    examples = users_of(dataset, "test", history, run.data.max_users, loaded.model if is_head else None)
    oracle, exclude_seen = make_demo_shop(**run.data.shop).oracle(examples), report.protocol.exclude_seen
    ranking = rank_targets(oracle, examples, k=max(report.protocol.k), exclude_seen=exclude_seen)
    report.add_floor("oracle", ranking, train_counts=examples.sequences.train_counts())
