"""`PartsModel`: any causal language model and a frozen image encoder (or features), with a trained projector between.

`family_parts.py` runs it. The projector is applied where features are put into a row, not where they are made: so it
trains while a frozen encoder's features are kept.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from .configuration_parts import PartsConfig


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
        return super().forward(features.to(self[0].weight.dtype))


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
        projector = model.image_projector.to_empty(device="cpu").float()
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


AutoModel.register(PartsConfig, PartsModel, exist_ok=True)
