"""The card of a model folder, whatever kind of model it holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.errors import explained
from .card import write_card
from .figures import write_figures
from .model_folder import read_json, read_report
from .model_kinds import kind_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def render_model_card(
    folder: Path,
    repo_id: str | None = None,
    revision: str | None = None,
    *,
    license: str | None = None,
    report_name: str | None = None,
    api: HfApi | None = None,
) -> str:
    """The card of the embedder, adapter or head in a folder.

    Args:
        folder: what `save_pretrained` or a trainer wrote.
        repo_id: where it will be; the folder's name by default.
        revision: tag or commit that the snippets load.
        license: of the weights; that of the base model by default.
        report_name: the model's name in the report, where that holds several and `training.json` does not say.
        api: the card is of what gets published through this client, and it may ask for the licences of the base
            model and the dataset.
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise ValueError(f"`folder` {str(folder)!r} has no config.json: save the model there before its card is made.")
    kind = kind_of(str(config.get("model_type")))
    facts = kind.facts.from_folder(folder, repo_id, revision, license=license, report_name=report_name)
    if api is not None:
        facts = kind.as_published(_with_licences(api, facts))
    return kind.render(facts)


def write_model_card(folder: Path, repo_id: str | None = None, **options: Any) -> Path:
    """Draw the figures of `folder/evaluation` (where there is a report) and write README.md.

    Args:
        folder: what `save_pretrained` or a trainer wrote.
        repo_id: where it will be; the folder's name by default.
        options: `license` and `report_name`, see `render_model_card`.

    Raises:
        ValueError: README.md was written by a person.
    """
    if read_report(folder) is not None:
        write_figures(folder)
    return write_card(render_model_card(folder, repo_id, **options), folder)


def _with_licences(api: HfApi, facts: Any) -> Any:
    """Fill in what the pages of the base model and the dataset say of their licences; unknown stays unknown."""
    training = facts.training
    if training is None:
        return facts
    if training.base_model and "/" in training.base_model and training.base_model_license is None:
        licence = _licence(api, training.base_model, "model", training.base_model_revision)
        training = dataclasses.replace(training, base_model_license=licence)
    data = training.dataset
    if data is not None and data.repo_id and data.license is None:
        licence = _licence(api, data.repo_id, "dataset", data.revision)
        training = dataclasses.replace(training, dataset=dataclasses.replace(data, license=licence))
    facts = dataclasses.replace(facts, training=training)
    if facts.license is None:
        facts = dataclasses.replace(facts, license=training.base_model_license)
    return facts


def _licence(api: HfApi, repo_id: str, kind: str, revision: str | None) -> str | None:
    """Licence in the card of a Hub repo; `None` where it has none or cannot be seen."""
    try:
        with explained(repo_id, kind=kind, revision=revision):
            info: Any = api.repo_info(repo_id, repo_type=kind, revision=revision)
    except (ValueError, ConnectionError):
        return None  # the card then says "unknown: check before use", which is true
    licence = getattr(info.card_data, "license", None)
    return ", ".join(licence) if isinstance(licence, list) else licence
