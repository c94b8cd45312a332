"""What differs between families of vision-language backbones, chosen once at construction.

A family says what a prepared image is (`prepare_image`), which tokens stand for one in a row (`image_block`), how
images become features (`encode_images`), how the language model runs over a row in which those features stand
(`run`), where positions go on behind a piece of a row (`positions_taken`), and which parts of the backbone are which
(`vision_modules`, `language_model_name`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel


@dataclass
class ImageFeatures:
    """Vision features of a batch of images, in row-major token order.

    Attributes:
        tokens: `(n_tokens, hidden)` features that replace the image placeholders.
        grid: `(n_images, 3)` long; temporal, height and width of each image in vision patches.
        layers: deeper features added inside the language model (Qwen3-VL's deepstack), each `(n_tokens, hidden)`.
    """

    tokens: Tensor
    grid: Tensor
    layers: tuple[Tensor, ...] = ()

    def select(self, index: Tensor, lengths: Tensor) -> "ImageFeatures":
        """The features of images `index` (repeats allowed), in that order; `lengths` are tokens per image."""
        starts = torch.cumsum(lengths, 0) - lengths
        chosen = lengths[index]
        offsets = torch.cumsum(chosen, 0) - chosen
        within = torch.arange(int(chosen.sum()), device=index.device) - torch.repeat_interleave(offsets, chosen)
        rows = torch.repeat_interleave(starts[index], chosen) + within
        return ImageFeatures(self.tokens[rows], self.grid[index], tuple(layer[rows] for layer in self.layers))

    def split(self, lengths: Sequence[int]) -> list["ImageFeatures"]:
        """One per image, of `lengths` tokens each; views of these tensors."""
        layers = [layer.split(lengths) for layer in self.layers]
        return [
            ImageFeatures(tokens, self.grid[i : i + 1], tuple(layer[i] for layer in layers))
            for i, tokens in enumerate(self.tokens.split(lengths))
        ]

    @staticmethod
    def joined(features: Sequence["ImageFeatures"]) -> "ImageFeatures":
        """The images of several, which are on one device, one behind the other."""
        layers = zip(*(one.layers for one in features), strict=True)
        return ImageFeatures(
            torch.cat([one.tokens for one in features]),
            torch.cat([one.grid for one in features]),
            tuple(torch.cat(layer) for layer in layers),
        )

    def to(self, device: torch.device | str) -> "ImageFeatures":
        """The same on `device`."""
        return ImageFeatures(
            self.tokens.to(device), self.grid.to(device), tuple(layer.to(device) for layer in self.layers)
        )

    def clone(self) -> "ImageFeatures":
        """A copy that owns its memory: what `split` gives keeps the whole batch alive, and is pickled with it."""
        return ImageFeatures(self.tokens.clone(), self.grid.clone(), tuple(layer.clone() for layer in self.layers))

    @property
    def nbytes(self) -> int:
        """Memory of the features, without the grid's."""
        return sum(part.nbytes for part in (self.tokens, *self.layers))


@dataclass
class RowPrefix:
    """The prefix of rows that has been run already.

    Attributes:
        cache: a `transformers.Cache` with the keys and values of the prefixes; it takes up those of the new tokens.
        mask: `(rows, cached)` long, 1 where a slot of the cache belongs to the row.
        position: `(rows,)` long, the position of each row's first new token.
    """

    cache: Any
    mask: Tensor
    position: Tensor


@dataclass
class Sizes:
    """Sizes that decide how much memory a part of a backbone takes per token.

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
    """Interface of a family; subclasses list their `model_types` and override all methods.

    `positions_taken` need only be overridden where an image's tokens do not take one position each.
    """

    model_types: tuple[str, ...] = ()
    language_model_name: str = ""
    """Attribute of the backbone that holds its language model; adapters are put there."""
    windows_by_place: bool = False
    """Whether `run` behind a prefix counts sliding-window attention in tokens of the row; without it, in slots of the
    cache, which is wrong where rows of different lengths share one."""
    chat_image: str = ""
    """What stands for an image in the text that the backbone's chat template writes."""
    trained_beside_adapters: tuple[str, ...] = ()
    """Modules of the backbone that are new, and so train whole where adapters train."""

    def configure(self, model_type: str, options: dict[str, Any]) -> Any:
        """Configuration of a backbone of this family."""
        return AutoConfig.for_model(model_type, **options)

    def build(self, config: Any) -> Any:
        """A backbone of this configuration with random weights."""
        return AutoModel.from_config(config)

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Set on an image processor what it lacks of the backbone's settings; nothing by default."""

    def reads_features(self, image_processor: Any) -> bool:
        """Whether images come as features (`image_features` of an item) instead of pixels."""
        return False

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Preprocess one image.

        Args:
            image_processor: the backbone's.
            image: an RGB `PIL.Image.Image`, or features as `as_item` types them.

        Returns:
            `(t * h * w, patch_dim)` pixels, one row per vision patch, and the grid `(t, h, w)`.
        """
        raise NotImplementedError

    def vision_modules(self, vlm: Any) -> list[Any]:
        """All modules that images pass before they stand in a row; their dtype is that of the first."""
        raise NotImplementedError

    def language_model(self, vlm: Any) -> Any:
        """The language model of a backbone."""
        return getattr(vlm, self.language_model_name)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """Token ids that stand for one image of vision grid `(t, h, w)`, wrapping tokens included."""
        raise NotImplementedError

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """Placeholders per image: `(n_images, 3)` long -> `(n_images,)` long."""
        raise NotImplementedError

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """Run the vision tower: `pixel_values` as the family's image processor makes them."""
        raise NotImplementedError

    def run(
        self,
        vlm: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        images: ImageFeatures | None,
        prefix: RowPrefix | None = None,
    ) -> Tensor:
        """Final-norm hidden states `(rows, length, hidden)` of the given tokens.

        Args:
            vlm: the backbone.
            input_ids: `(rows, length)`; with a `prefix`, the tokens behind it, padded on the right.
            attention_mask: `(rows, length)`, 1 for real tokens among `input_ids`.
            images: features of the images in `input_ids`, in the order of the placeholders.
            prefix: what the rows begin with, where that has been run before; its cache takes up the new tokens.
        """
        raise NotImplementedError

    def positions_taken(self, config: Any, length: int, grid: Sequence[int] | None) -> int:
        """By how much a piece of a row moves the position of what follows.

        Args:
            config: the backbone's.
            length: tokens of the piece, an image's placeholders included.
            grid: vision grid `(t, h, w)` of the one image in the piece, or `None` without one.
        """
        return length

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """As `run`, on one long row without the padding: final-norm states `(n_tokens, hidden)`, row after row."""
        raise NotImplementedError

    def prepare_backbone(self, vlm: Any) -> None:
        """Replace slow parts of the backbone by faster ones with equal results; weights and names stay."""

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Sizes of the language model and of the vision tower."""
        raise NotImplementedError


def place_images(embeds: Tensor, placeholders: Tensor, images: ImageFeatures | None) -> Tensor:
    """Put image features in place of their placeholders.

    Args:
        embeds: `(rows, length, hidden)` token embeddings.
        placeholders: `(rows, length)` bool.
        images: features in the order of the placeholders, or `None` without images.

    Raises:
        ValueError: another number of placeholders than of features.
    """
    if images is None or not len(images.grid):
        return embeds
    if int(placeholders.sum()) != len(images.tokens):
        raise ValueError(
            f"The rows hold {int(placeholders.sum())} image placeholders but `pixel_values` gives "
            f"{len(images.tokens)} features: was a row truncated inside an image?"
        )
    return embeds.masked_scatter(placeholders.unsqueeze(-1), images.tokens.to(embeds.dtype))


def is_right_padded(attention_mask: Tensor) -> bool:
    """Whether every row of `(rows, length)` begins with all of its real tokens."""
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def plain_positions(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens from 0: `(rows, length)` -> `(rows, length)` long; 0 before a row begins."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def padded_arguments(attention_mask: Tensor, positions: Tensor, prefix: RowPrefix | None) -> dict[str, Any]:
    """Arguments of a language model for padded rows, besides their embeddings.

    Args:
        attention_mask: `(rows, length)` of the given tokens.
        positions: `(..., rows, length)` of these tokens, as if the rows began with them.
        prefix: as in `BackboneFamily.run`.
    """
    if prefix is not None:
        positions = positions + prefix.position[:, None]
        attention_mask = torch.cat([prefix.mask, attention_mask], dim=-1)
    return {
        # Behind a right-padded causal row nothing real ever looks at the padding, so no mask is needed: that leaves
        # the attention kernel its fast causal path.
        "attention_mask": None if is_right_padded(attention_mask) else attention_mask,
        "position_ids": positions,
        "past_key_values": None if prefix is None else prefix.cache,
        "use_cache": prefix is not None,
    }


def packed_arguments(attention_mask: Tensor, positions: Tensor) -> dict[str, Any]:
    """Arguments of a language model for rows packed behind one another without padding.

    Where positions restart, every attention implementation ends a row; flash attention gets the boundaries as well.

    Args:
        attention_mask: `(rows, length)` of the padded rows.
        positions: `(..., rows, length)` of the padded rows; of several kinds the first is the place in the row.
    """
    lengths = attention_mask.bool().sum(-1)
    ends = torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0)).int()
    longest = int(lengths.max())
    return {
        "attention_mask": None,
        "position_ids": positions[..., attention_mask.bool()].unsqueeze(-2),
        "use_cache": False,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def read_sizes(text: Any, vision: Any) -> tuple[Sizes, ...]:
    """`BackboneFamily.sizes` from configurations with the library's usual names."""
    positions = []
    for part, patch in ((text, 0), (vision, vision.num_channels * vision.patch_size**2)):
        head_size = getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads
        eager = part._attn_implementation == "eager"
        positions.append(
            Sizes(part.hidden_size, part.intermediate_size, part.num_attention_heads, head_size, patch, eager)
        )
    return tuple(positions)


def cut_patches(pixels: Tensor, patch: int) -> tuple[Tensor, tuple[int, int, int]]:
    """An image `(channels, height, width)` as `(n_patches, channels * patch**2)` rows, and its grid `(1, h, w)`."""
    height, width = pixels.shape[1] // patch, pixels.shape[2] // patch
    pixels = pixels[:, : height * patch, : width * patch].reshape(-1, height, patch, width, patch)
    return pixels.permute(1, 3, 0, 2, 4).reshape(height * width, -1), (1, height, width)


def fold_patches(pixel_values: Tensor, grid: Tensor, patch: int) -> Tensor:
    """Images of one size put together again: `(n_patches, channels * patch**2)` -> `(n_images, channels, H, W)`.

    Raises:
        ValueError: images of different sizes.
    """
    if bool((grid != grid[0]).any()):
        raise ValueError("`image_grid_thw` holds images of different sizes; prepare all with one processor.")
    _, height, width = grid[0].tolist()
    pixels = pixel_values.view(len(grid), height, width, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(len(grid), -1, height * patch, width * patch)
