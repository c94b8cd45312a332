"""What differs between families of vision-language backbones, chosen once at construction.

A family answers three questions: which tokens stand for a picture in a row (`image_block`), how pictures become
features (`encode_images`), and how the language model runs over a row in which those features stand (`run`).
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


@dataclass
class Sizes:
    """What the memory that a part of a backbone takes per token depends on.

    Attributes:
        width: of the residual stream.
        mlp_width: inside the MLP.
        heads: of attention.
        head_size: numbers per head.
        input_width: numbers per input that are not yet tokens (pixels of a patch).
        writes_scores: attention holds all of its scores in memory.
    """

    width: int
    mlp_width: int
    heads: int
    head_size: int
    input_width: int = 0
    writes_scores: bool = False


class BackboneFamily:
    """Interface of a family; subclasses override all methods and list their `model_types`."""

    model_types: tuple[str, ...] = ()

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """Token ids that stand for one picture of vision grid `(t, h, w)`, wrapping tokens included."""
        raise NotImplementedError

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """Placeholders per picture: `(n_images, 3)` long -> `(n_images,)` long."""
        raise NotImplementedError

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """Run the vision tower: `pixel_values` as the family's image processor makes them."""
        raise NotImplementedError

    def run(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """Final-norm hidden states `(rows, length, hidden)`; `images` in the order of the placeholders."""
        raise NotImplementedError

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """As `run`, on one long row without the padding: final-norm states `(n_tokens, hidden)`, row after row."""
        raise NotImplementedError

    def prepare_backbone(self, vlm: Any) -> None:
        """Replace what the backbone does slowly by what gives the same numbers; its weights and their names stay."""

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Sizes of the language model and of the vision tower."""
        raise NotImplementedError


def family_of(model_type: str) -> BackboneFamily:
    """The family of a backbone's `model_type`.

    Raises:
        ValueError: no family knows this `model_type`.
    """
    from .family_qwen_vl import QwenVLFamily

    families = (QwenVLFamily,)
    for family in families:
        if model_type in family.model_types:
            return family()
    known = sorted(name for family in families for name in family.model_types)
    raise ValueError(f"`vlm_config` has model_type {model_type!r}; supported backbones are {known}.")
