"""Configuration of a `VLM2RecEmbedder`."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_backbone_vlm2rec import BackboneConfig

FUSIONS = ("external", "internal")


@strict
class VLM2RecConfig(BackboneConfig):
    r"""Configuration of a `VLM2RecEmbedder`: a vision-language backbone plus how its states become one vector.

    Args:
        vlm_config: configuration (object or dict) of the backbone (Qwen2-VL, Qwen2.5-VL, Qwen3-VL, SmolVLM, Idefics3,
            PaliGemma).
        fusion: `"external"` (the paper's: text and pictures are encoded in separate rows and the two unit vectors
            added) or `"internal"` (one row with text and pictures together; the paper's baseline).
        initializer_range: standard deviation used when weights are initialised from scratch.
        base_model: Hub id of what this model was made from, or, in an adapter's repo, of what the adapter sits on;
            `None` where that is no Hub repo.
        base_model_revision: commit of `base_model`.

    Example:
        ```python
        from transformers import Qwen2VLConfig

        from vlm2rec_hf import VLM2RecConfig

        config = VLM2RecConfig(vlm_config=Qwen2VLConfig())
        assert config.fusion == "external"
        ```
    """

    model_type = "vlm2rec"
    fusion: str = "external"

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        super().__post_init__(**kwargs)
        if self.fusion not in FUSIONS:
            raise ValueError(f"`fusion` must be one of {FUSIONS}, got {self.fusion!r}.")

    def backbone_options(self) -> dict[str, Any]:
        """What `VLM2RecEmbedder.from_backbone` needs to build the same architecture on a raw backbone."""
        return {"fusion": self.fusion}
