"""The parts of a card that are more than a value: tables and lists made of facts, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from ..evaluation.score_options import ScoreOptions
from . import citation, results
from .facts import DatasetFacts, EmbedderFacts, HeadFacts, SpaceFacts
from .licences import licence_words
from .markdown import Markdown, code, escape, json_block, python_string, table
from .metadata import hub_id
from .run_facts import DatasetReference, EvaluationFacts, TrainingFacts

_FIGURES = {
    "views": "Metrics by view, beside the floors",
    "modality": "Modality diagnostics",
    "margins": "Margins of text and image over training",
}
_NOISE = ("_name_or_path", "id2label", "label2id", "auto_map")
_ITEM_MODES = {
    "id": "a learned vector per item id",
    "content": "their vectors from the embedder, through a learned projection",
    "content+id": "their vectors from the embedder plus a learned vector per item id",
}


def embedder(facts: EmbedderFacts) -> dict[str, Any]:
    """Parts of an embedder's card."""
    training = facts.training
    base, revision, base_licence = facts.base
    dimension = _hidden_size(facts.config)
    # Only a recorded training that names no base says that there was none.
    scratch = "none known: built from a configuration or a local folder" if training and not facts.adapter else None
    configuration = {"adapter" if facts.adapter else "model": facts.adapter or facts.config}
    return {
        "base": _repo(base, revision) if base else Markdown("(not recorded)") if facts.adapter else None,
        "adapter_type": str(facts.adapter.get("peft_type", "type not recorded")),
        "dimension": dimension if dimension is not None else Markdown("dimension"),
        "external": facts.config.get("fusion", "external") == "external",
        "scored": _score_options(facts.config),
        "licences": licences(
            [
                ("weights in this repo", facts.license),
                (f"base model {base}" if base else "base model", base_licence if base else scratch),
                *_data_licences(training, facts.evaluation),
            ]
        ),
        "citation": citation.bibtex(training.method if training else None),
        **_run(training, facts.evaluation, facts.figures, configuration),
    }


def _score_options(config: Mapping[str, Any]) -> Markdown | None:
    """The embedder's score options; None where its score is the bare cosine."""
    values = config.get("score_options")
    if not isinstance(values, Mapping):
        return None
    bare = ScoreOptions().to_dict()
    if all(values.get(name, plain) == plain for name, plain in bare.items() if name != "temperature"):
        return None
    return code(json.dumps(values, sort_keys=True, default=str))


def head(facts: HeadFacts) -> dict[str, Any]:
    """Parts of a head's card."""
    encoder, mode = facts.config.get("encoder"), facts.config.get("item_representation")
    history = [python_string(item) for item in facts.example_items] or [python_string("an item id")]
    return {
        "encoder": str(encoder) if encoder else None,
        "embedder": _repo(facts.embedder, facts.embedder_revision) if facts.embedder else None,
        "item_mode": Markdown(_ITEM_MODES.get(str(mode), code(mode))) if mode else None,
        "history": Markdown(f"[{', '.join(history)}]"),
        "licences": licences(
            [
                ("weights in this repo", facts.license),
                *([(f"embedder {facts.embedder}", None)] if facts.embedder else []),
                *_data_licences(facts.training, facts.evaluation),
            ]
        ),
        "citation": citation.bibtex(facts.training.method if facts.training else None, encoder),
        **_run(facts.training, facts.evaluation, facts.figures, {"model": facts.config}),
    }


def dataset(facts: DatasetFacts) -> dict[str, Any]:
    """Parts of a dataset's card."""
    coverage = dict(facts.coverage)
    quarantined = coverage.pop("quarantined", None) or {}
    rows: list[tuple[str, Any]] = []
    for name, value in coverage.items():
        if isinstance(value, Mapping):
            rows += [(f"{name.replace('_', ' ')}: {inner}", number) for inner, number in value.items()]
        else:
            rows.append((name.replace("_", " "), value))
    columns = [("interactions", facts.interaction_columns), ("items", facts.item_columns)]
    spec = {name: value for name, value in facts.split_spec.items() if name != "kind"}
    kind = str(facts.split_spec.get("kind", "unknown"))
    split = "Not split." if kind == "none" else f"Kind: {code(kind)}; {code('load_recsys')} gives it back."
    return {
        "title": facts.name or facts.repo_id.rstrip("/").split("/")[-1],
        "columns": table(
            ["config", "columns"],
            [
                (name, Markdown(", ".join(f"{code(c)} ({escape(t)})" for c, t in types.items())))
                for name, types in columns
            ],
            numbers_from=2,
        ),
        "split": Markdown(split + (f"\n\n{json_block(spec)}" if spec else "")),
        "statistics": table(["count", "value"], rows),
        "steps": bullets(
            [Markdown(", ".join(f"{escape(k)}: {code(v)}" for k, v in step.items())) for step in facts.steps],
            "Nothing was recorded.",
        ),
        "quarantine": table(["reason", "rows"], list(quarantined.items()))
        if quarantined
        else Markdown("None: every row that came in is in it."),
        "licence": licence_words(facts.license),
        "citation": citation.bibtex("none", dataset=True),
    }


def space(facts: SpaceFacts) -> dict[str, Any]:
    """Parts of a Space's card."""
    uses = [Markdown(f"model {_repo(name, None)}") for name in facts.models]
    uses += [Markdown(f"dataset {_repo(name, None, 'datasets/')}") for name in facts.datasets]
    return {
        "title": facts.title,
        "uses": bullets(uses, "No model and no dataset of the Hub."),
        "licences": licences(
            [
                ("code in this repo", facts.license),
                *((f"model {name}", "see its card") for name in facts.models),
                *((f"dataset {name}", "see its card") for name in facts.datasets),
            ]
        ),
        "citation": citation.bibtex("VLM2Rec"),
    }


def licences(rows: Iterable[tuple[str, str | None]]) -> Markdown:
    """Rows of a table of licences, without its head; what nobody stated is unknown."""
    return Markdown("\n".join(f"| {escape(what)} | {escape(licence_words(licence))} |" for what, licence in rows))


def bullets(lines: Iterable[object], otherwise: str) -> Markdown:
    """A list, or a sentence where there is nothing to list."""
    return Markdown("\n".join(f"- {escape(line)}" for line in lines) or escape(otherwise))


def _run(
    training: TrainingFacts | None,
    evaluation: EvaluationFacts | None,
    figures: tuple[str, ...],
    config: dict[str, Any],
) -> dict[str, Any]:
    """Parts that embedders and heads share: results, protocol, figures, training."""
    if training is not None:
        config = config | {"loss": training.loss, "arguments": training.arguments, "peft": training.peft}
        config |= {"versions": training.versions}
    parts: dict[str, Any] = {
        "training": _training_list(training) if training else None,
        "configuration": json_block({name: _without_noise(value) for name, value in config.items() if value}),
        "figures": [_figure(path) for path in figures],
    }
    if evaluation is not None:
        parts |= {
            "main_table": results.main_table(evaluation),
            "other_table": results.other_table(evaluation),
            "modality_table": results.modality_table(evaluation),
            "verdict": results.verdict(evaluation),
            "protocol": _protocol_list(evaluation),
        }
    return parts


def _without_noise(value: Any) -> Any:
    """A configuration without what every saved configuration carries and nobody chose."""
    if not isinstance(value, dict):
        return value
    return {name: _without_noise(inner) for name, inner in value.items() if name not in _NOISE}


def _protocol_list(evaluation: EvaluationFacts) -> Markdown:
    what = evaluation.protocol
    candidates = str(what.get("candidates", "not recorded"))
    if candidates == "full":
        candidates = "the full catalogue"
    elif candidates == "sampled":
        candidates = f"{what.get('n_negatives')} sampled negatives per example, seed {what.get('seed')}"
    history = what.get("max_history")
    lines: list[tuple[str, Any]] = [
        ("dataset", _dataset(evaluation.dataset)),
        ("split", code(what.get("split", "not recorded"))),
        ("candidates", candidates),
        ("items seen before the target", "left out" if what.get("exclude_seen") else "kept"),
        ("ties", what.get("ties", "not recorded")),
        ("targets", what.get("targets", "not recorded")),
        ("longest history shown", f"{history} items" if history else "all, or it differs by method"),
        ("cut-offs", ", ".join(str(k) for k in what.get("k", ()))),
        ("examples", evaluation.n_examples),
        ("fingerprint of the protocol", code(evaluation.fingerprint)),
    ]
    return bullets([Markdown(f"{name}: {escape(value)}") for name, value in lines], "")


def _steps(training: TrainingFacts) -> Any:
    if training.weights_of_step in (None, training.steps):
        return training.steps
    return f"{training.steps}; the weights are those of step {training.weights_of_step}, the best on validation"


def _start(training: TrainingFacts) -> Any:
    """What training started from, and a warm-up before it."""
    start = escape("a configuration or a local folder")
    if training.base_model:
        start = _repo(training.base_model, training.base_model_revision)
    if training.images.get("image_encoder"):
        encoder = _repo(training.images["image_encoder"], training.images.get("image_encoder_revision"))
        start = Markdown(f"{start} as language model and {encoder} as frozen image encoder, a new projector between")
    elif training.images:
        width = escape(int(training.images["feature_size"]))
        start = Markdown(f"{start} as language model, a new projector for image features of width {width} before it")
    steps = training.warm_up.get("steps")
    return start if not steps else Markdown(f"{start}, warmed up for {escape(int(steps))} steps on item captions")


def _training_list(training: TrainingFacts) -> Markdown:
    lines: list[tuple[str, Any]] = [
        ("method", training.method),
        ("objective", training.objective and code(training.objective)),
        ("started from", _start(training)),
        ("dataset", _dataset(training.dataset)),
        (
            "split",
            code(training.dataset.split.get("kind", training.dataset.split)) if training.dataset.split else None,
        ),
        ("trained weights", "adapter only" if training.peft else "all that were not frozen"),
        ("optimiser steps", _steps(training)),
        ("seed", None if training.seed is None else str(training.seed)),
        ("wall time", training.seconds and f"{float(training.seconds):,.0f} s"),
    ]
    return bullets(
        [Markdown(f"{name}: {escape('not recorded' if value is None else value)}") for name, value in lines], ""
    )


def _dataset(dataset: DatasetReference) -> Markdown:
    """A dataset in words: name or link, revision, fingerprint."""
    repo_id = hub_id(dataset.repo_id)
    label = (
        _repo(repo_id, None, "datasets/")
        if repo_id
        else escape(dataset.name or dataset.repo_id or "name not recorded")
    )
    if dataset.name and repo_id:
        label = Markdown(f"{escape(dataset.name)}, {label}")
    revision = (
        f", revision {code(dataset.revision)}" if dataset.revision else ", revision not recorded" if repo_id else ""
    )
    return Markdown(f"{label}{revision}, fingerprint {code(dataset.fingerprint or 'not recorded')}")


def _repo(name: str, revision: str | None, kind: str = "") -> Markdown:
    """A repo as a link where it can be one, else as code."""
    words = f"[{escape(name)}](https://huggingface.co/{kind}{quote(name)})" if hub_id(name) else code(name)
    return Markdown(words + (f" at {code(revision)}" if revision else ""))


def _data_licences(training: TrainingFacts | None, evaluation: EvaluationFacts | None) -> list[tuple[str, str | None]]:
    rows = []
    if training is not None:
        data = training.dataset
        rows.append((f"training data {data.repo_id or data.name or ''}", data.license))
    if evaluation is not None and evaluation.on_training_dataset is not True:
        rows.append(("evaluation data", evaluation.dataset.license))
    return rows or [("training data", None)]


def _hidden_size(config: dict[str, Any]) -> int | None:
    inner = config.get("vlm_config")
    text = inner.get("text_config") if isinstance(inner, dict) else None
    size = text.get("hidden_size") if isinstance(text, dict) else None
    return size if isinstance(size, int) else None


def _figure(path: str) -> dict[str, Markdown]:
    stem = PurePosixPath(path).stem
    # Brackets and blanks in a file's name would end the link.
    return {
        "words": escape(_FIGURES.get(stem, stem.replace("_", " "))),
        "link": Markdown(quote(path, errors="replace")),
    }
