"""What a backbone's own `generate` takes beside the tokens: its images in its own shape, by family.

Only describing needs it, so it does not stand in the family files, which are copied into every embedder's repo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..modeling.family_gemma3 import Gemma3Family
from ..modeling.family_idefics3 import Idefics3Family
from ..modeling.family_llava import LlavaFamily
from ..modeling.family_paligemma import PaliGemmaFamily
from ..modeling.family_qwen_vl import QwenVLFamily
from ..modeling.family_vlm2rec import BackboneFamily, fold_patches

Inputs = Callable[[Any, Tensor, Tensor | None, Tensor | None], dict[str, Tensor]]


def generation_inputs(
    family: BackboneFamily, config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None
) -> dict[str, Tensor]:
    """Keyword arguments besides `input_ids` and `attention_mask` for the backbone's own `generate`.

    Args:
        family: of the backbone.
        config: of the backbone.
        input_ids: `(rows, length)`, with the tokens of `image_block` where an image stands.
        pixel_values: images as `prepare_image` gives them, one per row, or `None` without images.
        grid: `(rows, 3)`, or `None`.
    """
    return _INPUTS[type(family)](config, input_ids, pixel_values, grid)


def _qwen_vl(config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None) -> dict[str, Tensor]:
    """Patches, grid and, without which positions are wrong, the kind of every token."""
    kinds = {"mm_token_type_ids": (input_ids == config.image_token_id).int()}
    if pixel_values is None or grid is None:
        return kinds
    return {**kinds, "pixel_values": pixel_values, "image_grid_thw": grid}


def _idefics3(config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None) -> dict[str, Tensor]:
    """Images as `(rows, 1, 3, height, width)`."""
    if pixel_values is None or grid is None:
        return {}
    return {"pixel_values": fold_patches(pixel_values, grid, config.vision_config.patch_size).unsqueeze(1)}


def _paligemma(config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None) -> dict[str, Tensor]:
    """Images as `(rows, 3, height, width)`, and the whole prompt marked as prefix, as it was pretrained."""
    kinds = {"token_type_ids": torch.zeros_like(input_ids)}
    if pixel_values is None or grid is None:
        return kinds
    return {**kinds, "pixel_values": fold_patches(pixel_values, grid, config.vision_config.patch_size)}


def _llava(config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None) -> dict[str, Tensor]:
    """Images as `(rows, 3, height, width)`."""
    if pixel_values is None or grid is None:
        return {}
    return {"pixel_values": fold_patches(pixel_values, grid, config.vision_config.patch_size)}


def _gemma3(config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None) -> dict[str, Tensor]:
    """As LLaVA's, and which tokens are an image's, which see one another as it was pretrained."""
    kinds = {"token_type_ids": (input_ids == config.image_token_id).long()}
    return {**kinds, **_llava(config, input_ids, pixel_values, grid)}


_INPUTS: dict[type[BackboneFamily], Inputs] = {
    QwenVLFamily: _qwen_vl,
    Idefics3Family: _idefics3,
    PaliGemmaFamily: _paligemma,
    LlavaFamily: _llava,
    Gemma3Family: _gemma3,
}
