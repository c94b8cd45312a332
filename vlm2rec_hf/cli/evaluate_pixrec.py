"""`vlm2rec evaluate` of a PixRecModel: rank users over the full catalogue by tower similarity, beside the floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments, EvaluateArguments, ModelArguments
from .common import open_dataset, parse, require, say, weights_of
from .pixrec_models import PixRecArguments, load_pixrec, print_report, report_pixrec

if TYPE_CHECKING:
    from ..data.dataset import RecDataset


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.described_items import DescribedItems
    from ..trained_on import facts_of_training, trained_history, warning_about
    from ..trainers.pixrec_trainer import method_name

    kinds = (DataArguments, ModelArguments, EvaluateArguments, PixRecArguments)
    data, models, options, own = parse("evaluate", __doc__ or "", kinds, argv)
    output = Path(require(options.output, "--output", "the folder of the report"))
    options.cut_offs()
    own.refuse_training_options()
    dataset = open_dataset(data)
    model, processor = load_pixrec(models)
    told = warning_about(str(models.model), models.model_revision, dataset)
    if told is not None:
        say(f"Warning: {told}")
    if own.pictures is not None:
        processor.pictures = own.pictures
    trained = facts_of_training(str(models.model), models.model_revision)
    options.eval_max_history = options.eval_max_history or trained_history(trained, processor.max_history)
    processor.max_history = options.eval_max_history
    if options.method == EvaluateArguments.method:
        options.method = method_name(processor)
    columns = own.columns() or trained_columns(trained, dataset)
    items = DescribedItems(dataset, columns, pictures=processor.pictures)
    catalogue = PreparedCatalogue(items, processor)
    catalogue.cache_features(model, show_progress=True)  # type: ignore[arg-type]
    facts = {
        "model": str(models.model),
        "item_columns": list(items.columns) or None,
        "max_history": options.eval_max_history,
        **weights_of(str(models.model)),
    }
    report = report_pixrec(model, catalogue, dataset, options, own, facts)
    report.save(output)
    print_report(report)
    say(f"Report in {output}.")


def trained_columns(facts: Mapping[str, Any], dataset: RecDataset) -> list[str] | None:
    """The item columns whose words a model was trained on, as far as the dataset has them.

    Args:
        facts: the model's `training.json`.
        dataset: to be evaluated on.

    Returns:
        Columns for `DescribedItems`; `None` where nothing is known or the dataset has none of them.
    """
    trained = facts.get("item_columns")
    if not isinstance(trained, list):
        return None
    found = [name for name in trained if name in dataset.items.column_names]
    if found != trained:
        said = f"describing items by {', '.join(found)}" if found else "describing them by the dataset's usual columns"
        say(
            f"Warning: the model was trained on the item columns {', '.join(trained)}, some of which this dataset "
            f"lacks; {said}. Choose others with `--item_columns`."
        )
    return found if found or not trained else None
