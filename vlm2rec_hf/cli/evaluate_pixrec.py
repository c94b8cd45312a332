"""`vlm2rec evaluate` of a PixRecModel: rank users over the full catalogue by tower similarity, beside the floors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm2rec_hf.cli.arguments import DataArguments, EvaluateArguments, ModelArguments
from vlm2rec_hf.cli.common import open_dataset, parse, require, say, weights_of
from vlm2rec_hf.cli.pixrec_models import PixRecArguments, load_pixrec, print_report, report_pixrec


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    from vlm2rec_hf.cli.training_data import warning_about
    from vlm2rec_hf.data.described_items import DescribedItems
    from vlm2rec_hf.modeling.prepared_catalogue import PreparedCatalogue
    from vlm2rec_hf.trainers.pixrec_trainer import method_name

    kinds = (DataArguments, ModelArguments, EvaluateArguments, PixRecArguments)
    data, models, options, own = parse("evaluate", __doc__ or "", kinds, argv)
    output = Path(require(options.output, "--output", "the folder of the report"))
    options.cut_offs()
    dataset = open_dataset(data)
    model, processor = load_pixrec(models)
    told = warning_about(str(models.model), models.model_revision, dataset)
    if told is not None:
        say(f"Warning: {told}")
    if own.pictures is not None:
        processor.pictures = own.pictures
    processor.max_history = options.eval_max_history
    if options.method == EvaluateArguments.method:
        options.method = method_name(processor)
    items = DescribedItems(dataset, own.columns(), pictures=processor.pictures)
    catalogue = PreparedCatalogue(items, processor)
    catalogue.cache_features(model, show_progress=True)  # type: ignore[arg-type]
    facts = {"model": str(models.model), **weights_of(str(models.model))}
    report = report_pixrec(model, catalogue, dataset, options, own, facts)
    report.save(output)
    print_report(report)
    say(f"Report in {output}.")
