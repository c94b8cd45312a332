"""Idefics3 and SmolVLM: square pictures behind one global tag, plain rotary positions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .families_vlm2rec import BackboneFamily, ImageFeatures, RowPrefix, Sizes, is_right_padded, place_images


class Idefics3Family(BackboneFamily):
    """Idefics3 and SmolVLM (still pictures only).

    A picture is brought to the one square the vision tower reads (`max_image_size` of the image processor) and never
    split into tiles (our choice: a tile costs as much as a picture, and a history holds many pictures).
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
        height, width = pixels.shape[1] // patch, pixels.shape[2] // patch
        if height != width or height % scale:
            raise ValueError(
                f"`image_processor.max_image_size` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but pictures "
                f"must be squares whose edge is a multiple of patch_size * scale_factor = {patch * scale}."
            )
        pixels = pixels[:, : height * patch, : width * patch].reshape(-1, height, patch, width, patch)
        return pixels.permute(1, 3, 0, 2, 4).reshape(height * width, -1), (1, height, width)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """The global tag and one `<image>` per shuffled patch, between two `<fake_token_around_image>`."""
        _, scale = _sizes(image_processor)
        around, pad = tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<image>"])
        # Idefics3-8B has no token for the tag: it is a few tokens there.
        tag = tokenizer("<global-img>", add_special_tokens=False)["input_ids"]
        return [around, *tag, *[pad] * (int(grid[1]) * int(grid[2]) // scale**2), around]

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`h * w / scale_factor**2` placeholders per picture."""
        return grid.prod(-1) // config.scale_factor**2

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The tower and the connector behind it."""
        return [vlm.vision_model, vlm.connector]

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, 3 * patch**2)` -> features behind the connector.

        The tower is called directly: the backbone's `get_image_features` leaves out pictures that are zero throughout.
        """
        pixels = _squares(pixel_values, grid, vlm.config.vision_config.patch_size)
        states = vlm.vision_model(pixel_values=pixels, return_dict=True).last_hidden_state
        return ImageFeatures(vlm.connector(states).flatten(0, 1), grid)

    def generation_inputs(
        self, config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None
    ) -> dict[str, Tensor]:
        """Pictures as `(rows, 1, 3, height, width)`."""
        if pixel_values is None or grid is None:
            return {}
        return {"pixel_values": _squares(pixel_values, grid, config.vision_config.patch_size).unsqueeze(1)}

    def run(
        self,
        vlm: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        images: ImageFeatures | None,
        prefix: RowPrefix | None = None,
    ) -> Tensor:
        """Embed tokens, put the picture features in place, run the language model; see `BackboneFamily.run`."""
        placeholders = input_ids == vlm.config.image_token_id
        embeds = place_images(vlm.get_input_embeddings()(input_ids), placeholders, images)
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if prefix is not None:
            positions = positions + prefix.position[:, None]
            attention_mask = torch.cat([prefix.mask, attention_mask], dim=-1)
        # Nothing real ever looks behind itself, so right-padded rows need no mask.
        output = vlm.text_model(
            inputs_embeds=embeds,
            attention_mask=None if is_right_padded(attention_mask) else attention_mask,
            position_ids=positions,
            past_key_values=None if prefix is None else prefix.cache,
            use_cache=prefix is not None,
        )
        return output.last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`; where positions restart, every attention implementation ends a row."""
        real = attention_mask.bool()
        lengths = real.sum(-1)
        ends = torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0)).int()
        longest = int(lengths.max())
        packed = input_ids[real][None]
        output = vlm.text_model(
            inputs_embeds=place_images(
                vlm.get_input_embeddings()(packed), packed == vlm.config.image_token_id, images
            ),
            attention_mask=None,
            position_ids=(attention_mask.long().cumsum(-1) - 1)[real][None],
            use_cache=False,
            cu_seq_lens_q=ends,
            cu_seq_lens_k=ends,
            max_length_q=longest,
            max_length_k=longest,
        )
        return output.last_hidden_state[0]

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configuration."""
        text, vision = vlm.text_model.config, vlm.vision_model.config
        found = []
        for part, patch in ((text, 0), (vision, vision.num_channels * vision.patch_size**2)):
            head_size = getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads
            eager = part._attn_implementation == "eager"
            found.append(
                Sizes(part.hidden_size, part.intermediate_size, part.num_attention_heads, head_size, patch, eager)
            )
        return tuple(found)


def _squares(pixel_values: Tensor, grid: Tensor, patch: int) -> Tensor:
    """Patches `(n_patches, 3 * patch**2)` put together again: `(n_images, 3, height, width)`."""
    if bool((grid != grid[0]).any()):
        raise ValueError("`image_grid_thw` holds pictures of different sizes; prepare all with one processor.")
    _, height, width = grid[0].tolist()
    pixels = pixel_values.view(len(grid), height, width, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(len(grid), -1, height * patch, width * patch)


def _sizes(image_processor: Any) -> tuple[int, int]:
    """`patch_size` and `scale_factor` as noted on the image processor."""
    sizes = getattr(image_processor, "patch_size", None), getattr(image_processor, "scale_factor", None)
    if None in sizes:
        raise ValueError(
            "`image_processor` does not say the backbone's `patch_size` and `scale_factor`; make the processor with "
            "`VLM2RecProcessor.from_backbone`, or set both on the image processor."
        )
    return int(sizes[0]), int(sizes[1])  # type: ignore[arg-type]
