"""Backbones put together of a language model and images as features: given ones, or a frozen image encoder's."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from transformers import AutoConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .configuration_parts import IMAGE_TOKEN, PartsConfig
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
)
from .modeling_parts import PartsModel, encoder_config, load_parts, parts_tokenizer


class FeatureReader(BaseImageProcessor):
    """The image processor of models whose images come as features: it checks them.

    Args:
        feature_size: width of a feature.
        kwargs: kept for the library's loading code.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, feature_size: int = 768, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_size = feature_size

    def read(self, features: np.ndarray) -> Tensor:
        """`(n, feature_size)` numbers as a float32 tensor.

        Raises:
            ValueError: features of another width.
        """
        if features.shape[1] != self.feature_size:
            raise ValueError(
                f"`image_features` of an item are {features.shape[1]} wide, but this model reads features of width "
                f"{self.feature_size}; give it those of the encoder that it was made for."
            )
        return torch.from_numpy(np.ascontiguousarray(features))


AutoImageProcessor.register(PartsConfig, image_processor_classes={"pil": FeatureReader}, exist_ok=True)


class PartsFamily(BackboneFamily):
    """`PartsModel`: every feature of an image is one token, and positions are counted as in text."""

    model_types = ("vlm2rec_parts",)
    language_model_name = "language_model"
    chat_image = IMAGE_TOKEN
    trained_beside_adapters = ("image_projector",)

    def configure(self, model_type: str, options: dict[str, Any]) -> Any:
        """Ours by name; see `build`."""
        return PartsConfig(**options)

    def load(self, *parts: Any) -> tuple[Any, str | None]:
        """See `load_parts`."""
        return load_parts(*parts)

    def read(
        self,
        language_model: tuple[str, str | None],
        encoder: tuple[str | None, str | None],
        feature_size: int | None,
        tokens_per_image: int,
    ) -> tuple[Any, Any]:
        """The image processor of an encoder, or a `FeatureReader`, and the language model's tokenizer.

        Args:
            language_model: Hub id or folder, and revision.
            encoder: likewise.
            feature_size: of given features.
            tokens_per_image: of an encoder.

        Raises:
            ValueError: neither or both of `image_encoder` and `feature_size`.
        """
        where, revision = encoder
        if (where is None) == (feature_size is None):
            raise ValueError("Name exactly one of `image_encoder` and `feature_size`, as for the embedder.")
        tokenizer = parts_tokenizer(*language_model)
        if where is None:
            return FeatureReader(int(feature_size or 0)), tokenizer
        vision = encoder_config(AutoConfig.from_pretrained(where, revision=revision))
        image_processor = AutoImageProcessor.from_pretrained(where, revision=revision)
        self.set_up_image_processor(
            image_processor, PartsConfig(vision_config=vision, tokens_per_image=tokens_per_image)
        )
        return image_processor, tokenizer

    def build(self, config: Any) -> Any:
        """Ours by name: of a repo's own code the library may hold several copies, and finds a model for one only."""
        return PartsModel(config)

    def set_up_image_processor(self, image_processor: Any, config: Any) -> None:
        """Note the encoder's `patch_size` and the `tokens_per_image`, which are saved."""
        if config.vision_config is not None:
            # A network without patches reads images of any size: they are cut for the way only.
            image_processor.patch_size = int(getattr(config.vision_config, "patch_size", None) or 8)
            image_processor.tokens_per_image = config.tokens_per_image

    def reads_features(self, image_processor: Any) -> bool:
        """Whether there is no image encoder."""
        return hasattr(image_processor, "feature_size")

    def prepare_image(self, image_processor: Any, image: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Features, one row each on a grid `(1, 1, n)`, or an image's patches; see `BackboneFamily.prepare_image`."""
        if self.reads_features(image_processor):
            rows = image_processor.read(image)
            return rows, (1, 1, len(rows))
        pixels = torch.as_tensor(np.asarray(image_processor(images=[image], return_tensors="np")["pixel_values"][0]))
        patch = image_processor.patch_size
        if pixels.shape[1] % patch or pixels.shape[2] % patch:
            raise ValueError(
                f"`image_processor` gives {pixels.shape[2]} x {pixels.shape[1]} pixels, but both sides must be "
                f"multiples of patch_size = {patch}; set its `size` (and `crop_size`)."
            )
        return cut_patches(pixels, patch)

    def image_block(self, tokenizer: Any, image_processor: Any, grid: Sequence[int]) -> list[int]:
        """One `IMAGE_TOKEN` per feature."""
        given = self.reads_features(image_processor)
        length = int(grid[2]) if given else image_processor.tokens_per_image
        return [tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * length

    def tokens_per_image(self, config: Any, grid: Tensor) -> Tensor:
        """As many as there are features: given ones stand in the grid, an encoder's are always the same number."""
        if config.vision_config is None:
            return grid.prod(-1)
        return torch.full_like(grid[:, 0], config.tokens_per_image)

    def vision_modules(self, vlm: Any) -> list[Any]:
        """The image encoder; the projector belongs to what trains."""
        return [vlm.vision_tower]

    def encode_images(self, vlm: Any, pixel_values: Tensor, grid: Tensor) -> ImageFeatures:
        """Features before the projector, `(n_tokens, feature_size)`.

        The patch states of an encoder are averaged over a grid of `tokens_per_image` cells that is as square as can
        be; what stands before the patches (CLS, registers) is left out (our choice).
        """
        config = vlm.config
        if config.vision_config is None:
            return ImageFeatures(vlm.vision_tower(pixel_values), grid)
        patch = int(getattr(config.vision_config, "patch_size", None) or 8)
        pixels = fold_patches(pixel_values, grid, patch)
        resizes = "interpolate_pos_encoding" in inspect.signature(vlm.vision_tower.forward).parameters
        options = {"interpolate_pos_encoding": True} if resizes else {}
        states = vlm.vision_tower(pixel_values=pixels, **options).last_hidden_state
        if states.dim() == 3:
            _, height, width = grid[0].tolist()
            if states.shape[1] < height * width:
                raise ValueError(
                    f"`image_encoder` has model_type {config.vision_config.model_type!r}, which gives "
                    f"{states.shape[1]} states for {height * width} patches; use one that keeps its patches."
                )
            states = states[:, -height * width :].unflatten(1, (height, width)).permute(0, 3, 1, 2)
        pooled = adaptive_avg_pool2d(states, square_grid(config.tokens_per_image))
        return ImageFeatures(pooled.flatten(2).transpose(1, 2).flatten(0, 1), grid)

    def run(
        self,
        vlm: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        images: ImageFeatures | None,
        prefix: RowPrefix | None = None,
    ) -> Tensor:
        """Embed tokens, put the projected features in place, run the language model; see `BackboneFamily.run`."""
        arguments = padded_arguments(attention_mask, plain_positions(attention_mask), prefix)
        return vlm.language_model(inputs_embeds=_embedded(vlm, input_ids, images), **arguments).last_hidden_state

    def run_packed(self, vlm: Any, input_ids: Tensor, attention_mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """See `BackboneFamily.run_packed`."""
        embeds = _embedded(vlm, input_ids[attention_mask.bool()][None], images)
        arguments = packed_arguments(attention_mask, plain_positions(attention_mask))
        return vlm.language_model(inputs_embeds=embeds, **arguments).last_hidden_state[0]

    def prepare_backbone(self, vlm: Any) -> None:
        """Refuse language models that cannot run over rows of features.

        Raises:
            ValueError: one that takes no embeddings, positions or keys and values.
        """
        taken = inspect.signature(vlm.language_model.forward).parameters
        if lacking := [n for n in ("inputs_embeds", "position_ids", "past_key_values") if n not in taken]:
            raise ValueError(
                f"`language_model` has model_type {vlm.config.get_text_config().model_type!r}, which takes no "
                f"{' and no '.join(lacking)}; use a causal decoder such as Qwen3, SmolLM2 or Gemma 3."
            )

    def sizes(self, vlm: Any) -> tuple[Sizes, ...]:
        """Read off the configurations, with the usual ratios where one does not say."""
        parts: list[Any] = [vlm.language_model.config]
        parts += [vlm.vision_tower.config] if vlm.config.vision_config is not None else []
        return tuple(_sizes(part) for part in parts)


def square_grid(cells: int) -> tuple[int, int]:
    """Rows and columns of a grid of so many cells, as square as can be, not higher than wide."""
    rows = max(n for n in range(1, int(cells**0.5) + 1) if cells % n == 0)
    return rows, cells // rows


def _sizes(config: Any) -> Sizes:
    width = int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])
    heads = getattr(config, "num_attention_heads", None) or 1
    heads = heads if isinstance(heads, int) else max(heads)
    mlp = getattr(config, "intermediate_size", None)
    mlp = mlp if isinstance(mlp, int) else 4 * width
    patch, channels = getattr(config, "patch_size", None) or 0, getattr(config, "num_channels", 0)
    head_size = getattr(config, "head_dim", None) or width // heads
    return Sizes(width, mlp, heads, head_size, channels * patch**2, config._attn_implementation == "eager")


def _embedded(vlm: Any, input_ids: Tensor, images: ImageFeatures | None) -> Tensor:
    """Token embeddings with projected features in place of the placeholders, which are not looked up."""
    placeholders = input_ids == vlm.config.image_token_id
    embeds = vlm.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
    if images is None or not len(images.grid):
        return embeds
    tokens = vlm.image_projector(images.tokens)
    return place_images(embeds, placeholders, ImageFeatures(tokens, images.grid))
