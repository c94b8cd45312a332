"""LLaVA: a square image of a CLIP or SigLIP tower, read at an inner layer, and any causal language model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .family_vlm2rec import (
    BackboneFamily,
    ImageFeatures,
    RowPrefix,
    Sizes,
    cut_patches,
    fold_patches,
    packed_arguments,
    padded_arguments,
    place_images,
    plain_positions,
    read_sizes,
)

TOKENS_IN_FRONT = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Of the patches, by the `model_type` of the towers that are known: CLIP has a class token."""


class LlavaFamily(BackboneFamily):
    """LLaVA 1.5 and those that share its architecture (`llava`), whose images are squares of one size.

    Not the LLaVA-NeXT and OneVision architectures, which cut images into tiles.
    """

    model_types = ("llava",)
    language_model_name = "language_model"
    chat_image = "<image>"

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note `patch_size` and `tokens_beside_patches`, which CLIP's and SigLIP's do not hold; they are saved."""
        image_processor.patch_size = config.vision_config.patch_size
        image_processor.tokens_beside_patches = _tokens_beside_patches(config)

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """The image processor's square (CLIP's: the middle of the image); see `BackboneFamily.prepare_image`.

        What is left on the right and below, less than a patch, is cut off, as the tower never reads it.
        """
        patch, _ = _noted(image_processor)
        pixels = image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
        patches, (_, height, width) = cut_patches(pixels, patch)
        if pixels.shape[1] != pixels.shape[2] or not height:
            raise ValueError(
                f"`image_processor` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but images must be squares of "
                f"at least patch_size = {patch} pixels; set its `size`, or its `crop_size` where it crops."
            )
        return patches, (1, height, width)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """One `<image>` per feature and nothing around them."""
        _, beside = _noted(image_processor)
        return [tokenizer.convert_tokens_to_ids("<image>")] * (int(grid[1]) * int(grid[2]) + beside)

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`h * w` placeholders per image, one more with CLIP's class token, one less where the first is dropped."""
        return grid.prod(-1) + _tokens_beside_patches(config)

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The tower and the projector behind it."""
        return [vlm.vision_tower, vlm.multi_modal_projector]

    def prepare_backbone(self, vlm: Any) -> None:
        """Nothing is replaced.

        Raises:
            ValueError: a tower other than CLIP's or SigLIP's.
        """
        _tokens_beside_patches(vlm.config)

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, 3 * patch**2)` -> features behind the projector, of the size of embeddings.

        The tower is read at `vision_feature_layer` (of several, side by side). Positions are interpolated where
        images are not of the size that the tower was trained with.
        """
        config = vlm.config
        pixels = fold_patches(pixel_values, grid, config.vision_config.patch_size)
        layers = config.vision_feature_layer
        layers = [layers] if isinstance(layers, int) else list(layers)
        # Older versions of transformers take the list for `True` and keep all layers, which are counted alike.
        seen = vlm.vision_tower(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=layers)
        first = int(config.vision_feature_select_strategy == "default")
        states = torch.cat([seen.hidden_states[layer][:, first:] for layer in layers], dim=-1)
        return ImageFeatures(vlm.multi_modal_projector(states).flatten(0, 1), grid)

    def run(
        self,
        vlm: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        images: ImageFeatures | None,
        prefix: RowPrefix | None = None,
    ) -> Tensor:
        """Embed tokens, put the image features in place, run the language model; see `BackboneFamily.run`."""
        embeds = _embedded(vlm, input_ids, images)
        arguments = padded_arguments(attention_mask, plain_positions(attention_mask), prefix)
        return vlm.language_model(inputs_embeds=embeds, **arguments).last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`."""
        embeds = _embedded(vlm, input_ids[attention_mask.bool()][None], images)
        arguments = packed_arguments(attention_mask, plain_positions(attention_mask))
        return vlm.language_model(inputs_embeds=embeds, **arguments).last_hidden_state[0]

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configuration."""
        return read_sizes(vlm.language_model.config, vlm.vision_tower.config)


def _embedded(vlm: Any, input_ids: Tensor, images: ImageFeatures | None) -> Tensor:
    """Token embeddings, image features in place of the placeholders."""
    placeholders = input_ids == vlm.config.image_token_id
    return place_images(vlm.get_input_embeddings()(input_ids), placeholders, images)


def _tokens_beside_patches(config: Any) -> int:
    """Features of an image less its patches: 1, 0 or -1; with `"default"` the first one is dropped, whatever it is."""
    tower = config.vision_config.model_type
    if tower not in TOKENS_IN_FRONT:
        raise ValueError(
            f"`vision_config` of the backbone has model_type {tower!r}; LLaVA towers that are known here are "
            f"{sorted(TOKENS_IN_FRONT)}."
        )
    return TOKENS_IN_FRONT[tower] - (config.vision_feature_select_strategy == "default")


def _noted(image_processor: Any) -> tuple[int, int]:
    """`patch_size` and `tokens_beside_patches` as noted on the image processor."""
    noted = getattr(image_processor, "patch_size", None), getattr(image_processor, "tokens_beside_patches", None)
    if None in noted:
        raise ValueError(
            "`image_processor` does not say the backbone's `patch_size` and `tokens_beside_patches`; make the "
            "processor with `VLM2RecProcessor.from_backbone`, or set both on the image processor."
        )
    return int(noted[0]), int(noted[1])  # type: ignore[arg-type]
