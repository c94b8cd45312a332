"""The YAML front matter of cards, made and read by `huggingface_hub`'s own card data classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .facts import DatasetFacts, EmbedderFacts, HeadFacts, SpaceFacts
from .licences import licence_fields
from .markdown import one_line
from .run_facts import EvaluationFacts

TASK = "recommendation"
TAGS = ["vlm2rec", "recommendation", "multimodal"]
_SIZES = (
    (10**3, "1K"),
    (10**4, "10K"),
    (10**5, "100K"),
    (10**6, "1M"),
    (10**7, "10M"),
    (10**8, "100M"),
    (10**9, "1B"),
)
_METRIC_NAMES = {"hit": "Hit", "ndcg": "NDCG", "mrr": "MRR"}


def embedder_metadata(facts: EmbedderFacts) -> ModelCardData:
    """Front matter of an embedder.

    `pipeline_tag` is `feature-extraction`: what comes out is a vector, of an item or a history; no pipeline of the Hub
    stands for recommendation, and the widget of `sentence-similarity` knows neither images nor histories.
    """
    base = hub_id(facts.base[0])
    tags = [*TAGS, "feature-extraction"]
    tags += ["sentence-transformers", "sentence-similarity"] if facts.sentence_transformer else []
    tags += ["peft", str(facts.adapter.get("peft_type", "adapter")).lower()] if facts.adapter else []
    relation: dict[str, Any] = {"base_model_relation": "adapter" if facts.adapter else "finetune"} if base else {}
    return ModelCardData(
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="feature-extraction",
        base_model=base,
        datasets=_dataset_ids(facts),
        tags=_clean(tags),
        **_results(facts.repo_id, facts.evaluation),
        **licence_fields(facts.license),
        **relation,
    )


def head_metadata(facts: HeadFacts) -> ModelCardData:
    """Front matter of a head; without `pipeline_tag`, because no pipeline of the Hub stands for recommendation."""
    base = hub_id(facts.embedder)
    encoder = facts.config.get("encoder")
    return ModelCardData(
        library_name="transformers",
        base_model=base,
        datasets=_dataset_ids(facts),
        tags=_clean([*TAGS, "sequential-recommendation", *([str(encoder)] if encoder else [])]),
        **_results(facts.repo_id, facts.evaluation),
        **licence_fields(facts.license),
    )


def dataset_metadata(
    facts: DatasetFacts, configs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
) -> DatasetCardData:
    """Front matter of a dataset.

    Args:
        facts: of the dataset.
        configs: config name -> data files (a pattern, a list of them, or the Hub's `[{"split", "path"}]`), or the
            Hub's own list of `{"config_name", "data_files"}`; default: what `RecDataset.push_to_hub` writes, parquet
            shards in the folders `interactions` (by split) and `items`.

    Raises:
        ValueError: no config `interactions`, without which nobody can load the dataset.
    """
    configs = _default_configs(facts) if configs is None else configs
    listed = (
        [{"config_name": name, "data_files": files} for name, files in configs.items()]
        if isinstance(configs, Mapping)
        else [dict(config) for config in configs]
    )
    names = [config.get("config_name") for config in listed]
    if "interactions" not in names:
        raise ValueError(f"`configs` must hold a config named 'interactions', got {names}.")
    return DatasetCardData(
        pretty_name=one_line(facts.name or _name(facts.repo_id)),
        size_categories=[size_category(facts.n_interactions)],
        # The Hub has no category for recommendation; the tags say it.
        task_categories=["other"],
        tags=[*TAGS, "sequential-recommendation"],
        configs=listed,
        **licence_fields(facts.license),
    )


def space_metadata(facts: SpaceFacts) -> SpaceCardData:
    """Front matter of a Space."""
    return SpaceCardData(
        title=one_line(facts.title),
        emoji=facts.emoji,
        colorFrom=facts.color_from,
        colorTo=facts.color_to,
        sdk=facts.sdk,
        sdk_version=facts.sdk_version,
        python_version=facts.python_version,
        app_file=None if facts.sdk == "docker" else facts.app_file,
        short_description=one_line(facts.short_description) if facts.short_description else None,
        models=[name for name in facts.models if hub_id(name)] or None,
        datasets=[name for name in facts.datasets if hub_id(name)] or None,
        tags=TAGS,
        **licence_fields(facts.license),
    )


def size_category(n: int) -> str:
    """The Hub's size category of `n` rows."""
    lower = None
    for limit, label in _SIZES:
        if n < limit:
            return f"n<{label}" if lower is None else f"{lower}<n<{label}"
        lower = label
    return "n>1B"


def metric_name(metric: str) -> str:
    """`ndcg@10` as `NDCG@10`."""
    name, at, k = metric.partition("@")
    return _METRIC_NAMES.get(name, name.replace("_", " ").capitalize()) + at + k


def hub_id(name: Any) -> str | None:
    """`name` if it can be `owner/name` on the Hub, else None: nothing else is linked to."""
    if not isinstance(name, str) or "/" not in name:
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _default_configs(facts: DatasetFacts) -> list[dict[str, Any]]:
    """The layout of `RecDataset.push_to_hub`, so that the published card is, to the letter, the rendered one."""
    splits = [name for name, count in (facts.coverage.get("splits") or {}).items() if count] or ["train"]
    parts = {"interactions": splits, "items": ["train"]}
    if any((facts.coverage.get("quarantined") or {}).values()):
        parts["quarantine"] = ["train"]
    return [
        {
            "config_name": part,
            "data_files": [{"split": name, "path": f"{part}/{name}-*.parquet"} for name in names],
            **({"default": True} if part == "interactions" else {}),
        }
        for part, names in parts.items()
    ]


def _dataset_ids(facts: EmbedderFacts | HeadFacts) -> list[str] | None:
    name = hub_id(facts.training.dataset.repo_id) if facts.training else None
    return [name] if name else None


def _name(repo_id: str) -> str:
    return one_line(repo_id.rstrip("/").split("/")[-1]) or "model"


def _clean(tags: list[str]) -> list[str]:
    return [one_line(tag) for tag in tags]


def _results(repo_id: str, evaluation: EvaluationFacts | None) -> dict[str, Any]:
    """`eval_results` and `model_name`: one result per view and metric of the model; floors are no results of it."""
    if evaluation is None:
        return {}
    dataset = evaluation.dataset
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Next-item recommendation",
            dataset_type=hub_id(dataset.repo_id) or "unknown",
            dataset_name=one_line(dataset.name or dataset.repo_id or f"dataset {dataset.fingerprint or 'unknown'}"),
            dataset_config="interactions" if hub_id(dataset.repo_id) else None,
            dataset_split=one_line(evaluation.protocol.get("split", "")) or None,
            dataset_revision=one_line(dataset.revision) if dataset.revision else None,
            dataset_args={
                "fingerprint": one_line(dataset.fingerprint or "unknown"),
                "protocol": one_line(evaluation.fingerprint),
            },
            metric_type=one_line(metric),
            metric_name=f"{metric_name(one_line(metric))} ({one_line(view)})",
            metric_value=round(float(mean), 6),
            metric_args={"view": one_line(view)},
        )
        for view, metrics in evaluation.views.items()
        for metric, summary in metrics.items()
        if (mean := summary.get("mean")) is not None
    ]
    return {"eval_results": results, "model_name": _name(repo_id)} if results else {}
