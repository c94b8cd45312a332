"""PaliGemma and PaliGemma 2: a SigLIP image in one square, a Gemma language model, read causally."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask

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


class PaliGemmaFamily(BackboneFamily):
    """PaliGemma (Gemma) and PaliGemma 2 (Gemma 2).

    They were pretrained with attention in both directions over the prompt. Here every token sees only what stands
    before it (our choice): a history's vector may not depend on what follows it, and a prefix can be kept. Training
    adapts them to that; untrained they differ from the pretrained model. Writing with the backbone's own
    `generate` keeps the prompt bidirectional.
    """

    model_types = ("paligemma",)
    language_model_name = "language_model"
    windows_by_place = True
    chat_image = "<image>"

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note `patch_size`, which SigLIP's image processors do not hold; it is saved."""
        image_processor.patch_size = config.vision_config.patch_size

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Resize to the image processor's `size`, the aspect not kept; see `BackboneFamily.prepare_image`."""
        patch = getattr(image_processor, "patch_size", None)
        if patch is None:
            raise ValueError(
                "`image_processor` does not say the backbone's `patch_size`; make the processor with "
                "`VLM2RecProcessor.from_backbone`, or set it on the image processor."
            )
        pixels = image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
        if pixels.shape[1] % patch or pixels.shape[2] % patch:
            raise ValueError(
                f"`image_processor.size` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but both sides must be "
                f"multiples of patch_size = {patch}."
            )
        return cut_patches(pixels, patch)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """One `<image>` per patch and the `<bos>` that stands behind an image in PaliGemma's own rows."""
        pad, end = tokenizer.convert_tokens_to_ids(["<image>", "<bos>"])
        return [*[pad] * (int(grid[1]) * int(grid[2])), end]

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`h * w` placeholders per image."""
        return grid.prod(-1)

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The tower and the projector behind it."""
        return [vlm.vision_tower, vlm.multi_modal_projector]

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, 3 * patch**2)` -> features behind the projector, of the size of embeddings.

        Positions are interpolated where images are not of the size that the tower was trained with.
        """
        pixels = fold_patches(pixel_values, grid, vlm.config.vision_config.patch_size)
        states = vlm.vision_tower(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
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
        arguments = padded_arguments(attention_mask, plain_positions(attention_mask) + 1, prefix)
        model = _language_model(vlm)
        if arguments["attention_mask"] is not None and prefix is not None:
            arguments["attention_mask"] = _within_window(model.config, embeds, arguments)
        return model(inputs_embeds=embeds, is_causal=True, **arguments).last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`."""
        embeds = _embedded(vlm, input_ids[attention_mask.bool()][None], images)
        arguments = packed_arguments(attention_mask, plain_positions(attention_mask) + 1)
        return _language_model(vlm)(inputs_embeds=embeds, is_causal=True, **arguments).last_hidden_state[0]

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configuration."""
        return read_sizes(_language_model(vlm).config, vlm.vision_tower.config)


def _language_model(vlm: Any) -> Any:
    """Gemma; Gemma 2 never with SDPA, which leaves out its cap on attention scores or refuses to run.

    `is_causal` is passed at each call, because PaliGemma's configuration makes its attention kernels bidirectional.
    """
    config = vlm.language_model.config
    if config._attn_implementation == "sdpa" and getattr(config, "attn_logit_softcapping", None) is not None:
        config._attn_implementation = "eager"
    return vlm.language_model


def _embedded(vlm: Any, input_ids: Tensor, images: ImageFeatures | None) -> Tensor:
    """Token embeddings (which Gemma scales as it looks them up), image features in place of the placeholders."""
    placeholders = input_ids == vlm.config.image_token_id
    return place_images(vlm.get_input_embeddings()(input_ids), placeholders, images)


def _within_window(config: Any, embeds: Tensor, arguments: dict[str, Any]) -> Any:
    """The attention mask, or one per kind of layer where rows behind prefixes outgrow the sliding window.

    The library measures a window in slots of the cache. Rows whose prefixes differ in length have empty slots in
    between, which must not count. Flash attention takes them out itself.
    """
    mask, window = arguments["attention_mask"], getattr(config, "sliding_window", None)
    if window is None or mask.shape[1] <= window or "flash" in config._attn_implementation:
        return mask
    place = mask.long().cumsum(-1)

    def near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return place[row, query] - place[row, key] < window

    given = (config, embeds, mask, arguments["past_key_values"], arguments["position_ids"])
    return {
        "full_attention": create_causal_mask(*given),
        "sliding_attention": create_causal_mask(*given, and_mask_function=near),
    }
