"""Merge LoRA adapters into the weights under them, and refuse where that changes the vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .columns import VIEWS
from .modeling.items_vlm2rec import check_list
from .modeling.modeling_vlm2rec import Encoding, VLM2RecEmbedder
from .modeling.processing_vlm2rec import VLM2RecProcessor

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Merged:
    """What `merge_adapters` made.

    Attributes:
        model: the embedder, without adapters.
        difference: largest absolute difference of any coordinate of any vector, before against after.
        tolerance: what was allowed.
        n_items: items compared.
        n_histories: histories compared.
    """

    model: VLM2RecEmbedder
    difference: float
    tolerance: float
    n_items: int
    n_histories: int


def merge_adapters(
    model: Any,
    processor: VLM2RecProcessor,
    items: Sequence[Any],
    histories: Sequence[Sequence[Any]] = (),
    *,
    tolerance: float = TOLERANCE,
    batch_size: int = 32,
) -> Merged:
    """Merge the adapters of `model`, in place, after comparing vectors of real items and histories.

    Rounding makes the merged model another one: hardly in float32, visibly in half precision, where adding a small
    update to a large weight loses most of it. Load in float32 to merge, then save in the dtype you want and compare.

    Args:
        model: a `VLM2RecEmbedder` with adapters in it (`AutoModel.from_pretrained(adapter_repo)`), or a `PeftModel`
            around one.
        processor: made for it.
        items: real items (`as_item`), at least one.
        histories: real histories, oldest item first.
        tolerance: largest absolute difference allowed in any coordinate; single views have length 1.
        batch_size: rows per forward pass.

    Returns:
        The merged embedder and what was measured.

    Raises:
        ValueError: no adapters, adapters that cannot be merged, no items, or vectors that changed by more than
            `tolerance`; the model is then exactly as it was.
    """
    items = check_list("items", items)
    if len(items) == 0:
        raise ValueError("`items` is empty: a merge is checked on real items; pass some of your catalogue.")
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be 0 or more, got {tolerance}.")
    embedder = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(embedder, VLM2RecEmbedder):
        raise ValueError(
            f"`model` must be a VLM2RecEmbedder or a PEFT model around one, got {type(embedder).__name__}."
        )
    layers = _adapter_layers(embedder)

    def vectors() -> list[Encoding]:
        return [
            embedder.encode_items(items, processor, batch_size=batch_size),
            embedder.encode_histories(histories, processor, batch_size=batch_size),
        ]

    before = vectors()
    kept = {name: _copy(layer.get_base_layer()) for name, layer in layers.items()}
    merged = False
    try:
        for layer in layers.values():
            layer.merge(safe_merge=True)
        difference = _largest(_difference(old, new) for old, new in zip(before, vectors(), strict=True))
        if not difference <= tolerance:
            raise ValueError(
                f"`model`: merging changes the vectors by up to {difference:.3g}, more than `tolerance` {tolerance:g} "
                f"on {len(items)} items and {len(histories)} histories; nothing was merged. Load the model in float32 "
                f"(it is in {embedder.dtype}), or allow more if that is small enough for your use."
            )
        merged = True
    finally:
        if not merged:
            for name, layer in layers.items():
                _restore(layer, kept[name])
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(embedder.get_submodule(parent), child, layer.get_base_layer())
    _forget_adapters(embedder)
    return Merged(embedder.eval(), difference, tolerance, len(items), len(histories))


def _adapter_layers(embedder: VLM2RecEmbedder) -> dict[str, Any]:
    """Name to layer of every adapted layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers = {name: module for name, module in embedder.named_modules() if isinstance(module, BaseTunerLayer)}
    if not layers:
        raise ValueError("`model` has no adapters; there is nothing to merge.")
    if whole := [name for name, module in embedder.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]:
        raise ValueError(f"`model` trains whole layers beside its adapters ({whole[0]}); only LoRA layers are merged.")
    if done := [name for name, layer in layers.items() if layer.merged]:
        raise ValueError(f"`model` has merged layers already ({done[0]}); unmerge them first.")
    return layers


def _copy(layer: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}


def _restore(layer: Any, kept: dict[str, Tensor]) -> None:
    """Put a layer's weights back bit for bit, and its adapter beside them (unmerging would round once more)."""
    for name, parameter in layer.get_base_layer().named_parameters():
        parameter.data = kept[name]
    layer.merged_adapters.clear()


def _difference(before: Encoding, after: Encoding) -> float:
    if len(before) == 0:
        return 0.0
    return _largest(float((before.view(name) - after.view(name)).abs().max()) for name in VIEWS)


def _largest(values: Iterable[float]) -> float:
    """The largest, and NaN where there is one, which Python's `max` would pass over."""
    return float(torch.tensor([*values], dtype=torch.float64).max())


def _forget_adapters(embedder: VLM2RecEmbedder) -> None:
    """Drop what PEFT and the library noted of the adapters, so that saving writes a whole model."""
    embedder.__dict__.pop("_hf_peft_config_loaded", None)
    embedder.__dict__.pop("peft_config", None)
