"""What differs between families of vision-language backbones, chosen once at construction.

A family says what a prepared picture is (`prepare_image`), which tokens stand for one in a row (`image_block`), how
pictures become features (`encode_images`), how the language model runs over a row in which those features stand
(`run`), and which parts of the backbone are which (`vision_modules`, `language_model_name`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class ImageFeatures:
    """Vision features of a batch of pictures, in row-major token order.

    Attributes:
        tokens: `(n_tokens, hidden)` features that replace the picture placeholders.
        grid: `(n_images, 3)` long; temporal, height and width of each picture in vision patches.
        layers: deeper features added inside the language model (Qwen3-VL's deepstack), each `(n_tokens, hidden)`.
    """

    tokens: Tensor
    grid: Tensor
    layers: tuple[Tensor, ...] = ()

    def select(self, index: Tensor, lengths: Tensor) -> "ImageFeatures":
        """The features of pictures `index` (repeats allowed), in that order; `lengths` are tokens per picture."""
        starts = torch.cumsum(lengths, 0) - lengths
        chosen = lengths[index]
        offsets = torch.cumsum(chosen, 0) - chosen
        within = torch.arange(int(chosen.sum()), device=index.device) - torch.repeat_interleave(offsets, chosen)
        rows = torch.repeat_interleave(starts[index], chosen) + within
        return ImageFeatures(self.tokens[rows], self.grid[index], tuple(layer[rows] for layer in self.layers))


class BackboneFamily:
    """Interface of a family; subclasses override all methods and list their `model_types`."""

    model_types: tuple[str, ...] = ()
    language_model_name: str = ""
    """Attribute of the backbone that holds its language model; adapters are put there."""
    chat_image: str = ""
    """What stands for a picture in the text that the backbone's chat template writes."""

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note on an image processor what it must know of the backbone and does not; nothing by default."""

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Preprocess one picture.

        Args:
            image_processor: the backbone's.
            image: an RGB `PIL.Image.Image`.

        Returns:
            `(t * h * w, patch_dim)` pixels, one row per vision patch, and the grid `(t, h, w)`.
        """
        raise NotImplementedError

    def vision_modules(self, vlm: Any) -> list[Any]:
        """All modules that pictures pass before they stand in a row; their dtype is that of the first."""
        raise NotImplementedError

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """Token ids that stand for one picture of vision grid `(t, h, w)`, wrapping tokens included."""
        raise NotImplementedError

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """Placeholders per picture: `(n_images, 3)` long -> `(n_images,)` long."""
        raise NotImplementedError

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """Run the vision tower: `pixel_values` as the family's image processor makes them."""
        raise NotImplementedError

    def generation_inputs(
        self, config: Any, input_ids: Tensor, pixel_values: Tensor | None, grid: Tensor | None
    ) -> dict[str, Tensor]:
        """Keyword arguments besides `input_ids` and `attention_mask` for the backbone's own `generate`.

        Args:
            config: of the backbone.
            input_ids: `(rows, length)`, with the tokens of `image_block` where a picture stands.
            pixel_values: pictures as `prepare_image` gives them, one per row, or `None` without pictures.
            grid: `(rows, 3)`, or `None`.
        """
        raise NotImplementedError

    def run(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """Final-norm hidden states `(rows, length, hidden)`; `images` in the order of the placeholders."""
        raise NotImplementedError


def place_images(embeds: Tensor, placeholders: Tensor, images: ImageFeatures | None) -> Tensor:
    """Put picture features in place of their placeholders.

    Args:
        embeds: `(rows, length, hidden)` token embeddings.
        placeholders: `(rows, length)` bool.
        images: features in the order of the placeholders, or `None` without pictures.

    Raises:
        ValueError: another number of placeholders than of features.
    """
    if images is None or not len(images.grid):
        return embeds
    if int(placeholders.sum()) != len(images.tokens):
        raise ValueError(
            f"The rows hold {int(placeholders.sum())} picture placeholders but `pixel_values` gives "
            f"{len(images.tokens)} features: was a row truncated inside a picture?"
        )
    return embeds.masked_scatter(placeholders.unsqueeze(-1), images.tokens.to(embeds.dtype))


def is_right_padded(attention_mask: Tensor) -> bool:
    """Whether every row of `(rows, length)` begins with all of its real tokens."""
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def families() -> tuple[type[BackboneFamily], ...]:
    """All families there are."""
    from .family_idefics3 import Idefics3Family
    from .family_qwen_vl import QwenVLFamily

    return (QwenVLFamily, Idefics3Family)


def family_of(model_type: str) -> BackboneFamily:
    """The family of a backbone's `model_type`.

    Raises:
        ValueError: no family knows this `model_type`.
    """
    for family in families():
        if model_type in family.model_types:
            return family()
    known = sorted(name for family in families() for name in family.model_types)
    raise ValueError(f"`vlm_config` has model_type {model_type!r}; supported backbones are {known}.")
