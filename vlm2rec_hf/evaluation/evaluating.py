"""`evaluate`: any model on a dataset, in one call."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.image_reader import reads_images
from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..data.described_items import DescribedItems
from ..loading import ENCODING_METHODS, LoadedModel, load_with_processor, refuse_options, weight_files_fingerprint
from .embedder import evaluate_embedder, score_by_embedder, users_for
from .floors import fit_floors, rank_floors
from .generated import GenerationOptions, compare_generated
from .heads import check_same_items, score_by_head
from .metrics import ranking_metrics
from .mixed_models import add_mix, check_mix
from .pixrec import evaluate_pixrec, method_name
from .ranking import rank_targets
from .score_options import ScoreOptions
from .scorers import BlockScorer, VectorScorer
from .start_report import add_embedder, start_report
from .trained_on import as_trained, dataset_warning, trained_columns, trained_on
from .without_modality import add_without, check_without

if TYPE_CHECKING:
    from ..catalogues.vision_cache import VisionCache
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from ..modeling.modeling_seqrec import HeadModel
    from .report import Report

logger = logging.getLogger(__name__)


def evaluate(
    model: Any,
    dataset: RecDataset,
    *,
    revision: str | None = None,
    loading: Mapping[str, Any] | None = None,
    processor: Any = None,
    split: str = "test",
    ks: Sequence[int] = (10, 20),
    exclude_seen: bool = True,
    max_history: int | None = None,
    max_users: int | None = None,
    batch_size: int | None = None,
    report_name: str | None = None,
    mix: str | None = None,
    without: Sequence[str] = (),
    item_columns: Sequence[str] | None = None,
    use_images: bool | None = None,
    generation: GenerationOptions | None = None,
    catalogue: PreparedCatalogue | None = None,
    vision_cache: VisionCache | None = None,
    score_options: ScoreOptions | None = None,
    facts: Mapping[str, Any] | None = None,
    across_processes: bool = False,
    show_progress: bool = False,
) -> Report:
    """Rank the users of a split over the full catalogue with any model, beside the floors.

    Args:
        model: folder or Hub id, or a `VLM2RecEmbedder`, `PixRecModel`, `SequentialRecommender` or `DMESRModel`.
        dataset: a split dataset. Heads need the items they were trained on, in the same order.
        revision: tag, branch or commit of a Hub id.
        loading: options of `from_pretrained` for a folder or Hub id (`dtype`, `attn_implementation`).
        processor: of a model made in this process; by default the one saved beside the model.
        split: `"test"` or `"validation"`.
        ks: cut-offs of the metrics.
        exclude_seen: leave items of the user's past out of the candidates.
        max_history: most recent items shown to the model; by default as in training. Heads read `max_length`.
        max_users: rank only this many users, evenly spread.
        batch_size: rows per forward pass at most.
        report_name: name of the model in the report; by default of its method.
        mix: of embedders and heads: also rank with this floor's scores added, `"ease"` or `"item_knn"`, the weight
            chosen on the validation split; see `MixedScorer`. One more method, its weight in `report.facts["mix"]`.
        without: of embedders: also rank with these modalities (`"text"`, `"image"`) removed from all items and
            histories. Each is one more method, such as `sft without images`.
        item_columns: of PixRec: item columns that make an item's text; by default as in training.
        use_images: of PixRec: `False` leaves every image out (the text-only ablation).
        generation: of PixRec: rank by generated text, too; the numbers are in `report.facts["generated"]`.
        catalogue: of encoders: the dataset's prepared items, to share them between calls.
        vision_cache: of embedders: keeps image features on disk.
        score_options: of embedders: how the view `scored` is ranked; by default as the model's config says.
        facts: plain JSON values to keep in the report.
        across_processes: share the encoding among the processes of the default group; all have to call this.
        show_progress: draw progress bars.

    Returns:
        A `Report` with the floors and one method: an embedder's views (`text`, `image` and `both` by bare cosine, and
        `scored` where it has score options), or one ranking of another model; with `mix` a second one.

    Raises:
        ValueError: nothing loadable, a dataset without users in this split, a head of other items, or an option that
            this kind of model does not have.

    Example:
        ```python
        from vlm2rec_hf import evaluate, load_recsys

        report = evaluate("org/vlm2rec-demo", load_recsys("org/demo-shop"))  # doctest: +SKIP
        print(report.to_markdown(["hit@10", "ndcg@10"]))  # doctest: +SKIP
        ```
    """
    ks = checked_cut_offs(ks)
    loaded = load_with_processor(model, revision=revision, processor=processor, **(loading or {}))
    kind = loaded.model_type
    of_pixrec = {"item_columns": item_columns, "use_images": use_images, "generation": generation}
    refuse_options(kind, ("pixrec",), "PixRec models", **of_pixrec)
    of_encoders = {"catalogue": catalogue, "vision_cache": vision_cache, "max_history": max_history}
    refuse_options(kind, ENCODING_METHODS, "embedders and PixRec models", **of_encoders)
    refuse_options(kind, ("vlm2rec", "seqrec", "dmesr"), "embedders and heads", mix=mix)
    refuse_options(kind, ("vlm2rec",), "embedders", score_options=score_options, without=tuple(without) or None)
    check_without(without)
    if loaded.processor is not None:  # what is set on it here is this call's alone
        loaded = replace(loaded, processor=copy.copy(loaded.processor))
        if use_images is not None:
            loaded.processor.images = use_images
    warning = dataset_warning(loaded.training, dataset)
    if warning is not None:
        logger.warning(warning)
    if kind not in ENCODING_METHODS:
        history = loaded.model.config.max_length
    else:
        history = loaded.max_history if max_history is None else max_history
    if catalogue is not None:
        _check_given(catalogue, max_history, use_images)
    head = None if kind in ENCODING_METHODS else loaded.model
    examples = users_of(dataset, split, history, max_users, head)
    check_cut_offs(ks, dataset.n_items)
    validation: Examples | None = None
    if mix is not None:
        check_mix(mix, split, dataset.examples("validation"))
        validation = users_of(dataset, "validation", history, max_users, head)
    common: dict[str, Any] = {"ks": ks, "exclude_seen": exclude_seen, "split": split}
    origin = {} if loaded.where is None else {"model": loaded.where, **_weights(loaded.where)}
    given = {**origin, **(facts or {})}
    name = report_name or default_report_name(loaded)
    common["floors"] = floors = fit_floors(examples)
    scorer: BlockScorer
    if head is not None:
        report = start_report(dataset, examples, facts={**_head_facts(head), **given}, **common)
        scorer = score_by_head(head, examples, batch_size or 128)
        ranking = rank_targets(scorer, examples, k=max(ks), exclude_seen=exclude_seen)
        report.add(name, ranking, train_counts=examples.sequences.train_counts())
        if mix is not None and validation is not None:
            of_validation: BlockScorer = score_by_head(head, validation, batch_size or 128)
            add_mix(report, name, mix, (scorer, of_validation), floors, examples, validation)
        return report
    sharing: dict[str, Any] = {"show_progress": show_progress, "across_processes": across_processes}
    if kind == "vlm2rec":
        if catalogue is None:
            catalogue = encodable_items(
                loaded, dataset, max_history=history, vision_cache=vision_cache, show_progress=show_progress
            )
        result = evaluate_embedder(
            loaded.model,
            catalogue,
            examples,
            k=max(ks),
            exclude_seen=exclude_seen,
            batch_size=batch_size,
            score_options=score_options,
            **sharing,
        )
        report = start_report(dataset, examples, facts=given, **common)
        add_embedder(report, name, result, examples)
        how = {"k": max(ks), "exclude_seen": exclude_seen, "batch_size": batch_size, "vision_cache": vision_cache}
        for modality in without:
            add_without(report, name, modality, loaded.model, catalogue, examples, result, **how, **sharing)
        if mix is not None and validation is not None:
            counts = examples.sequences.train_counts()
            users = users_for(loaded.model, catalogue, validation, batch_size=batch_size, **sharing)
            scorer, of_validation = (score_by_embedder(result, counts, of) for of in (result.users, users))
            add_mix(report, name, mix, (scorer, of_validation), floors, examples, validation)
        return report
    if catalogue is None:
        catalogue = encodable_items(loaded, dataset, item_columns, max_history=history, show_progress=show_progress)
        columns: Any = catalogue.items
        given = {"item_columns": list(columns.columns) or None, "max_history": history, **given}
    return _report_pixrec(
        loaded, catalogue, dataset, examples, name, generation, given, batch_size or 64, common, sharing
    )


def users_of(
    dataset: RecDataset, split: str, max_history: int, max_users: int | None = None, head: HeadModel | None = None
) -> Examples:
    """The examples of a split that are ranked.

    Args:
        dataset: a split dataset.
        split: `"test"` or `"validation"`.
        max_history: most recent items of a history.
        max_users: this many of them, evenly spread; all by default.
        head: a head that is ranked; see `as_trained`.

    Raises:
        ValueError: `max_users` below 1, a split without examples, or a head of other items or trained on all targets.
    """
    if max_users is not None and max_users < 1:
        raise ValueError(f"`max_users` must be at least 1, got {max_users}.")
    examples = dataset.examples(split, max_history=max_history)
    if len(examples) == 0:
        raise ValueError(f"`dataset` has no {split} interactions with a history; choose another `split`.")
    if head is not None:
        check_same_items("dataset", [str(item) for item in dataset.item_ids], head_items(head))
        examples = as_trained(head, examples)
    return examples.spread(max_users)


def encodable_items(
    loaded: LoadedModel,
    dataset: RecDataset,
    item_columns: Sequence[str] | None = None,
    *,
    max_history: int | None = None,
    cache_features: bool = True,
    vision_cache: VisionCache | None = None,
    show_progress: bool = False,
) -> PreparedCatalogue:
    """A dataset's items, prepared as an encoder was trained to see them.

    Args:
        loaded: an embedder or PixRec model. Its processor keeps `max_history` items from now on.
        dataset: where the items live.
        item_columns: of PixRec; by default the columns it was trained on.
        max_history: items of a history; by default `loaded.max_history`.
        cache_features: run every image through the vision tower now and keep its features.
        vision_cache: keeps them on disk.
        show_progress: draw progress bars.
    """
    loaded.processor.max_history = loaded.max_history if max_history is None else max_history
    items: Any = dataset.catalogue_items()
    if loaded.model_type == "pixrec":
        columns = item_columns or trained_columns(loaded.training, dataset)
        items = DescribedItems(dataset, columns, images=loaded.processor.images)
    catalogue = PreparedCatalogue(items, loaded.processor)
    if not cache_features:
        return catalogue
    return catalogue.cache_features(loaded.model, vision_cache, show_progress=show_progress)


def default_report_name(loaded: LoadedModel) -> str:
    """What a model is called in a report: its method; of heads the encoder, of embedders what they were trained on."""
    config, kind = loaded.model.config, loaded.model_type
    if kind == "seqrec":
        return config.encoder
    if kind == "dmesr":
        return f"dmesr-{config.encoder}"
    if kind == "pixrec":
        return method_name(loaded.processor)
    return str(loaded.training.get("objective") or "embedder")


def head_items(head: Any) -> list[str]:
    """Ids of a head's items, in the order of its vectors.

    Raises:
        ValueError: the head has no catalogue.
    """
    if head.catalogue is None:
        raise ValueError("`model` is a head without a catalogue; name its items with `head.set_catalogue(ids)`.")
    return head.catalogue.ids


def checked_cut_offs(ks: Sequence[int]) -> tuple[int, ...]:
    """Cut-offs in ascending order, each once.

    Raises:
        ValueError: none, or something that is no positive whole number.
    """
    numbers = tuple(sorted(set(ks)))
    if not numbers or any(not isinstance(k, int) or k < 1 for k in numbers):
        raise ValueError(f"`ks` must be positive whole numbers, such as (10, 20), got {ks!r}.")
    return numbers


def check_cut_offs(ks: Sequence[int], n_items: int) -> None:
    """Refuse cut-offs beyond the catalogue.

    Raises:
        ValueError: one of them.
    """
    if max(ks) > n_items:
        raise ValueError(f"`ks` goes to {max(ks)}, and the catalogue has {n_items} items; choose smaller cut-offs.")


def _check_given(catalogue: PreparedCatalogue, max_history: int | None, use_images: bool | None) -> None:
    """Refuse options that a catalogue's own processor would not follow."""
    own = catalogue.processor
    if max_history is not None and max_history > own.max_history:
        raise ValueError(
            f"`max_history` is {max_history}, and the processor of `catalogue` keeps {own.max_history} items; set its "
            "`max_history`, or leave `catalogue` out."
        )
    if use_images is not None and use_images != reads_images(own):
        raise ValueError(
            f"`use_images` is {use_images}, and the processor of `catalogue` has {reads_images(own)}; make the "
            "catalogue with another processor, or leave it out."
        )


def _weights(where: str) -> dict[str, Any]:
    """The fact `weights` of a report on a model folder; nothing for a Hub id."""
    return {"weights": weight_files_fingerprint(Path(where))} if Path(where).is_dir() else {}


def _head_facts(head: Any) -> dict[str, Any]:
    names = ("encoder", "item_representation", "embedder", "embedder_revision")
    return {**{name: getattr(head.config, name) for name in names}, **trained_on(head)}


def _report_pixrec(
    loaded: LoadedModel,
    catalogue: PreparedCatalogue,
    dataset: RecDataset,
    examples: Examples,
    name: str,
    generation: GenerationOptions | None,
    facts: Mapping[str, Any],
    batch_size: int,
    common: Mapping[str, Any],
    sharing: Mapping[str, Any],
) -> Report:
    """A PixRec model's report.

    Its facts hold under `with_seen` the same users ranked with the items of their past as candidates: only there is
    repeat-last a floor of its own.
    """
    ks, exclude_seen = common["ks"], common["exclude_seen"]
    result = evaluate_pixrec(
        loaded.model, catalogue, examples, k=max(ks), exclude_seen=exclude_seen, batch_size=batch_size, **sharing
    )
    report = start_report(dataset, examples, facts=facts, **common)
    view = "both" if loaded.processor.images else "text"
    report.add(name, result.ranking, view=view, train_counts=examples.sequences.train_counts())
    cosines = VectorScorer(result.users, result.items, normalize=True)
    rankings = {name: rank_targets(cosines, examples, exclude_seen=False)}
    rankings |= rank_floors(examples, exclude_seen=False, floors=common["floors"])
    report.facts["with_seen"] = {method: ranking_metrics(ranks.ranks, ks) for method, ranks in rankings.items()}
    if generation is not None:
        report.facts["generated"] = compare_generated(
            loaded.model, catalogue, examples, result, generation, ks=ks, exclude_seen=exclude_seen
        )
    return report
