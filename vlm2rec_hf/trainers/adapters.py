"""The embedder inside what a trainer is given, and the adapters around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ..modeling.backbone_vlm2rec import BackboneModel
from ..modeling.families_vlm2rec import families
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

if TYPE_CHECKING:
    from peft import PeftConfig

Model = TypeVar("Model", bound=BackboneModel)


def default_lora_config(r: int = 16, alpha: int | None = None, dropout: float = 0.05) -> PeftConfig:
    """LoRA on all seven projections of the language model (our choice); the vision tower stays as it is.

    Args:
        r: rank.
        alpha: scaling, `2 * r` by default.
        dropout: on the adapters' input.
    """
    from peft import LoraConfig

    language_models = "|".join(sorted({family.language_model_name for family in families()}))
    return LoraConfig(
        r=r,
        lora_alpha=alpha if alpha is not None else 2 * r,
        lora_dropout=dropout,
        target_modules=rf".*\b({language_models})\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        task_type="FEATURE_EXTRACTION",
    )


def is_peft(model: Any) -> bool:
    """Whether a model is one of PEFT's, around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def inner_model(model: Any, kind: type[Model]) -> Model:
    """The model of class `kind` inside a PEFT model, or the model itself.

    Raises:
        ValueError: it is of another class.
    """
    inner = model.get_base_model() if is_peft(model) else model
    if not isinstance(inner, kind):
        raise ValueError(
            f"`model` must be a {kind.__name__}, got {type(inner).__name__}; raw backbones become one with "
            f"`{kind.__name__}.from_backbone`."
        )
    return inner


def embedder_of(model: Any) -> VLM2RecEmbedder:
    """The embedder inside a PEFT model, or the model itself."""
    return inner_model(model, VLM2RecEmbedder)


def continue_adapter(model: BackboneModel, peft_config: PeftConfig | None, also: str | None = None) -> None:
    """Of a model that was loaded with an adapter, train the adapter alone; other models stay as they are.

    Args:
        model: without PEFT's wrapper.
        peft_config: what the trainer was given.
        also: parameters with this in their name are trained, too.

    Raises:
        ValueError: the model holds an adapter and a `peft_config` asks for a fresh one.
    """
    if not model.holds_adapter:
        return
    if peft_config is not None:
        merging = ", or merge it first (`merge_adapters`)" if isinstance(model, VLM2RecEmbedder) else ""
        raise ValueError(
            "`model` already holds an adapter, which `peft_config` would replace by a fresh one; leave it out to "
            f"train the adapter further{merging}."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or (also is not None and also in name))


def wrap_with_adapter(model: Any, config: PeftConfig) -> Any:
    """Put a fresh adapter around a model."""
    from peft import get_peft_model

    if is_peft(model):
        raise ValueError("`peft_config` was given, but `model` already is a PEFT model.")
    return get_peft_model(model, config)
