"""What the PixRec commands share: their arguments, building and loading a model, its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .arguments import EvaluateArguments, ModelArguments, WarmUpArguments
from .common import build_model, config_at, locate_model, say

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from ..evaluation.pixrec import PixRecEvaluation
    from ..evaluation.report import Report
    from ..modeling.modeling_pixrec import PixRecModel
    from ..modeling.processing_pixrec import PixRecProcessor


DIMENSIONS = 128
"""Length of vectors in the paper."""


@dataclass
class PixRecArguments:
    """What is PixRec's own: how items are described, and ranking by generated text."""

    pictures: bool | None = field(
        default=None, metadata={"help": "false: leave every picture out (the text-only ablation)."}
    )
    item_columns: str | None = field(
        default=None,
        metadata={"help": "Item columns that make an item's text, such as title,category,brand,price (the default "
                          "where there are any)."},
    )  # fmt: skip
    next_item_prompt: str | None = field(default=None, metadata={"help": "Text between a history and its target."})
    projection_dim: int | None = field(
        default=None, metadata={"help": "Length of a new model's user and item vectors; 128 by default."}
    )
    generate_users: int = field(
        default=0, metadata={"help": "Also rank this many users by generated text and BM25; 0: nobody."}
    )
    beams: int = field(default=4, metadata={"help": "Beams of the generation."})
    max_new_tokens: int = field(default=24, metadata={"help": "Tokens of a generated text at most."})

    def __post_init__(self) -> None:
        for name, least in (("projection_dim", 1), ("generate_users", 0), ("beams", 1), ("max_new_tokens", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.generate_users:
            from ..evaluation.generated import require_bm25s

            require_bm25s()  # before hours of training

    def refuse_training_options(self) -> None:
        """Refuse what decides how a model is made, where one is only evaluated.

        Raises:
            ValueError: one of them is given.
        """
        for name in ("projection_dim", "next_item_prompt"):
            if getattr(self, name) is not None:
                raise ValueError(f"`--{name}` is part of a trained model and cannot be changed here; leave it out.")

    def columns(self) -> list[str] | None:
        """The item columns as a list."""
        return column_names(self.item_columns)


def column_names(text: str | None) -> list[str] | None:
    """`title,brand` as a list; `None` for the default columns."""
    return [name.strip() for name in text.split(",")] if text else None


def build_pixrec(
    models: ModelArguments,
    warm: WarmUpArguments,
    own: PixRecArguments,
    dataset: RecDataset,
    max_history: int,
    seed: int,
) -> tuple[PixRecModel, PixRecProcessor, bool]:
    """Load or build the model of a training run.

    Returns:
        The model, its processor, and whether it is a tiny one from config.

    Raises:
        ValueError: both or neither of `model` and `tiny`, or a warm-up of a pretrained model.
    """
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..tiny.pixrec import pixrec_from_embedder
    from .train_vlm2rec import warm_up

    options = {**models.processor_options(), "max_history": max_history}
    if own.next_item_prompt is not None:
        options["next_item_prompt"] = own.next_item_prompt
    if own.pictures is not None:
        options["pictures"] = own.pictures
    if (models.model is None) == (models.tiny is None):
        raise ValueError("Name exactly one of `--model` (folder or Hub id) and `--tiny` (build one from config).")
    if models.model is not None:
        if warm.warm_up_steps:
            raise ValueError("`--warm_up_steps` is for backbones built from config (`--tiny`); `--model` has learnt.")
        model, processor = load_pixrec(models, projection_dim=own.projection_dim or DIMENSIONS, seed=seed)
        if own.projection_dim not in (None, model.config.projection_dim):
            raise ValueError(
                f"`--projection_dim` {own.projection_dim} does not fit the trained model {models.model!r}, which has "
                f"{model.config.projection_dim}; leave it out."
            )
        for name, value in options.items():
            setattr(processor, name, value)
        return model, processor, False
    embedder, for_embedder, _ = build_model(models, dataset, max_history, seed)
    if warm.warm_up_steps:
        warm_up(embedder, PreparedCatalogue(dataset.catalogue_items(), for_embedder), dataset, warm, seed)
    model, processor = pixrec_from_embedder(
        embedder, for_embedder, seed=seed, processor_options=options, projection_dim=own.projection_dim or DIMENSIONS
    )
    return model, processor, True


def load_pixrec(models: ModelArguments, **for_a_backbone: Any) -> tuple[PixRecModel, PixRecProcessor]:
    """Load a trained model (or adapter repo), or make one of a raw backbone.

    Raises:
        ValueError: no model named, or nothing loadable there.
    """
    from ..modeling.modeling_pixrec import PixRecModel
    from ..modeling.processing_pixrec import PixRecProcessor

    where, options = locate_model(models)
    revision = options["revision"]
    if config_at(where, revision).model_type == "pixrec":
        model = PixRecModel.from_pretrained(where, **options).eval()
        return model, PixRecProcessor.from_pretrained(where, revision=revision)
    model = PixRecModel.from_backbone(where, **for_a_backbone, **options)
    return model, PixRecProcessor.from_backbone(where, revision=revision)


def report_pixrec(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    dataset: RecDataset,
    options: EvaluateArguments,
    own: PixRecArguments,
    facts: dict[str, Any],
) -> Report:
    """Rank by tower similarity (and by generated text where asked), beside the floors.

    The report's facts hold under `with_seen` the same users ranked with the items of their past as candidates: only
    there is repeat-last a floor of its own.
    """
    from ..evaluation.embedder_report import start_report
    from ..evaluation.floors import rank_floors
    from ..evaluation.metrics import ranking_metrics
    from ..evaluation.pixrec import evaluate_pixrec
    from ..evaluation.ranking import rank_targets
    from ..evaluation.scorers import VectorScorer

    ks, exclude_seen = options.cut_offs(), not options.include_seen
    max_history = options.eval_max_history or catalogue.processor.max_history
    examples = dataset.examples(options.eval_split, max_history=max_history).spread(options.max_users)
    found = evaluate_pixrec(
        model,
        catalogue,
        examples,
        k=max(ks),
        exclude_seen=exclude_seen,
        batch_size=options.eval_batch_size,
        show_progress=True,
    )
    report = start_report(dataset, examples, split=options.eval_split, ks=ks, exclude_seen=exclude_seen, facts=facts)
    view = "both" if catalogue.processor.pictures else "text"  # type: ignore[attr-defined]
    report.add(options.method, found.ranking, view=view, train_counts=examples.sequences.train_counts())
    rankings = {options.method: rank_targets(VectorScorer(found.users, found.items), examples, exclude_seen=False)}
    rankings |= rank_floors(examples, exclude_seen=False)
    report.facts["with_seen"] = {name: ranking_metrics(ranking.ranks, ks) for name, ranking in rankings.items()}
    if own.generate_users:
        report.facts["generated"] = _by_generation(model, catalogue, examples, found, own, ks, exclude_seen)
    return report


def print_report(report: Report) -> None:
    """Print the report, and what only its facts hold."""
    print(report.to_markdown())
    for name, words in (
        ("with_seen", "With the items of the past as candidates (repeat-last can only win here)"),
        ("generated", "By generated text and BM25, beside tower similarity, on the same users"),
    ):
        if name in report.facts:
            print(f"\n{words}:\n")
            print(_table({key: value for key, value in report.facts[name].items() if isinstance(value, dict)}))


def _by_generation(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    examples: Examples,
    found: PixRecEvaluation,
    own: PixRecArguments,
    ks: tuple[int, ...],
    exclude_seen: bool,
) -> dict[str, Any]:
    from ..data.sequences import spread_rows
    from ..evaluation.generated import rank_generated
    from ..evaluation.metrics import ranking_metrics
    from ..evaluation.ranking import rank_targets
    from ..evaluation.scorers import VectorScorer

    rows = spread_rows(len(examples), own.generate_users)
    some = examples.take(rows)
    say(f"Generating the next item's text for {len(some)} users with {own.beams} beams ...")
    generated = rank_generated(
        model,
        catalogue,
        list(catalogue.items.texts()),  # type: ignore[attr-defined]
        some,
        beams=own.beams,
        max_new_tokens=own.max_new_tokens,
        exclude_seen=exclude_seen,
        show_progress=True,
    )
    towers = rank_targets(VectorScorer(found.users[rows], found.items), some, exclude_seen=exclude_seen)
    return {
        "beams": own.beams,
        "max_new_tokens": own.max_new_tokens,
        "n_examples": len(some),
        "generation": ranking_metrics(generated.ranking.ranks, ks),
        "towers": ranking_metrics(towers.ranks, ks),
        "first_texts": [texts[0][0] for texts in generated.beams[:5]],
    }


def _table(rows: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(rows.values())))
    lines = ["| method | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += ["| " + " | ".join([name, *(f"{row[n]:.4f}" for n in names)]) + " |" for name, row in rows.items()]
    return "\n".join(lines)
