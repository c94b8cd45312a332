"""Gemma 3: a SigLIP image in one square, pooled to a few hundred tokens between two marks, read causally."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .family_paligemma import PaliGemmaFamily
from .family_vlm2rec import ImageFeatures, cut_patches, fold_patches


class Gemma3Family(PaliGemmaFamily):
    """Gemma 3 with images (`gemma3`); its text-only sizes have another `model_type`.

    The tokens of an image were pretrained to see one another in both directions. Here every token sees only what
    stands before it (our choice, as with PaliGemma), and images are not cut into crops ("pan and scan").
    """

    model_types = ("gemma3",)
    chat_image = "<start_of_image>"

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note `patch_size`, `image_size` and `image_tokens`, which its image processor does not hold; saved."""
        image_processor.patch_size = config.vision_config.patch_size
        image_processor.image_size = config.vision_config.image_size
        image_processor.image_tokens = config.mm_tokens_per_image

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Resize to the one square the projector pools, the aspect not kept; see `BackboneFamily.prepare_image`."""
        patch, edge, _ = _noted(image_processor)
        made = image_processor(images=[image], do_pan_and_scan=False, return_tensors="pt")
        pixels = made["pixel_values"][0]
        if tuple(pixels.shape[1:]) != (edge, edge):
            raise ValueError(
                f"`image_processor.size` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but Gemma 3 pools images "
                f"of just {edge} x {edge}."
            )
        return cut_patches(pixels, patch)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """`<start_of_image>`, one `<image_soft_token>` per feature, `<end_of_image>`, between two blank lines."""
        names = ["<start_of_image>", "<image_soft_token>", "<end_of_image>"]
        start, pad, end = tokenizer.convert_tokens_to_ids(names)
        lines = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
        return [*lines, start, *[pad] * _noted(image_processor)[2], end, *lines]

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """`mm_tokens_per_image` placeholders per image."""
        return grid.new_full((len(grid),), config.mm_tokens_per_image)

    def prepare_backbone(self, vlm: Any) -> None:
        """Nothing is replaced.

        Raises:
            ValueError: a language model that was made to see all tokens in both directions.
        """
        if getattr(vlm.config.get_text_config(), "use_bidirectional_attention", False):
            raise ValueError(
                "`use_bidirectional_attention` of the backbone is True, but rows are read causally here, each click's "
                "vector from what stands before it; take a Gemma 3 without it."
            )

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """`pixel_values (n_patches, 3 * patch**2)` -> pooled features behind the projector, scaled as embeddings."""
        pixels = fold_patches(pixel_values, grid, vlm.config.vision_config.patch_size)
        states = vlm.vision_tower(pixel_values=pixels).last_hidden_state
        return ImageFeatures(vlm.multi_modal_projector(states).flatten(0, 1), grid)


def _noted(image_processor: Any) -> tuple[int, int, int]:
    """`patch_size`, `image_size` and `image_tokens` as noted on the image processor."""
    noted = [getattr(image_processor, name, None) for name in ("patch_size", "image_size", "image_tokens")]
    if None in noted:
        raise ValueError(
            "`image_processor` does not say the backbone's `patch_size`, `image_size` and `image_tokens`; make the "
            "processor with `VLM2RecProcessor.from_backbone`, or set all three on the image processor."
        )
    return int(noted[0]), int(noted[1]), int(noted[2])  # type: ignore[arg-type]
