"""`vlm2rec merge`: merge an adapter into its base, checked on items and histories of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..files import whole_folder
from .arguments import DataArguments, EncoderModelArguments, check_at_least
from .common import open_dataset, require, say
from .evaluate import load
from .parsing import check_options_early, parse
from .places import check_new


@dataclass
class MergeArguments:
    """Where the merged model goes and how it is checked."""

    _argument_group_name = "merge"

    output: str = field(default="", metadata={"help": "Folder of the merged model; must not exist."})
    tolerance: float = field(default=1e-4, metadata={"help": "Largest change allowed in any vector's coordinate."})
    probes: int = field(default=64, metadata={"help": "Items, and as many histories, that are compared."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "probes")


def main(argv: Sequence[str]) -> None:
    """Run the command. The adapter's folder is left as it is; nothing is written if the vectors change."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import spread_rows
    from ..merging import merge_adapters
    from ..sentence_transformers.model_files import write_sentence_transformer_files
    from ..trainers.training_facts import write_training_facts

    types = (DataArguments, EncoderModelArguments, MergeArguments)
    check_options_early(argv, types)
    usage = "--model ADAPTER --dataset DATA --output DIR [options]"
    data, models, options = parse("merge", __doc__ or "", types, argv, usage)
    output = check_new(require(options.output, "--output", "the folder of the merged model"))
    dataset = open_dataset(data)
    loaded = load(models)
    model, processor = loaded.model, loaded.processor
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    usable = [i for i in range(len(catalogue)) if not catalogue.is_empty(i)]
    examples = dataset.examples("train", max_history=processor.max_history)
    histories = [examples.history(row) for row in spread_rows(len(examples), options.probes)]
    full = [[catalogue[int(i)] for i in history if not catalogue.is_empty(int(i))] for history in histories]
    merged = merge_adapters(
        model,
        processor,
        [catalogue[usable[i]] for i in spread_rows(len(usable), options.probes)],
        [history for history in full if history],
        tolerance=options.tolerance,
    )
    with whole_folder(output) as partial:
        merged.model.save_pretrained(partial)
        processor.save_pretrained(partial)
        write_sentence_transformer_files(partial, processor, merged.model.config)
        measured = {"difference": merged.difference, "items": merged.n_items, "histories": merged.n_histories}
        write_training_facts(partial, {**loaded.training, "merged": measured})
    say(
        f"Vectors of {merged.n_items} items and {merged.n_histories} histories changed by at most "
        f"{merged.difference:.2e} (allowed {merged.tolerance:g})."
    )
    print(f"Merged model -> {output}")
