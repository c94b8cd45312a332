"""Folders and Hub repos that hold adapters (PEFT) and not the weights under them: which base they need, exactly.

An adapter repo of ours carries a `config.json` that names its base and the base's commit. The library would follow
`base_model_name_or_path` of `adapter_config.json` alone: that has no commit, and where the base is a raw backbone it
makes a bare backbone in which the adapter's weights find no place.
"""

import importlib
import json
import os
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedConfig

from .hub_loading import HUB_ARGUMENTS, hub_arguments, repo_file

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FULL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PREFIX = "base_model.model."  # PEFT saves the names of its wrapper


@dataclass(frozen=True)
class AdapterRepo:
    """An adapter without its base's weights.

    Attributes:
        where: the folder or Hub id.
        base: what `adapter_config.json` names as its base.
        hub: arguments to read `where` with (`revision`, `token`, ...).
    """

    where: str
    base: str | None
    hub: dict[str, Any]


def find_adapter_repo(where: Any, arguments: dict[str, Any]) -> AdapterRepo | None:
    """Tell whether `where` holds an adapter and no full weights.

    Args:
        where: folder or Hub id given to `from_pretrained`.
        arguments: the other arguments given to `from_pretrained`.

    Raises:
        ValueError: the adapter's weights are not safetensors.
    """
    where, hub = str(where), hub_arguments(arguments)
    given = arguments.get("adapter_kwargs") or {}
    adapter = str(given.get("_adapter_model_path") or where)
    if adapter != where:  # the library has followed `base_model_name_or_path` to the base already
        where, hub = adapter, {**{k: v for k, v in hub.items() if k != "revision"}, **hub_arguments(given)}
        if repo_file(where, "config.json", hub) is None:
            return None  # no adapter repo of ours
    hub |= hub_arguments(given)
    config = repo_file(where, ADAPTER_CONFIG, hub)
    if config is None or any(repo_file(where, name, hub) for name in FULL_WEIGHTS):
        return None
    if repo_file(where, ADAPTER_WEIGHTS, hub) is None:
        raise ValueError(
            f"`pretrained_model_name_or_path` {where!r} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}; other "
            "formats are not read, because pickles can run code. Save the adapter as safetensors."
        )
    with open(config, encoding="utf-8") as file:
        return AdapterRepo(where, json.load(file).get("base_model_name_or_path"), hub)


def load_with_adapter(embedder_class: Any, adapter: AdapterRepo, arguments: dict[str, Any]) -> Any:
    """Load the base that the adapter's `config.json` names, at the commit named there, and put the adapter into it.

    Args:
        embedder_class: `VLM2RecEmbedder`.
        adapter: found by `find_adapter_repo`.
        arguments: the other arguments given to `from_pretrained`.

    Raises:
        ValueError: no base is named, or the adapter does not fit the base.
    """
    config = embedder_class.config_class.from_pretrained(adapter.where, **adapter.hub)
    base = config.base_model or adapter.base
    if not base or base == adapter.where:
        raise ValueError(
            f"`pretrained_model_name_or_path` {adapter.where!r} holds an adapter that names no base model; save it "
            "with its trainer, or merge it into its base."
        )
    of_the_adapter = (*HUB_ARGUMENTS, "config", "adapter_kwargs", "trust_remote_code", "_from_auto", "_commit_hash")
    arguments = {name: value for name, value in arguments.items() if name not in of_the_adapter}
    with_info = arguments.pop("output_loading_info", False)
    hub = {name: value for name, value in adapter.hub.items() if name not in ("revision", "subfolder")}
    if config.base_model_revision is not None:
        hub["revision"] = config.base_model_revision
    base_config = PreTrainedConfig.get_config_dict(base, **hub)[0]
    if base_config.get("model_type") == config.model_type:
        model = embedder_class.from_pretrained(base, **hub, **arguments)
    else:
        model = embedder_class.from_backbone(base, **config.backbone_options(), **hub, **arguments)
    _check_shape(adapter, base, config, model.config)
    _put_in(model, adapter)
    model.config.base_model, model.config.base_model_revision = config.base_model, config.base_model_revision
    model.config.name_or_path = adapter.where
    info: dict[str, Any] = {
        "missing_keys": set(),
        "unexpected_keys": set(),
        "mismatched_keys": set(),
        "error_msgs": [],
    }
    return (model.eval(), info) if with_info else model.eval()


def _put_in(model: Any, adapter: AdapterRepo) -> None:
    """Add the adapter's layers to `model` and fill them, by PEFT's own functions.

    `PreTrainedModel.load_adapter` does the same, but renames the weights in ways that changed with its version and
    PEFT's; with transformers 5.17 and PEFT 0.19 it finds no place for any of them.

    Raises:
        ValueError: a weight of the adapter has no place in the model, or a place got no weight.
    """
    peft = importlib.import_module("peft")  # not `import`: without an adapter nobody needs it to be installed
    config_file = str(repo_file(adapter.where, ADAPTER_CONFIG, adapter.hub))
    config = peft.PeftConfig.from_pretrained(os.path.dirname(config_file))
    config.inference_mode = True
    weights = load_file(str(repo_file(adapter.where, ADAPTER_WEIGHTS, adapter.hub)))
    loaded_from = model.loaded_from
    peft.inject_adapter_in_model(config, model, "default")
    found = peft.set_peft_model_state_dict(model, {k.removeprefix(_PREFIX): v for k, v in weights.items()}, "default")
    places = {name for name, _ in model.named_parameters() if ".default." in name}
    filled = len(places) - len(places & set(found.missing_keys))
    lost = sorted({*(places & set(found.missing_keys)), *found.unexpected_keys})
    if lost or filled != len(weights):
        raise ValueError(
            f"`pretrained_model_name_or_path` {adapter.where!r} does not fit its base: {len(lost)} weights do not "
            f"match ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}). Its config.json must name the base it "
            "was trained on."
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model._hf_peft_config_loaded = True
    model.loaded_from = loaded_from


def _check_shape(adapter: AdapterRepo, base: str, wanted: Any, found: Any) -> None:
    """Refuse a base of another family or size than the one the adapter was trained on."""
    for name in ("vlm_config.model_type", "hidden_size", "text_config.num_hidden_layers"):
        values = []
        for config in (wanted, found):
            value = config.get_text_config() if name.startswith("text_config") else config
            for part in name.removeprefix("text_config.").split("."):
                value = getattr(value, part)
            values.append(value)
        if values[0] != values[1]:
            raise ValueError(
                f"`pretrained_model_name_or_path` {adapter.where!r} does not fit its base {base!r}: {name} is "
                f"{values[1]!r} there and {values[0]!r} here. Its config.json must name the base it was trained on."
            )
