"""`PartsModel`: any causal language model and a frozen image encoder (or features), with a trained projector between.

`family_parts.py` runs it. The projector is applied where features are put into a row, not where they are made: so it
trains while a frozen encoder's features are kept.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from .configuration_parts import IMAGE_TOKEN, PartsConfig
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, require_safetensors


class GivenFeatures(nn.Module):
    """In the place of an image encoder: features as they are, times a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """As an encoder has one."""
        return self.scale.dtype

    def forward(self, features: Tensor) -> Tensor:
        """`(n, width)` -> the same."""
        return features * self.scale


class ImageProjector(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear (our choice), in the dtype of its weights whatever that of the features is.

    Args:
        width: of the features.
        hidden_size: of the language model.
    """

    def __init__(self, width: int, hidden_size: int) -> None:
        layers = nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        super().__init__(nn.LayerNorm(width), *layers)

    def forward(self, features: Tensor) -> Tensor:
        """`(n, width)` -> `(n, hidden_size)`."""
        weight: Any = self[0].weight
        return super().forward(features.to(weight.dtype))


class PartsModel(PreTrainedModel):
    """A language model, an image encoder (or `GivenFeatures`), and a projector from the one's width to the other's."""

    config: PartsConfig
    config_class = PartsConfig
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PartsConfig) -> None:
        super().__init__(config)
        width: Any = config.get_text_config().hidden_size
        self.language_model = AutoModel.from_config(config.text_config)
        tower: Any = config.vision_config
        self.vision_tower = GivenFeatures() if tower is None else AutoModel.from_config(tower)
        self.image_projector = ImageProjector(int(config.feature_size or 0), width)
        self.post_init()

    @classmethod
    def around(cls, language_model: Any, vision_tower: Any, config: PartsConfig, *, seed: int = 0) -> "PartsModel":
        """Put parts together that exist; only the projector is new.

        Its output is brought to the size (root mean square) of the language model's token embeddings.

        Args:
            language_model: used, not copied.
            vision_tower: likewise; `None` for features.
            config: describes both.
            seed: of the projector's random weights; the global random state is left as it was.
        """
        with torch.device("meta"):
            model = cls(config)
        table = language_model.get_input_embeddings()
        device, dtype = table.weight.device, language_model.dtype
        model.language_model = language_model
        model.vision_tower = GivenFeatures().to(device, dtype) if vision_tower is None else vision_tower
        projector: Any = model.image_projector.to_empty(device="cpu").float()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for layer in projector:
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
            # Behind the LayerNorm, features are of about this distribution.
            made = projector(torch.randn(512, int(config.feature_size or 0))).square().mean().sqrt()
            words = table(torch.arange(min(table.weight.shape[0], 4096), device=device)).float()
            wanted = words.square().mean().sqrt().cpu()
            projector[-1].weight.mul_(wanted / made)
            projector[-1].bias.mul_(wanted / made)
        model.image_projector = projector.to(device, dtype)
        return model.eval()

    def get_input_embeddings(self) -> Any:
        """The language model's token embedding."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.language_model.set_input_embeddings(value)


def load_parts(
    language_model: str,
    encoder: tuple[str | None, str | None],
    feature_size: int | None,
    tokens_per_image: int,
    seed: int,
    arguments: dict[str, Any],
) -> tuple[PartsModel, str | None]:
    """Load the parts of a backbone and put a new projector between; see `VLM2RecEmbedder.from_parts`.

    Args:
        language_model: Hub id or folder.
        encoder: Hub id or folder of the image encoder, and its revision.
        feature_size: width of given features.
        tokens_per_image: of an encoder.
        seed: of the projector.
        arguments: for `AutoModel.from_pretrained`; the encoder is loaded with the same, but for `revision`.

    Returns:
        The backbone, and the commit of the language model (`None` for a folder).
    """
    if (encoder[0] is None) == (feature_size is None):
        raise ValueError(
            "Name exactly one of `image_encoder` (a model that images pass) and `feature_size` (width of the items' "
            "`image_features`)."
        )
    require_safetensors(arguments)
    given = hub_arguments(arguments)
    hub = {name: value for name, value in given.items() if name != "revision"}
    text, commit = _at(language_model, given)
    if text.get_text_config() is not text:
        raise ValueError(
            f"`language_model` {language_model!r} has model_type {text.model_type!r}, which sees images by itself; "
            "use `from_backbone`, or name a language model alone."
        )
    at = {**arguments, **({"revision": commit} if commit else {})}
    model, info = AutoModel.from_pretrained(language_model, output_loading_info=True, **at)
    refuse_random_weights("language_model", str(language_model), info)
    options: dict[str, Any] = {"text_config": model.config, "tokens_per_image": tokens_per_image}
    options["image_token_id"] = parts_tokenizer(language_model, commit, **hub).convert_tokens_to_ids(IMAGE_TOKEN)
    if encoder[0] is None:
        return PartsModel.around(model, None, PartsConfig(**options, feature_size=feature_size), seed=seed), commit
    tower, encoder_commit = _load_encoder(encoder[0], {**hub, "revision": encoder[1]}, model.dtype)
    options |= {"image_encoder": str(encoder[0]), "image_encoder_revision": encoder_commit}
    config = PartsConfig(**options, vision_config=tower.config)
    return PartsModel.around(model, tower.to(model.device), config, seed=seed), commit


def _load_encoder(where: str, hub: dict[str, Any], dtype: torch.dtype) -> tuple[Any, str | None]:
    """The image encoder at `where`; of a model of images and texts the part that reads images."""
    config, commit = _at(where, hub)
    config = encoder_config(config)
    at = {**hub, "revision": commit, "config": config, "dtype": dtype, "use_safetensors": True}
    tower, info = AutoModel.from_pretrained(where, output_loading_info=True, **at)
    # A pooler is not read, and checkpoints that were trained without one lack it. Random, it would differ each time.
    unread = {name for name in info["missing_keys"] if "pooler." in name}
    for name, weight in tower.named_parameters():
        if name in unread:
            weight.data.zero_()
    info["missing_keys"] = {name for name in info["missing_keys"] if name not in unread}
    refuse_random_weights("image_encoder", str(where), info)
    return tower.requires_grad_(False), commit


def encoder_config(config: Any) -> Any:
    """Configuration of what reads images in a model of this configuration.

    Raises:
        ValueError: it reads no images, or such as image processors here do not make.
    """
    config = getattr(config, "vision_config", None) or config
    if config.model_type in ("siglip2_vision_model", "siglip2") or not hasattr(config, "num_channels"):
        raise ValueError(
            f"`image_encoder` has model_type {config.model_type!r}, which reads no images of one size; use SigLIP or "
            "SigLIP 2 of fixed resolution, DINOv2, CLIP, ViT or the like."
        )
    return config


def _at(where: str, hub: dict[str, Any]) -> tuple[Any, str | None]:
    """Configuration and commit of a Hub id or folder."""
    commit = hub_commit(str(where), **{name: value for name, value in hub.items() if value is not None})
    return AutoConfig.from_pretrained(where, **({**hub, "revision": commit} if commit else {})), commit


def parts_tokenizer(language_model: str, revision: str | None, **hub: Any) -> Any:
    """A language model's tokenizer that knows `IMAGE_TOKEN`."""
    tokenizer = AutoTokenizer.from_pretrained(language_model, revision=revision, **hub)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


AutoModel.register(PartsConfig, PartsModel, exist_ok=True)
