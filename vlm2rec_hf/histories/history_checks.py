"""Whether a history state belongs to a model and a processor: fit, a cheap stamp, and exact hashes for files."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..columns import VIEWS

CHUNK = 1 << 22
SETTINGS = (
    "backbone_type", "fusion", "user_instruction", "history_template", "max_history", "max_item_tokens",
    "max_history_item_tokens", "end_token", "template",
)  # fmt: skip
_NOT_NUMBERS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
_NOT_IMAGES = ("image_processor_type", "processor_class", "device")
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_fit(model: Any, processor: Any) -> None:
    """Refuse a processor of another kind of model, and backbones whose attention forgets what a row still holds."""
    config = model.config
    for name, theirs, ours in (
        ("backbone_type", processor.backbone_type, config.vlm_config.model_type),
        ("fusion", processor.fusion, config.fusion),
    ):
        if theirs != ours:
            raise ValueError(f"`processor` has {name} {theirs!r}, the model {ours!r}; use the model's own processor.")
    slides = "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())
    if slides and not model.family.windows_by_place:
        raise ValueError("`model` has sliding-window attention, which a history state does not support.")


def checked_views(views: Sequence[str] | None, fusion: str) -> tuple[str, ...]:
    """The views to keep, in our order; `None` means those that cost nothing extra."""
    if views is None:
        return VIEWS if fusion == "external" else ("both",)
    unknown = [view for view in views if view not in VIEWS]
    if isinstance(views, str) or not views or unknown:
        raise ValueError(f"`views` must be a list of some of {VIEWS}, got {views!r}.")
    if fusion == "external" and set(views) != set(VIEWS):
        raise ValueError(f"`views` must be {VIEWS} with external fusion, which needs both rows, got {views!r}.")
    return tuple(view for view in VIEWS if view in views)


def weights_stamp(model: Any) -> tuple:
    """Changes when a parameter is written to (by an optimiser, by loading), replaced or cast, or an adapter switched.

    Costs microseconds per parameter. It does not see writes through `parameter.data`, which PyTorch does not count.
    """
    stamp: list[Any] = []
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                version = -1 if parameter.is_inference() else parameter._version
                stamp.append((id(parameter), version, parameter.dtype))
        if _has_adapters(module):
            stamp.append((id(module), *_acting(module)))
    return tuple(stamp)


def _has_adapters(module: Any) -> bool:
    """Whether this is one of PEFT's layers; `hasattr` on a module without it is slow."""
    return "merged_adapters" in module.__dict__


def _acting(layer: Any) -> tuple:
    """Which adapters act in one of PEFT's layers, which are merged into its base."""
    return tuple(layer.active_adapters), bool(layer.disable_adapters), tuple(layer.merged_adapters)


@torch.no_grad()
def parameters_fingerprint(model: Any) -> str:
    """Hash of all parameters, their names and types, and of which adapters act; the same on every device.

    Integer sums over the bits, which no order of summation changes: one pass over the weights where they lie.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {_checksum(parameter)}\n".encode())
    for name, module in model.named_modules():
        if _has_adapters(module):
            digest.update(f"{name} {_acting(module)}\n".encode())
    return digest.hexdigest()


def _checksum(tensor: Tensor) -> tuple[int, int]:
    """Sum of the words, and sum weighted by place, both modulo 2**64."""
    words = tensor.detach().contiguous().view(-1).view(_WORDS[tensor.element_size()])
    plain, placed = 0, 0
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK].long()
        places = torch.arange(start + 1, start + 1 + len(part), device=part.device)
        plain += int(part.sum())
        placed += int((part * (places * 2654435761 + 40503)).sum())
    return plain % 2**64, placed % 2**64


def settings_fingerprint(processor: Any) -> dict[str, Any]:
    """What decides an item's tokens and pixels, by name."""
    vocabulary = json.dumps(sorted(processor.tokenizer.get_vocab().items()))
    images = processor.image_processor.to_dict()
    images = {name: value for name, value in images.items() if name not in _NOT_IMAGES}
    given = {name: getattr(processor, name) for name in SETTINGS}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings["tokenizer"] = hashlib.sha256(vocabulary.encode()).hexdigest()
    settings["image_processor"] = json.loads(json.dumps(images, sort_keys=True, default=str))
    return settings


def architecture_fingerprint(model: Any) -> dict[str, Any]:
    """The model's configuration, as far as it decides numbers."""
    plain = json.loads(json.dumps(model.config.vlm_config.to_dict(), default=str))
    return _numbers({**plain, "fusion": model.config.fusion})


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items() if k not in _NOT_NUMBERS and not k.startswith("_attn")}
    return value
