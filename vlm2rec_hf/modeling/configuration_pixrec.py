"""Configuration of a `PixRecModel`."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_vlm2rec import BackboneConfig


@strict
class PixRecConfig(BackboneConfig):
    r"""Configuration of a `PixRecModel` (arXiv 2601.06458): a backbone with its language-model head and projections.

    The numbers of the objective stand here too, so that a saved model says how it was trained; `PixRecTrainer` writes
    them.

    Args:
        vlm_config: configuration (object or dict) of the backbone, of any family that `VLM2RecEmbedder` supports.
        projection_dim: length of user and item vectors (128 in the paper).
        tie_word_embeddings: whether the language-model head is the token embedding; what the backbone's configuration
            says by default.
        temperature: tau, divides the cosine similarities of both contrastive terms (0.5 in the paper).
        alpha: weight of the item-item term (0.125 in the paper).
        beta: weight of the user-item term (our choice: positive, 0.125; the released code has -0.025).
        initializer_range: standard deviation used when weights are initialised from scratch.
        base_model: Hub id of what this model was made from, or, in an adapter's repo, of what the adapter sits on;
            `None` where that is no Hub repo.
        base_model_revision: commit of `base_model`.

    Raises:
        ValueError: `projection_dim` below 1 or a `temperature` that is not positive.
    """

    model_type = "pixrec"
    projection_dim: int = 128
    tie_word_embeddings: bool | None = None
    temperature: float | int = 0.5
    alpha: float | int = 0.125
    beta: float | int = 0.125

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.vlm_config, "tie_word_embeddings", True))
        if self.projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, got {self.projection_dim}.")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}.")

    def backbone_options(self) -> dict[str, Any]:
        """What `PixRecModel.from_backbone` needs to build the same architecture on a raw backbone."""
        names = ("projection_dim", "temperature", "alpha", "beta")
        return {name: getattr(self, name) for name in names}
