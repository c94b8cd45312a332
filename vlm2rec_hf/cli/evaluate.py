"""`vlm2rec evaluate`: rank users over the full catalogue with any trained model, beside the floors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .arguments import (
    DataArguments,
    EncoderModelArguments,
    EvaluateArguments,
    PixRecRankingArguments,
    VisionCacheArguments,
    given_options,
)
from .common import named_as_options, open_dataset, print_report, refuse_for_trained, refuse_given, require, say
from .parsing import check_options_early, parse
from .places import check_folder

if TYPE_CHECKING:
    from ..loading import LoadedModel

OPTIONS = (DataArguments, EncoderModelArguments, EvaluateArguments, PixRecRankingArguments, VisionCacheArguments)
USAGE = "--dataset DATA --model MODEL --output DIR [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    check_options_early(argv, OPTIONS)
    data, models, ranking, pixrec, cached = parse("evaluate", __doc__ or "", OPTIONS, argv, USAGE)
    output = check_folder(require(ranking.output, "--output", "the folder of the report"))
    where = require(models.model, "--model", "a folder or Hub id of a model")
    from ..evaluation.evaluating import evaluate
    from ..loading import ENCODING_METHODS, METHODS, model_type_of

    kind = model_type_of(where, models.model_revision)
    refuse_given(kind, ("pixrec",), "PixRec models", given_options(pixrec))
    refuse_for_trained(kind, models)
    with named_as_options(folder="--vision_cache_dir", dtype="--vision_cache_dtype"):
        vision_cache = cached.cache()
    dataset = open_dataset(data)
    options: dict[str, Any] = {**ranking.ranking(), "max_history": ranking.eval_max_history}
    options |= {"mix": ranking.mix, "without": ranking.removed()}
    names = {"where": "--model", "model": "--model", "dataset": "--dataset", "max_history": "--eval_max_history"}
    with named_as_options(
        **names, split="--eval_split", mix="--mix", without="--without", vision_cache="--vision_cache_dir"
    ):
        if kind == "pixrec":
            options |= {"item_columns": pixrec.columns(), "use_images": pixrec.images}
            options |= {"generation": pixrec.generation()}
        is_head = kind in METHODS and kind not in ENCODING_METHODS
        if is_head and "eval_batch_size" not in given_options(ranking):
            del options["batch_size"]
        report = evaluate(
            load(models),
            dataset,
            vision_cache=vision_cache,
            show_progress=True,
            **options,
        )
    report.save(output)
    say(f"Report in {output}.")
    print_report(report)


def load(models: EncoderModelArguments) -> LoadedModel:
    """The model that the options name; a raw vision-language backbone becomes an embedder.

    Raises:
        ValueError: nothing loadable there, or options of a new embedder beside a trained model.
    """
    from ..loading import METHODS, load_or_build, load_with_processor, model_type_of

    where = require(models.model, "--model", "a folder or Hub id of a model")
    with named_as_options(where="--model", model="--model", template="--template"):
        kind = model_type_of(where, models.model_revision)
        refuse_for_trained(kind, models)
        if kind in (None, *METHODS):
            return load_with_processor(where, revision=models.model_revision, **models.loading())
        fusion = {"fusion": models.fusion}
        rows = fusion if models.template is None else {**fusion, "template": models.template}
        options = {"backbone_options": fusion, "processor_options": rows, **models.loading()}
        return load_or_build(where, "vlm2rec", revision=models.model_revision, **options)
