"""The model inside what a trainer is given, and the adapters around it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from ..modeling.backbone_vlm2rec import ADAPTER_WEIGHTS, PEFT_PREFIX, BackboneModel
from ..modeling.families_vlm2rec import families
from ..modeling.modeling_pixrec import PixRecModel
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

if TYPE_CHECKING:
    from peft import PeftConfig

Model = TypeVar("Model", bound=PreTrainedModel)


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


def pixrec_lora_config(r: int = 16, alpha: int | None = None, dropout: float = 0.05) -> PeftConfig:
    """LoRA as `default_lora_config`, with both projections of a `PixRecModel` trained whole: they start at random.

    `PixRecTrainer` adds them to any configuration; for PEFT's own `get_peft_model` they have to be named, as here.
    """
    config: Any = default_lora_config(r, alpha, dropout)
    config.modules_to_save = list(PixRecModel.trained_beside_adapters)
    return config


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


def continue_adapter(model: BackboneModel, peft_config: PeftConfig | None, also: str | None = None) -> None:
    """Of a model that was loaded with an adapter, train the adapter alone; other models stay as they are.

    Quantized weights cannot be trained, so such a model needs an adapter.

    Args:
        model: without PEFT's wrapper.
        peft_config: what the trainer was given.
        also: parameters with this in their name are trained, too.

    Raises:
        ValueError: the model holds an adapter and a `peft_config` asks for a fresh one, or its weights are quantized
            and there is no adapter.
    """
    if peft_config is None and not hasattr(model, "peft_config"):
        refuse_quantized(model)
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


def load_held_adapter(model: Any, folder: Path) -> bool:
    """Put the adapter of a checkpoint into a model that was loaded with one; others stay as they are.

    Args:
        model: without PEFT's wrapper, or with it.
        folder: the checkpoint.

    Returns:
        Whether the model holds an adapter, and so was given this one.

    Raises:
        ValueError: the checkpoint's weights are not those of the adapter.
    """
    if is_peft(model) or not getattr(model, "holds_adapter", False):
        return False
    import peft
    from safetensors.torch import load_file

    saved = {name.removeprefix(PEFT_PREFIX): value for name, value in load_file(folder / ADAPTER_WEIGHTS).items()}
    loaded: Any = peft.set_peft_model_state_dict(model, saved, "default")
    lost = [name for name in loaded.missing_keys if ".default." in name] + list(loaded.unexpected_keys)
    if lost:
        raise ValueError(f"`resume_from_checkpoint` {str(folder)!r} holds another adapter: {lost[:3]} do not match.")
    return True


def wrap_with_adapter(model: Any, config: PeftConfig, args: TrainingArguments) -> Any:
    """Put a fresh adapter around a model; its random start is drawn from `args.seed`.

    What is new in the model or in its backbone is trained and saved whole, whatever `config` names.
    """
    from peft import get_peft_model

    if is_peft(model):
        raise ValueError("`peft_config` was given, but `model` already is a PEFT model.")
    set_seed(args.seed)  # the adapters' random start belongs to the run, as everything after it does
    options: Any = {}
    inner: Any = model
    own: Any = copy.copy(config)
    saved = list(own.modules_to_save or ())
    new = (*inner.family.trained_beside_adapters, *getattr(inner, "trained_beside_adapters", ()))
    if whole := [name for name in new if name not in saved]:
        own.modules_to_save = [*saved, *whole]
    if _shards_weights(args) and not _is_quantized(model):
        # Weights of one dtype: ZeRO-3 gathers small ones together (deepspeedai/DeepSpeed#8072), as TRL has it.
        options["autocast_adapter_dtype"] = False
    return get_peft_model(model, own, **options)


def prepare_adapter_training(model: Any, inner: BackboneModel, args: TrainingArguments) -> None:
    """Settle what training an adapter over frozen weights needs beside it; as TRL's trainers do.

    Args:
        model: what is trained; PEFT's wrapper or a model that holds an adapter.
        inner: the model without the wrapper.
        args: changed in place: DeepSpeed's ZeRO-3 needs reentrant checkpoints (huggingface/trl#2514).
    """
    if _is_quantized(model):
        for name, parameter in model.named_parameters():
            # QLoRA's adapters are bfloat16 (arXiv 2305.14314); DoRA's magnitudes move by less than that can hold.
            if parameter.requires_grad and "lora_magnitude_vector" not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    if args.gradient_checkpointing:
        inner.enable_input_require_grads()  # or nothing before the first adapter has a gradient to recompute for
        if _shards_weights(args):
            given: Any = args.gradient_checkpointing_kwargs or {}
            # The library renamed it and reads the new name where it knows that.
            for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
                if hasattr(args, name):
                    setattr(args, name, {**given, "use_reentrant": True})


def _shards_weights(args: TrainingArguments) -> bool:
    plugin = args.deepspeed_plugin
    return plugin is not None and plugin.zero_stage == 3


def refuse_quantized(model: Any) -> None:
    """Refuse to train all weights of a model that was loaded in 8 or 4 bits.

    Raises:
        ValueError: its weights are quantized.
    """
    if getattr(model, "is_quantized", False) or _is_quantized(model):
        how = getattr(getattr(model, "quantization_method", None), "value", "bitsandbytes")
        raise ValueError(
            f"`model` was loaded with quantized weights ({how}), which cannot be trained; train an adapter on them "
            "(`peft_config=default_lora_config()`, or `--lora`), or load it without `quantization_config`."
        )


def _is_quantized(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))
