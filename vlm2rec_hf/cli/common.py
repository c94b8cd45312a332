"""What the commands share: parsing, opening a dataset, building a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..data.dataset import RecDataset
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
    from ..modeling.processing_vlm2rec import VLM2RecProcessor
    from .arguments import DataArguments, ModelArguments


def parse(command: str, description: str, dataclass_types: Sequence[Any], argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse dataclasses from the command line and `--config FILE.yaml`; the command line wins.

    Raises:
        ValueError: the config file does not exist, is no mapping, or names an unknown option.
    """
    from trl import TrlParser

    parser = TrlParser(
        list(dataclass_types),
        prog=f"vlm2rec {command}",
        description=description,
        epilog="Options may also stand in a YAML file given as --config FILE; the command line wins.",
    )
    for index, argument in enumerate(argv):
        path = argv[index + 1] if argument == "--config" and index + 1 < len(argv) else None
        path = argument.removeprefix("--config=") if argument.startswith("--config=") else path
        if path is not None:
            check_config(Path(path))
    return tuple(parser.parse_args_and_config(list(argv)))


def check_config(path: Path) -> None:
    """Refuse a config file that is absent or no YAML mapping, before the parser stumbles over it."""
    import yaml

    if not path.is_file():
        raise ValueError(f"`--config` {str(path)!r} does not exist; name a YAML file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` {str(path)!r} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`--config` {str(path)!r} must hold `option: value` lines, got {type(content).__name__}.")


def given(argv: Sequence[str], *names: str) -> dict[str, str | None]:
    """A few options before the real parsing: from the command line, else from the `--config` file, else `None`."""
    import argparse

    import yaml

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in (*names, "config"):
        parser.add_argument(f"--{name}")
    found = vars(parser.parse_known_args(list(argv))[0])
    content = {}
    if found["config"] is not None:
        check_config(Path(found["config"]))
        content = yaml.safe_load(Path(found["config"]).read_text(encoding="utf-8"))
    return {name: found[name] if found[name] is not None else content.get(name) for name in names}


def _column_mapping(text: str) -> dict[str, str]:
    """`user=user_id,sku=item_id` as a mapping."""
    pairs = [pair.split("=") for pair in text.split(",")]
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise ValueError(f"`--column_mapping` must look like user=user_id,sku=item_id, got {text!r}.")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}


def open_dataset(arguments: DataArguments) -> RecDataset:
    """Load, filter and split a dataset as the arguments say; a split it already has is kept.

    Raises:
        ValueError: no dataset named, an unknown split, or filters on a dataset that is split already.
    """
    from ..data.readers import load_recsys

    if not arguments.dataset:
        raise ValueError("`--dataset` is required: a folder that `vlm2rec prepare` wrote, raw data, or a Hub id.")
    options: dict[str, Any] = {}
    if arguments.column_mapping:
        options["column_mapping"] = _column_mapping(arguments.column_mapping)
    dataset = load_recsys(arguments.dataset, format=arguments.format, revision=arguments.revision, **options)
    if arguments.k_core:
        dataset = dataset.k_core(arguments.k_core)
    if dataset.split_spec["kind"] == "none":
        dataset = split_dataset(dataset, arguments.split)
    if arguments.cold_items:
        dataset = dataset.hold_out_cold_items(arguments.cold_items)
    return dataset


def split_dataset(dataset: RecDataset, split: str) -> RecDataset:
    """Split by `leave_one_out`, `temporal:A,B` (shares of all interactions before validation and test) or `none`."""
    if split == "none":
        return dataset
    if split == "leave_one_out":
        return dataset.leave_one_out()
    kind, _, shares = split.partition(":")
    if kind == "temporal":
        try:
            first, second = (float(part) for part in shares.split(","))
        except ValueError:
            raise ValueError(f"`split` {split!r} must look like temporal:0.8,0.9.") from None
        return dataset.temporal_split(quantiles=(first, second))
    raise ValueError(f"`split` must be leave_one_out, temporal:A,B or none, got {split!r}.")


def build_model(
    arguments: ModelArguments, dataset: RecDataset, max_history: int, seed: int
) -> tuple[Any, VLM2RecProcessor, bool]:
    """Load or build the model of a training run.

    Returns:
        The embedder, its processor, and whether it is a tiny one from config.

    Raises:
        ValueError: both or neither of `model` and `tiny`.
    """
    from ..tiny.backbones import tiny_vlm

    if (arguments.model is None) == (arguments.tiny is None):
        raise ValueError("Name exactly one of `--model` (folder or Hub id) and `--tiny` (build one from config).")
    options = {**arguments.processor_options(), "max_history": max_history}
    if arguments.tiny is not None:
        model, processor = tiny_vlm(
            arguments.tiny,
            [text for text in dataset.item_texts() if text],
            image_size=arguments.image_size,
            vocab_size=arguments.vocab_size,
            fusion=arguments.fusion,
            seed=seed,
            processor_options=options,
            hidden_size=arguments.hidden_size,
            layers=arguments.num_layers,
            vision_hidden_size=arguments.vision_hidden_size,
            vision_layers=arguments.vision_layers,
        )
        return model, processor, True
    model, processor = load_embedder(arguments)
    for name, value in options.items():
        setattr(processor, name, value)
    return model, processor, False


def load_embedder(arguments: ModelArguments) -> tuple[VLM2RecEmbedder, VLM2RecProcessor]:
    """Load a trained embedder (or adapter repo), or make one of a raw backbone.

    Raises:
        ValueError: no model named, or nothing loadable there.
    """
    from transformers import AutoModel

    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
    from ..modeling.processing_vlm2rec import VLM2RecProcessor

    where, options = locate_model(arguments)
    revision = options["revision"]
    if (Path(where) / "adapter_config.json").is_file():
        return AutoModel.from_pretrained(where, **options).eval(), VLM2RecProcessor.from_pretrained(where)
    if config_at(where, revision).model_type == "vlm2rec":
        model = VLM2RecEmbedder.from_pretrained(where, **options).eval()
        return model, VLM2RecProcessor.from_pretrained(where, revision=revision)
    model = VLM2RecEmbedder.from_backbone(where, fusion=arguments.fusion, **options)
    return model, VLM2RecProcessor.from_backbone(where, revision=revision, fusion=arguments.fusion)


def locate_model(arguments: ModelArguments) -> tuple[str, dict[str, Any]]:
    """Where a model lies, and how to load it.

    Returns:
        Folder or Hub id, and options of `from_pretrained`. Their `revision` is one commit for the model and its
        processor, whatever is published meanwhile.

    Raises:
        ValueError: no model named, or the Hub has no such model.
    """
    from ..modeling.hub_loading import hub_commit

    where = arguments.model
    if not where:
        raise ValueError("`--model` is required: a folder or Hub id of a model.")
    revision = arguments.model_revision or "main"
    if not Path(where).exists():
        try:
            revision = hub_commit(where, revision=revision) or revision
        except OSError as error:
            raise ValueError(
                f"`--model` {where!r} is neither a folder nor a model that the Hub has: {error}"
            ) from error
    options: dict[str, Any] = {"revision": revision, "dtype": arguments.model_dtype}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    return where, {name: value for name, value in options.items() if value is not None}


def config_at(where: str, revision: str) -> PreTrainedConfig:
    """The configuration of a model folder or Hub id.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoConfig

    if Path(where).exists() and not (Path(where) / "config.json").is_file():
        raise ValueError(f"`--model` {where!r} holds no config.json: it is no saved model.")
    try:
        return AutoConfig.from_pretrained(where, revision=revision)
    except OSError as error:
        raise ValueError(f"`--model` {where!r} is neither a folder nor a model that the Hub has: {error}") from error


def model_type_of(where: str | None, revision: str | None = None) -> str | None:
    """`model_type` of a saved model or Hub id; `None` where none is named or it has no readable `config.json`."""
    from transformers import PreTrainedConfig

    if not where or (Path(where).exists() and not (Path(where) / "config.json").is_file()):
        return None
    try:
        found, _ = PreTrainedConfig.get_config_dict(where, revision=revision or "main")
    except OSError:
        return None  # whoever loads the model says what is wrong with it
    return found.get("model_type")


def model_version(where: str, revision: str | None = None) -> str:
    """Which weights a model has: the commit of a Hub id, or `sha256:...` of the weight files of a folder.

    A branch or a folder's name would say something else tomorrow.
    """
    from ..hub_cards.model_folder import weights_fingerprint
    from ..modeling.hub_loading import hub_commit

    if Path(where).is_dir():
        return f"sha256:{weights_fingerprint(Path(where))}"
    return hub_commit(where, revision=revision or "main") or ""


def weights_of(where: str) -> dict[str, Any]:
    """The fact `weights` of a report on a model folder; nothing for a Hub id."""
    from ..hub_cards.model_folder import weights_fingerprint

    return {"weights": weights_fingerprint(Path(where))} if Path(where).is_dir() else {}


def say(text: str) -> None:
    """Tell the user something; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)


def require(value: str, option: str, what: str) -> str:
    """The value of a required option.

    Raises:
        ValueError: it is missing.
    """
    if not value:
        raise ValueError(f"`{option}` is required: {what}.")
    return value
