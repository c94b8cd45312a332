"""The embedder inside what a trainer is given, and the adapters around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..modeling.families_vlm2rec import families
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

if TYPE_CHECKING:
    from peft import PeftConfig


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


def embedder_of(model: Any) -> VLM2RecEmbedder:
    """The embedder inside a PEFT model, or the model itself."""
    inner = model.get_base_model() if is_peft(model) else model
    if not isinstance(inner, VLM2RecEmbedder):
        raise ValueError(
            f"`model` must be a VLM2RecEmbedder, got {type(inner).__name__}; raw backbones become one with "
            "`VLM2RecEmbedder.from_backbone`."
        )
    return inner


def wrap_with_adapter(model: Any, config: PeftConfig) -> Any:
    """Put a fresh adapter around a model."""
    from peft import get_peft_model

    if is_peft(model):
        raise ValueError("`peft_config` was given, but `model` already is a PEFT model.")
    return get_peft_model(model, config)
