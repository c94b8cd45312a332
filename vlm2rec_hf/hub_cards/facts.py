"""What a card says, as plain data; read from a model folder or a dataset, never made up.

What a folder does not hold is None or empty, and the card says that it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_folder import (
    TRAINING_FILE,
    embedder_name,
    find_figures,
    first_item_ids,
    has_remote_code,
    local_name,
    publishable,
    read_json,
    read_report,
    text_or_none,
)
from .run_facts import EvaluationFacts, TrainingFacts

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

SPACE_SDKS = ("gradio", "docker", "static")
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
EXAMPLE_ITEMS = 3


@dataclass(frozen=True)
class EmbedderFacts:
    """An embedder: a full model, or a PEFT adapter on one.

    Attributes:
        repo_id: `owner/name`, or a folder; what the snippets load.
        revision: tag or commit that the snippets load; None for the newest.
        license: of the weights; by default that of the base model.
        config: the model's `config.json`; empty for an adapter.
        adapter: `adapter_config.json`; empty for a full model.
        remote_code: whether the repo carries the code to load it without this package.
        sentence_transformer: whether `SentenceTransformer` loads it.
        training: how it was trained, None where unknown.
        evaluation: what was measured, None if nothing was.
        figures: plots of the evaluation, relative paths.
    """

    repo_id: str
    revision: str | None = None
    license: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    remote_code: bool = False
    sentence_transformer: bool = False
    training: TrainingFacts | None = None
    evaluation: EvaluationFacts | None = None
    figures: tuple[str, ...] = ()

    @property
    def base(self) -> tuple[str | None, str | None, str | None]:
        """Base model, its commit and its licence, as the first file that names one says.

        A whole model's base is what its training started from; its configuration may still name that one's base.
        """
        training = self.training or TrainingFacts()
        named = self.adapter.get("base_model_name_or_path")
        places = [
            (self.config.get("base_model"), self.config.get("base_model_revision")),
            (training.base_model, training.base_model_revision),
            # A published adapter names its own repo here, whose config.json names the base.
            (named if named != self.repo_id else None, self.adapter.get("revision")),
        ]
        if not self.adapter:
            places[0], places[1] = places[1], places[0]
        base, revision = next(((str(name), commit) for name, commit in places if name), (None, None))
        return (base, revision, training.base_model_license if base == training.base_model else None)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        repo_id: str | None = None,
        revision: str | None = None,
        *,
        license: str | None = None,
        report_name: str | None = None,
    ) -> EmbedderFacts:
        """Read a model folder: `config.json` or `adapter_config.json`, `training.json`, `evaluation/`.

        Args:
            folder: what `save_pretrained` or a trainer wrote.
            repo_id: where it will be; default: the folder's name.
            revision: tag or commit that the card's snippets pin.
            license: of the weights; default: the base model's, which `training.json` may name.
            report_name: the model's name in the report, where that holds several.

        Raises:
            ValueError: no model there, or a damaged file.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json")
        adapter = read_json(folder / "adapter_config.json")
        if config is None and adapter is None:
            raise ValueError(
                f"`folder` {str(folder)!r} holds neither config.json nor adapter_config.json; save a model there."
            )
        base = (adapter or {}).get("base_model_name_or_path")
        if adapter and base and Path(base).is_dir():  # `runs/base` reads like a Hub id of somebody else
            adapter["base_model_name_or_path"] = Path(base).resolve().name
        training, evaluation = _training_and_evaluation(folder, report_name)
        return cls(
            repo_id=repo_id or folder.resolve().name,
            revision=revision,
            license=license or (training.base_model_license if training else None),
            config=publishable(config or {}),
            adapter=publishable(adapter or {}),
            remote_code=has_remote_code(folder, config or {}),
            sentence_transformer=(folder / "modules.json").is_file(),
            training=training,
            evaluation=evaluation,
            figures=find_figures(folder) if evaluation is not None else (),
        )


@dataclass(frozen=True)
class HeadFacts:
    """A sequential head over item vectors.

    Attributes:
        repo_id: `owner/name`, or a folder; what the snippet loads.
        revision: tag or commit that the snippet loads; None for the newest.
        license: of the weights.
        config: the head's `config.json`.
        embedder: repo id of the embedder whose vectors it was built from; None where there is none.
        embedder_revision: its commit.
        example_items: a few raw item ids of its catalogue, for the snippet.
        remote_code: whether the repo carries the code to load it without this package.
        training: how it was trained, None where unknown.
        evaluation: what was measured, None if nothing was.
        figures: plots of the evaluation, relative paths.
    """

    repo_id: str
    revision: str | None = None
    license: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    embedder: str | None = None
    embedder_revision: str | None = None
    example_items: tuple[str, ...] = ()
    remote_code: bool = False
    training: TrainingFacts | None = None
    evaluation: EvaluationFacts | None = None
    figures: tuple[str, ...] = ()

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        repo_id: str | None = None,
        revision: str | None = None,
        *,
        license: str | None = None,
        report_name: str | None = None,
    ) -> HeadFacts:
        """Read a head's folder: `config.json`, `catalogue.parquet`, `training.json`, `evaluation/`.

        Args and errors as `EmbedderFacts.from_folder`; nothing is inherited here, so without `license` it is unknown.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json")
        if config is None:
            raise ValueError(f"`folder` {str(folder)!r} holds no config.json; save a head there.")
        training, evaluation = _training_and_evaluation(folder, report_name)
        embedder = embedder_name(config)
        return cls(
            repo_id=repo_id or folder.resolve().name,
            revision=revision,
            license=license,
            config=publishable(config | {"embedder": embedder}),
            embedder=embedder,
            embedder_revision=text_or_none(config, "embedder_revision"),
            example_items=first_item_ids(folder, EXAMPLE_ITEMS),
            remote_code=has_remote_code(folder, config),
            training=training,
            evaluation=evaluation,
            figures=find_figures(folder) if evaluation is not None else (),
        )


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset repo with the configs `interactions` and `items`.

    Attributes:
        repo_id: `owner/name`; what the snippet loads.
        revision: tag or commit that the snippet loads; None for the newest.
        license: as the holder of the data names it; None where unknown.
        name: short name.
        fingerprint: hash of content and split.
        n_users: users with an interaction.
        n_items: size of the catalogue.
        n_interactions: interactions.
        timestamp_unit: "s", "ms", "us", "ns" or None.
        split_spec: how it was split, as plain data.
        steps: what was done to the tables, with counts.
        coverage: counts, as `Coverage.to_dict`.
        interaction_columns: column -> type.
        item_columns: column -> type.
    """

    repo_id: str
    revision: str | None
    license: str | None
    name: str | None
    fingerprint: str
    n_users: int
    n_items: int
    n_interactions: int
    timestamp_unit: str | None
    split_spec: dict[str, Any]
    steps: list[dict[str, Any]]
    coverage: dict[str, Any]
    interaction_columns: dict[str, str]
    item_columns: dict[str, str]

    @classmethod
    def from_dataset(
        cls, dataset: RecDataset, repo_id: str, revision: str | None = None, license: str | None = None
    ) -> DatasetFacts:
        """Read the numbers off a dataset.

        Args:
            dataset: what is published.
            repo_id: where.
            revision: tag or commit that the card's snippet pins.
            license: of the data.
        """
        return cls(
            repo_id=repo_id,
            revision=revision,
            license=license,
            name=local_name(dataset.name) if dataset.name else None,
            fingerprint=dataset.fingerprint,
            n_users=dataset.n_users,
            n_items=dataset.n_items,
            n_interactions=dataset.n_interactions,
            timestamp_unit=dataset.timestamp_unit,
            split_spec=publishable(dataset.split_spec),
            steps=publishable(dataset.steps),
            coverage=publishable(dataset.coverage.to_dict()),
            interaction_columns=_columns(dataset.interactions.features),
            item_columns=_columns(dataset.items.features),
        )


@dataclass(frozen=True)
class SpaceFacts:
    """A Space, a demo on the Hub.

    Attributes:
        repo_id: `owner/name`.
        title: shown on top.
        description: what it shows, in a sentence or two.
        sdk: "gradio", "docker" or "static".
        sdk_version: of gradio.
        python_version: such as "3.11".
        app_file: what runs.
        models: repo ids of the models it loads.
        datasets: repo ids of its data.
        license: of the code.
        revision: tag or commit that the snippet downloads.
        emoji: shown on the Space's tile.
        color_from: one of `SPACE_COLOURS`.
        color_to: likewise.
        short_description: at most 60 characters, the Hub's limit.

    Raises:
        ValueError: a value that the Hub refuses.
    """

    repo_id: str
    title: str
    description: str
    sdk: str = "gradio"
    sdk_version: str | None = None
    python_version: str | None = None
    app_file: str = "app.py"
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    license: str | None = None
    revision: str | None = None
    emoji: str = "🛒"
    color_from: str = "blue"
    color_to: str = "green"
    short_description: str | None = None

    def __post_init__(self) -> None:
        if self.sdk not in SPACE_SDKS:
            raise ValueError(f"`sdk` must be one of {SPACE_SDKS}, got {self.sdk!r}.")
        for name in ("color_from", "color_to"):
            if getattr(self, name) not in SPACE_COLOURS:
                raise ValueError(f"`{name}` must be one of {SPACE_COLOURS}, got {getattr(self, name)!r}.")
        if not self.title.strip():
            raise ValueError(f"`title` must not be blank, got {self.title!r}.")
        if self.short_description is not None and len(self.short_description) > 60:
            raise ValueError(
                f"`short_description` must have at most 60 characters, got {len(self.short_description)}; shorten it."
            )


def _columns(features: Mapping[str, Any]) -> dict[str, str]:
    # A plain column (`Value`) names its type, an image or a list only its class.
    names = {name: type(kind).__name__ for name, kind in features.items()}
    return {str(name): str(kind.dtype) if names[name] == "Value" else names[name] for name, kind in features.items()}


def _training_and_evaluation(
    folder: Path, report_name: str | None
) -> tuple[TrainingFacts | None, EvaluationFacts | None]:
    written = read_json(folder / TRAINING_FILE)
    training = TrainingFacts.from_json(written) if written is not None else None
    report = read_report(folder)
    return training, EvaluationFacts.from_json(report, training, report_name) if report is not None else None
