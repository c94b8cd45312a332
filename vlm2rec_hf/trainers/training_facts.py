"""`training.json`: how a model came about, written beside its weights; the card is made from it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import json_bytes, whole_file
from ..hub_cards.model_folder import TRAINING_FILE

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..data.dataset import RecDataset

LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate")
# About this machine or this account, or filled in by the constructor; not about the result.
_PRIVATE = frozenset(
    ("output_dir", "logging_dir", "run_name", "hub_token", "hub_model_id", "push_to_hub", "hub_strategy", "report_to",
     "disable_tqdm", "resume_from_checkpoint", "hub_private_repo", "hub_always_push", "hub_revision", "project",
     "trackio_space_id", "use_cpu", "label_names", "dataloader_pin_memory", "dataloader_num_workers", "logging_steps",
     "accelerator_config", "greater_is_better")
)  # fmt: skip


def dataset_facts(dataset: RecDataset) -> dict[str, Any]:
    """Which data: name, Hub repo and commit where it came from there, fingerprint and split."""
    source: Mapping[str, Any] = dataset.source or {}
    return {
        "name": dataset.name,
        "repo_id": source.get("repo_id"),
        "revision": source.get("revision"),
        "fingerprint": dataset.fingerprint,
        "license": None,
        "split": dataset.split_spec,
    }


def resolved_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """The training arguments that differ from the class's defaults and bear on the result, as plain data."""
    values = arguments.to_dict()
    resolved = {}
    for field in dataclasses.fields(arguments):
        if field.name in _PRIVATE or field.name not in values:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(arguments, field.name)
        # The constructor makes [] and False of None and "". A zero is a choice.
        says_nothing = all(one in (None, "", []) or one is False for one in (value, default))
        if value != default and not says_nothing:
            resolved[field.name] = values[field.name]
    resolved |= {"learning_rate": arguments.learning_rate, "train_batch_size": arguments.train_batch_size}
    return dict(json.loads(json.dumps(resolved, default=str, sort_keys=True)))


def adapter_facts(model: Any) -> dict[str, Any] | None:
    """Settings of the adapter in `model`, `None` where all weights are trained."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    config = next(iter(configs.values())).to_dict()
    names = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora")
    return dict(json.loads(json.dumps({n: config[n] for n in names if n in config}, default=_plain)))


def library_versions() -> dict[str, str]:
    """Versions of the libraries a result depends on."""
    from ..version import __version__

    return {"vlm2rec_hf": __version__, **{name: version(name) for name in LIBRARIES}}


def write_training_facts(folder: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """Write `training.json`, whole or not at all."""
    path = Path(folder) / TRAINING_FILE
    with whole_file(path) as partial:
        partial.write_bytes(json_bytes(facts))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
