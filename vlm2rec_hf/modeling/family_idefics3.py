"""Idefics3 and SmolVLM: square images behind one global tag, plain rotary positions."""

from collections.abc import Sequence
from typing import Any

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


class Idefics3Family(BackboneFamily):
    """Idefics3 and SmolVLM (still images only).

    An image is brought to the one square the vision tower reads (`max_image_size` of the image processor) and never
    split into tiles (our choice: a tile costs as much as an image, and a history holds many images).
    """

    model_types = ("idefics3", "smolvlm")
    language_model_name = "text_model"
    chat_image = "<image>"

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note `patch_size` and `scale_factor`, which the library's image processors do not hold; they are saved."""
        image_processor.patch_size = config.vision_config.patch_size
        image_processor.scale_factor = config.scale_factor

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Resize to the square in one step; see `BackboneFamily.prepare_image`."""
        patch, scale = _sizes(image_processor)
        # `do_resize` stands for the step before tiles are cut; the resizing to the square is always done.
        made = image_processor(images=[[image]], do_resize=False, do_image_splitting=False, return_tensors="pt")
        pixels = made["pixel_values"][0, 0]
        patches, (_, height, width) = cut_patches(pixels, patch)
        if height != width or height % scale:
            raise ValueError(
                f"`image_processor.max_image_size` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but images "
                f"must be squares whose edge is a multiple of patch_size * scale_factor = {patch * scale}."
            )
        return patches, (1, height, width)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """The global tag and one `<image>` per shuffled patch, between two `<fake_token_around_image>`."""
        _, scale = _sizes(image_processor)
        around, pad = tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<image>"])
        # Idefics3-8B has no token for the tag: it is a few tokens there.
        tag = tokenizer("<global-img>", add_special_tokens=False)["input_ids"]
        return [around, *tag, *[pad] * (int(grid[1]) * int(grid[2]) // scale**2), around]

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`h * w / scale_factor**2` placeholders per image."""
        return grid.prod(-1) // config.scale_factor**2

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The tower and the connector behind it."""
        return [vlm.vision_model, vlm.connector]

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, 3 * patch**2)` -> features behind the connector.

        The tower is called directly: the backbone's `get_image_features` leaves out images that are zero throughout.
        """
        pixels = fold_patches(pixel_values, grid, vlm.config.vision_config.patch_size)
        states = vlm.vision_model(pixel_values=pixels, return_dict=True).last_hidden_state
        return ImageFeatures(vlm.connector(states).flatten(0, 1), grid)

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
        embeds = place_images(vlm.get_input_embeddings()(input_ids), placeholders, images)
        arguments = padded_arguments(attention_mask, plain_positions(attention_mask), prefix)
        return vlm.text_model(inputs_embeds=embeds, **arguments).last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`."""
        packed = input_ids[attention_mask.bool()][None]
        placeholders = packed == vlm.config.image_token_id
        embeds = place_images(vlm.get_input_embeddings()(packed), placeholders, images)
        arguments = packed_arguments(attention_mask, plain_positions(attention_mask))
        return vlm.text_model(inputs_embeds=embeds, **arguments).last_hidden_state[0]

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configuration."""
        return read_sizes(vlm.text_model.config, vlm.vision_model.config)


def _sizes(image_processor: Any) -> tuple[int, int]:
    """`patch_size` and `scale_factor` as noted on the image processor."""
    sizes = getattr(image_processor, "patch_size", None), getattr(image_processor, "scale_factor", None)
    if None in sizes:
        raise ValueError(
            "`image_processor` does not say the backbone's `patch_size` and `scale_factor`; make the processor with "
            "`VLM2RecProcessor.from_backbone`, or set both on the image processor."
        )
    return int(sizes[0]), int(sizes[1])  # type: ignore[arg-type]
