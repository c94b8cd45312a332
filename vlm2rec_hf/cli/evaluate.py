"""`vlm2rec evaluate`: rank users over the full catalogue with an embedder, by view, beside the floors."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments, EvaluateArguments, ModelArguments, VisionCacheArguments
from .common import given, load_embedder, model_type_of, open_dataset, parse, require, say, weights_of

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..evaluation.report import Report

OTHER_MODELS = {"pixrec": "evaluate_pixrec"}
"""`model_type` -> module of this package that evaluates such models, where that is not this one."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..catalogues.vision_cache import VisionCache
    from ..trained_on import facts_of_training, trained_history, warning_about

    named = given(argv, "model", "model_revision")
    command = OTHER_MODELS.get(model_type_of(named["model"], named["model_revision"]) or "")
    if command is not None:
        importlib.import_module(f"vlm2rec_hf.cli.{command}").main(argv)
        return
    data, models, options, cached = parse(
        "evaluate", __doc__ or "", (DataArguments, ModelArguments, EvaluateArguments, VisionCacheArguments), argv
    )
    cache = VisionCache(cached.vision_cache, dtype=cached.vision_cache_dtype) if cached.vision_cache else None
    output = Path(require(options.output, "--output", "the folder of the report"))
    options.cut_offs()
    dataset = open_dataset(data)
    model, processor = load_embedder(models)
    told = warning_about(str(models.model), models.model_revision, dataset)
    if told is not None:
        say(f"Warning: {told}")
    trained = facts_of_training(str(models.model), models.model_revision)
    options.eval_max_history = options.eval_max_history or trained_history(trained, processor.max_history)
    processor.max_history = options.eval_max_history
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    catalogue.cache_features(model, cache, show_progress=True)
    facts = {"model": str(models.model), **weights_of(str(models.model))}
    report = evaluate(model, catalogue, dataset, options, facts=facts)
    say(f"Report in {output}.")
    report.save(output)
    print(report.to_markdown())


def evaluate(
    model: Any,
    catalogue: PreparedCatalogue,
    dataset: RecDataset,
    options: EvaluateArguments,
    facts: dict[str, Any],
    across_processes: bool = False,
) -> Report:
    """Evaluate one embedder as the arguments say; for `across_processes` see `evaluate_embedder`."""
    from ..evaluation.embedder import evaluate_embedder
    from ..evaluation.embedder_report import add_embedder, start_report

    max_history = options.eval_max_history or catalogue.processor.max_history
    examples = dataset.examples(options.eval_split, max_history=max_history).spread(options.max_users)
    found = evaluate_embedder(
        model,
        catalogue,
        examples,
        k=max(options.cut_offs()),
        exclude_seen=not options.include_seen,
        batch_size=options.eval_batch_size,
        show_progress=True,
        across_processes=across_processes,
    )
    report = start_report(
        dataset,
        examples,
        split=options.eval_split,
        ks=options.cut_offs(),
        exclude_seen=not options.include_seen,
        facts=facts,
    )
    add_embedder(report, options.method, found, examples)
    return report
