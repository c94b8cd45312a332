"""Configuration of a `VLM2RecEmbedder`."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .families_vlm2rec import configure


@strict
class BackboneConfig(PreTrainedConfig):
    """A backbone's configuration inside another one, and where the weights came from; see `VLM2RecConfig`."""

    # The plain form: `sub_configs_defaults` replaces it from transformers 5.20 on, but older ones do not know it.
    sub_configs = {"vlm_config": PreTrainedConfig}

    vlm_config: dict | PreTrainedConfig | None = None
    initializer_range: float | int = 0.02
    base_model: str | None = None
    base_model_revision: str | None = None

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        if self.vlm_config is None:
            self.vlm_config = AutoConfig.for_model("qwen2_vl")
        elif isinstance(self.vlm_config, dict):
            options = dict(self.vlm_config)
            self.vlm_config = configure(options.pop("model_type", "qwen2_vl"), options)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's states."""
        return self.get_text_config().hidden_size

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:  # noqa: ANN002, ANN003
        """Configuration of the language model inside the backbone."""
        return self.vlm_config.get_text_config(*args, **kwargs)  # type: ignore[union-attr]


FUSIONS = ("external", "internal")


@strict
class VLM2RecConfig(BackboneConfig):
    r"""Configuration of a `VLM2RecEmbedder`: a vision-language backbone plus how its states become one vector.

    Args:
        vlm_config: the backbone's (object or dict), of a family in `families_vlm2rec`.
        fusion: `"external"` (the paper's: text and images are encoded in separate rows and the two unit vectors
            added) or `"internal"` (one row with text and images together; the paper's baseline).
        score_options: how vectors become a score (`ScoreOptions.to_dict()` of vlm2rec-hf); `None`: their cosine.
        initializer_range: standard deviation used when weights are initialised from scratch.
        base_model: Hub id of what it was made from (an adapter: of what it sits on); `None` where that is no Hub repo.
        base_model_revision: commit of `base_model`.

    Example:
        ```python
        from transformers import Qwen2VLConfig
        from vlm2rec_hf import VLM2RecConfig

        assert VLM2RecConfig(vlm_config=Qwen2VLConfig()).fusion == "external"
        ```
    """

    model_type = "vlm2rec"
    fusion: str = "external"
    score_options: dict | None = None

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        super().__post_init__(**kwargs)
        if self.fusion not in FUSIONS:
            raise ValueError(f"`fusion` must be one of {FUSIONS}, got {self.fusion!r}.")

    def backbone_options(self) -> dict[str, Any]:
        """What `VLM2RecEmbedder.from_backbone` needs to build the same architecture on a raw backbone."""
        return {"fusion": self.fusion}
