"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: placeholders on a grid, multimodal rotary positions, optional deepstack."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .family_vlm2rec import (
    BackboneFamily,
    ImageFeatures,
    RowPrefix,
    Sizes,
    packed_arguments,
    padded_arguments,
    place_images,
    plain_positions,
)


class QwenVLFamily(BackboneFamily):
    """The three Qwen-VL generations through one code path (still images only)."""

    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    language_model_name = "language_model"
    chat_image = "<|vision_start|><|image_pad|><|vision_end|>"

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """What the image processor makes of it; see `BackboneFamily.prepare_image`."""
        made = image_processor(images=[image], return_tensors="pt")
        return made["pixel_values"], tuple(made["image_grid_thw"][0].tolist())

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The tower with its merger."""
        return [vlm.visual]

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """`<|vision_start|>`, one `<|image_pad|>` per merged patch, `<|vision_end|>`."""
        start, pad, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"])
        length = int(grid[0]) * int(grid[1]) * int(grid[2]) // image_processor.merge_size**2
        return [start] + [pad] * length + [end]

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`t * h * w / merge**2` placeholders per image."""
        return grid.prod(-1) // config.vision_config.spatial_merge_size**2

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, patch_dim)` -> merged features; Qwen3-VL also yields its deepstack features."""
        output = vlm.get_image_features(pixel_values, grid, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        return ImageFeatures(_joined(output.pooler_output), grid, tuple(_joined(layer) for layer in layers))

    def positions_taken(self, config: Any, length: int, grid: Sequence[int] | None) -> int:
        """A text token takes one position, an image the longer of its merged sides; see `multimodal_positions`."""
        if grid is None:
            return length
        merge = config.vision_config.spatial_merge_size
        rows, columns = int(grid[1]) // merge, int(grid[2]) // merge
        return length - rows * columns + max(rows, columns)

    def run(
        self,
        vlm: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        images: ImageFeatures | None,
        prefix: RowPrefix | None = None,
    ) -> Tensor:
        """Embed tokens, put the image features in place, run the language model; see `BackboneFamily.run`."""
        placeholders = input_ids == vlm.config.image_token_id
        embedded = _embedded(vlm, input_ids, placeholders, images)
        positions = _positions(vlm, attention_mask, placeholders, images)
        arguments = padded_arguments(attention_mask, positions, prefix)
        return vlm.language_model(**embedded, **arguments).last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`.

        The backbones take positions of four kinds for packed rows, first the place in the row.
        """
        real = attention_mask.bool()
        placeholders = input_ids == vlm.config.image_token_id
        place = plain_positions(attention_mask)
        positions = torch.cat([place[None], _positions(vlm, attention_mask, placeholders, images)])
        embedded = _embedded(vlm, input_ids[real][None], placeholders[real][None], images)
        return vlm.language_model(**embedded, **packed_arguments(attention_mask, positions)).last_hidden_state[0]

    def prepare_backbone(self, vlm: Any) -> None:
        """Cut patches are embedded by one matrix product instead of a 3D convolution."""
        projection = vlm.visual.patch_embed.proj
        if type(projection) is torch.nn.Conv3d and projection.kernel_size == projection.stride:
            projection.__class__ = PatchProjection

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configuration, whose names differ between generations."""
        text, vision = vlm.language_model.config, vlm.visual.config
        heads = text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
        width = getattr(vision, "embed_dim", None) or vision.hidden_size
        mlp_width = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        eager = [part._attn_implementation == "eager" for part in (text, vision)]
        return (
            Sizes(text.hidden_size, text.intermediate_size, heads, head_size, writes_scores=eager[0]),
            Sizes(width, mlp_width, vision.num_heads, width // vision.num_heads, patch, eager[1]),
        )


class PatchProjection(torch.nn.Conv3d):
    """A convolution whose stride is its kernel, for inputs of just one kernel: a matrix product.

    Convolution kernels take several times as long for the same numbers.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(n_patches, channels, t, h, w)` -> `(n_patches, width, 1, 1, 1)`."""
        if input.shape[2:] != self.weight.shape[2:]:
            return super().forward(input)
        made = torch.nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return made[:, :, None, None, None]


def _embedded(vlm: Any, input_ids: Tensor, placeholders: Tensor, images: ImageFeatures | None) -> dict[str, Any]:
    """What the language model reads: token embeddings, image features in place of the placeholders."""
    embeds = place_images(vlm.get_input_embeddings()(input_ids), placeholders, images)
    if images is None or not images.layers or not len(images.grid):
        return {"inputs_embeds": embeds}
    return {
        "inputs_embeds": embeds,
        "visual_pos_masks": placeholders,
        "deepstack_visual_embeds": [layer.to(embeds.dtype) for layer in images.layers],
    }


def _positions(vlm: Any, attention_mask: Tensor, placeholders: Tensor, images: ImageFeatures | None) -> Tensor:
    grid = images.grid if images is not None and len(images.grid) else None
    return multimodal_positions(attention_mask, placeholders, grid, vlm.config.vision_config.spatial_merge_size)


def _joined(features: Any) -> Tensor:
    """One `(n_tokens, hidden)` tensor from one per image, or (deepstack in transformers 5.17) from one for all."""
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))


def multimodal_positions(attention_mask: Tensor, placeholders: Tensor, grid: Tensor | None, merge_size: int) -> Tensor:
    """Qwen-VL's rotary positions for still images, for all rows at once.

    A text token advances the position by one; an image's tokens share one start and spread over height and width,
    and together advance by `max(height, width)` in merged patches. Same numbers as the backbones' own
    `get_rope_index` (which loops over tokens in Python, and whose signature changes between generations).

    Args:
        attention_mask: `(rows, length)`, 1 for real tokens.
        placeholders: `(rows, length)` bool, image tokens.
        grid: `(n_images, 3)` in placeholder order, or `None` without images.
        merge_size: vision patches per merged patch and side.

    Returns:
        `(3, rows, length)` long: temporal, height and width positions; 0 on padding.
    """
    advance = attention_mask.long().clone()  # `long()` of a long tensor is the caller's own
    height = torch.zeros_like(advance)
    width = torch.zeros_like(advance)
    if grid is not None:
        rows, columns = grid[:, 1] // merge_size, grid[:, 2] // merge_size
        lengths = rows * columns
        first = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
        within = torch.arange(len(first), device=grid.device) - first
        columns_of = torch.repeat_interleave(columns, lengths)
        is_last = within == torch.repeat_interleave(lengths, lengths) - 1
        height[placeholders] = within // columns_of
        width[placeholders] = within % columns_of
        steps = torch.repeat_interleave(torch.maximum(rows, columns), lengths)
        advance[placeholders] = torch.where(is_last, steps, torch.zeros_like(steps))
    start = torch.cumsum(advance, -1) - advance
    positions = torch.stack([start, start + height, start + width])
    return positions * attention_mask.long()
