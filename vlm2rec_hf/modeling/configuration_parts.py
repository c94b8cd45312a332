"""Configuration of a backbone that is put together: a language model, and images as features before a projector."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

IMAGE_TOKEN = "<|image_feature|>"
"""Stands in a row for one feature of an image; added to the language model's tokenizer."""


@strict
class PartsConfig(PreTrainedConfig):
    """Configuration of a `PartsModel`.

    Args:
        text_config: configuration (object or dict) of a causal language model.
        vision_config: likewise of the image encoder; `None` where images come as features.
        feature_size: width of a feature; the image encoder's, where there is one.
        tokens_per_image: features of an image behind the encoder; given features say so by their number.
        image_token_id: id of `IMAGE_TOKEN`. It is never looked up, so the language model need not have it.
        image_encoder: Hub id or folder of the image encoder.
        image_encoder_revision: its commit; `None` for a folder.
    """

    model_type = "vlm2rec_parts"
    sub_configs = {"text_config": PreTrainedConfig, "vision_config": PreTrainedConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    feature_size: int | None = None
    tokens_per_image: int = 4
    image_token_id: int = 0
    image_encoder: str | None = None
    image_encoder_revision: str | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        self.text_config = _config(self.text_config or {"model_type": "qwen3"})
        self.vision_config = _config(self.vision_config)
        if self.vision_config is not None:
            self.feature_size = encoder_width(self.vision_config)
        elif self.feature_size is None:
            self.feature_size = 768  # without arguments, as the library makes configurations to compare with
        if self.feature_size < 1 or self.tokens_per_image < 1:
            raise ValueError(
                f"`feature_size` and `tokens_per_image` must be at least 1, got {self.feature_size} and "
                f"{self.tokens_per_image}."
            )
        super().__post_init__(**kwargs)

    def parts_options(self) -> dict[str, Any]:
        """What `VLM2RecEmbedder.from_parts` needs besides the language model to build this backbone again."""
        if self.vision_config is None:
            return {"feature_size": self.feature_size}
        names = ("image_encoder", "image_encoder_revision", "tokens_per_image")
        return {name: getattr(self, name) for name in names}


def encoder_width(config: Any) -> int:
    """Width of an image encoder's states; networks that narrow the image name it last.

    Raises:
        ValueError: the configuration names none.
    """
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if not width:
        raise ValueError(f"`image_encoder` has model_type {config.model_type!r}, which names no hidden size.")
    return int(width)


def _config(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    options = dict(value)
    return AutoConfig.for_model(options.pop("model_type"), **options)


AutoConfig.register(PartsConfig.model_type, PartsConfig, exist_ok=True)
