"""Was a model trained on the data it is about to be measured on? What to tell the user if not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.dataset import RecDataset


def warning_about(model: str, revision: str | None, dataset: RecDataset) -> str | None:
    """What to tell before `model` is evaluated on `dataset`; None where nothing is odd or nothing is known.

    Args:
        model: folder or Hub id.
        revision: of a Hub model.
        dataset: as evaluated, after filters and split.
    """
    from .hub.tokens import redact

    try:
        trained = read_trained_on(model, revision)
    except (ValueError, ConnectionError) as error:
        # The evaluation stands without it, but its reader must know that nothing was compared.
        return redact(f"Cannot tell which data {model} was trained on: {error}")
    return None if trained is None else difference(trained, dataset.fingerprint, dataset.source)


def read_trained_on(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """The object `dataset` of the model's `training.json`; None where there is no such file or it names none.

    Raises:
        ValueError: the file is damaged, or the Hub refuses it.
        ConnectionError: the Hub cannot be reached.
    """
    trained = (read_training_facts(model, revision) or {}).get("dataset")
    if trained is not None and not isinstance(trained, dict):
        raise ValueError(f"`dataset` in training.json of {model!r} is {trained!r}; it must be an object.")
    return trained


def read_training_facts(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """The model's `training.json`; None where there is no such file. Errors as `read_trained_on`."""
    from huggingface_hub import HfApi

    from .hub.files import file_if_there
    from .hub_cards.model_folder import TRAINING_FILE

    path: Path | None = Path(model) / TRAINING_FILE
    if not Path(model).exists():
        path = file_if_there(HfApi(), model, TRAINING_FILE, kind="model", revision=revision)
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{TRAINING_FILE} of {model!r} is no JSON ({error}).") from error
    return found if isinstance(found, dict) else None


def facts_of_training(model: str, revision: str | None) -> dict[str, Any]:
    """The model's `training.json`; empty where there is none or it cannot be read, which is said."""
    from .cli.common import say
    from .hub.tokens import redact

    try:
        return read_training_facts(model, revision) or {}
    except (ValueError, ConnectionError) as error:
        say(redact(f"Warning: cannot tell which histories and item columns {model} was trained on: {error}"))
        return {}


def trained_history(facts: Mapping[str, Any], kept: int) -> int:
    """How many items of a history a model was shown in training: a trainer may show fewer than its processor keeps.

    Args:
        facts: the model's `training.json`.
        kept: `max_history` of its processor.
    """
    shown = (facts.get("arguments") or {}).get("max_history")
    return min(kept, shown or kept)


def difference(trained: Mapping[str, Any], fingerprint: str, source: Mapping[str, Any] | None) -> str | None:
    """How the data at hand differs from what a model was trained on, in words; None where it does not.

    Args:
        trained: `repo_id`, `revision`, `fingerprint` of the training data, each may be missing or None.
        fingerprint: of the data at hand.
        source: its `{"repo_id", "revision"}`, or None where it did not come from the Hub.
    """
    known = trained.get("fingerprint")
    theirs, ours = _place(trained), _place(source or {})
    if known and known != fingerprint:
        return (
            f"The model was trained on other data than it is evaluated on: on {theirs or 'data'} with fingerprint "
            f"{known}; this is {ours or 'data'} with fingerprint {fingerprint}. Test users may have been trained on; "
            "name the same version (`--revision`) and the same filters and split to rule that out."
        )
    if theirs and ours and theirs != ours:
        content = "the content is the same" if known else "whether the content is the same is not known"
        return f"The model was trained on {theirs}; this is {ours} ({content})."
    return None


def _place(source: Mapping[str, Any]) -> str:
    repo_id, revision = source.get("repo_id"), source.get("revision")
    return f"{repo_id} at {revision}" if repo_id and revision else ""
