"""How a model was trained and what was measured, as plain data read from `training.json` and `report.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .model_folder import REPORT_FILE, TRAINING_FILE, local_name, publishable, section, text_or_none

Metrics = dict[str, dict[str, float | int | None]]
"""metric -> `{"mean", "low", "high", "n"}`, as in a saved report."""


@dataclass(frozen=True)
class DatasetReference:
    """Which data: everything may be unknown.

    Attributes:
        name: short name.
        repo_id: `owner/name` on the Hub.
        revision: commit or tag there.
        fingerprint: hash of its content and split.
        license: as its holder names it.
        split: how it was split, as plain data.
    """

    name: str | None = None
    repo_id: str | None = None
    revision: str | None = None
    fingerprint: str | None = None
    license: str | None = None
    split: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str = TRAINING_FILE) -> DatasetReference:
        """Read the object `dataset` of `training.json`."""
        texts = {name: text_or_none(values, name) for name in ("repo_id", "revision", "fingerprint", "license")}
        name = text_or_none(values, "name")
        return cls(
            name=local_name(name) if name else None, split=publishable(section(values, "split", source)), **texts
        )


@dataclass(frozen=True)
class TrainingFacts:
    """How a model was trained, from `training.json`; local paths and secrets are left out.

    Attributes:
        base_model: Hub id (or last part of a local path) of what training started from; None for none.
        base_model_revision: its commit.
        base_model_license: as its holder names it.
        images: of a backbone of parts: `image_encoder` (Hub id or last part of a local path) with its revision and
            `tokens_per_image`, or `feature_size`; empty for others.
        dataset: what it was trained on.
        method: such as "VLM2Rec".
        objective: such as "wpcl+crtr".
        loss: the loss's settings.
        arguments: resolved training arguments that differ from the defaults.
        peft: adapter settings, empty where all weights were trained.
        steps: optimiser steps.
        seed: of the run.
        seconds: wall time.
        versions: of the libraries.
        warm_up: settings of a warm-up before training, empty where there was none.
        weights_of_step: step that the weights are of, where the best checkpoint was taken.
    """

    base_model: str | None = None
    base_model_revision: str | None = None
    base_model_license: str | None = None
    dataset: DatasetReference = field(default_factory=DatasetReference)
    method: str | None = None
    objective: str | None = None
    loss: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    peft: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    seed: int | None = None
    seconds: float | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    weights_of_step: int | None = None
    images: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainingFacts:
        """Read what a trainer wrote.

        Raises:
            ValueError: a part that has another type than it should.
        """
        base = text_or_none(values, "base_model")
        images = dict(section(values, "images", TRAINING_FILE))
        if encoder := text_or_none(images, "image_encoder"):
            images["image_encoder"] = local_name(encoder)
        return cls(
            images=publishable(images),
            base_model=local_name(base) if base else None,
            base_model_revision=text_or_none(values, "base_model_revision"),
            base_model_license=text_or_none(values, "base_model_license"),
            dataset=DatasetReference.from_json(section(values, "dataset", TRAINING_FILE)),
            method=text_or_none(values, "method"),
            objective=text_or_none(values, "objective"),
            **{
                name: publishable(section(values, name, TRAINING_FILE))
                for name in ("loss", "arguments", "peft", "versions", "warm_up")
            },
            steps=values.get("steps"),
            weights_of_step=values.get("weights_of_step"),
            seed=values.get("seed"),
            seconds=values.get("seconds"),
        )


@dataclass(frozen=True)
class EvaluationFacts:
    """What was measured, from `evaluation/report.json`.

    Attributes:
        report_name: the model's name in the report.
        protocol: how was ranked, as plain data.
        fingerprint: of the protocol.
        n_examples: how many were ranked.
        n_resamples: bootstrap resamples behind each 95 % interval.
        views: view -> metric -> summary; text, image, both first.
        floors: floor -> metric -> summary.
        modality: diagnostics of the modalities; empty where not measured.
        dataset: what it was evaluated on.
        on_training_dataset: whether that is, by fingerprint, the dataset and split of the training; None if unknown.
    """

    report_name: str
    protocol: dict[str, Any]
    fingerprint: str
    n_examples: int
    n_resamples: int
    views: dict[str, Metrics]
    floors: dict[str, Metrics]
    modality: dict[str, float | None]
    dataset: DatasetReference
    on_training_dataset: bool | None

    @classmethod
    def from_json(
        cls, values: dict[str, Any], training: TrainingFacts | None = None, report_name: str | None = None
    ) -> EvaluationFacts:
        """Read a saved report.

        Args:
            values: content of `report.json`.
            training: how the model was trained; gives the dataset its name where the fingerprints agree.
            report_name: the model's name in the report. Default: the only one there, else the one that is called as
                the training's objective or method.

        Raises:
            ValueError: a report without the parts that every report has, or one that does not say which method is
                meant.
        """
        lacking = sorted({"protocol", "protocol_fingerprint", "n_examples", "metrics"} - set(values))
        if lacking:
            raise ValueError(f"`folder` holds a {REPORT_FILE} without {lacking}; save the report again.")
        metrics = section(values, "metrics", REPORT_FILE)
        protocol = section(values, "protocol", REPORT_FILE)
        facts = section(values, "facts", REPORT_FILE)
        # The model with a floor, or without a modality, is not the model.
        others = {**section(facts, "mix", REPORT_FILE), **section(facts, "without", REPORT_FILE)}
        chosen = _choose_name([name for name in metrics if name not in others], report_name, training)
        trained_on = training.dataset if training else DatasetReference()
        evaluated_on = DatasetReference(fingerprint=text_or_none(protocol, "dataset"))
        same = None
        if trained_on.fingerprint and evaluated_on.fingerprint:
            same = trained_on.fingerprint == evaluated_on.fingerprint
        if same:
            evaluated_on = trained_on
        order = {view: place for place, view in enumerate(("text", "image", "both", "scored"))}
        views = sorted(metrics[chosen].items(), key=lambda pair: order.get(pair[0], len(order)))
        return cls(
            report_name=chosen,
            protocol=protocol,
            fingerprint=str(values["protocol_fingerprint"]),
            n_examples=int(values["n_examples"]),
            n_resamples=int(values.get("n_resamples") or 0),
            views=dict(views),
            floors=section(values, "floors", REPORT_FILE),
            modality=section(section(facts, "modality", REPORT_FILE), chosen, REPORT_FILE),
            dataset=evaluated_on,
            on_training_dataset=same,
        )


def _choose_name(names: list[str], report_name: str | None, training: TrainingFacts | None) -> str:
    if report_name is None and len(names) == 1:
        return names[0]
    if report_name is None and training is not None:
        # A report that compares objectives names them; one that compares methods names those.
        likely = (training.objective, training.method and training.method.lower())
        report_name = next((name for name in likely if name in names), None)
    if report_name not in names:
        raise ValueError(
            f"`report_name` must be the model's name in the report, one of {names}, got {report_name!r}; pass "
            "`report_name=`."
        )
    return str(report_name)
