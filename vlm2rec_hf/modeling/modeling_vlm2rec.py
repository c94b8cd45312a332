"""`VLM2RecEmbedder`: items and user histories in one space, from a vision-language backbone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.utils import ModelOutput

from .backbone_vlm2rec import BackboneModel, refuse_pixels
from .configuration_vlm2rec import VLM2RecConfig
from .encoding_vlm2rec import Encoding, EncodingMixin, packs
from .families_vlm2rec import family_of
from .family_vlm2rec import ImageFeatures
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, require_safetensors
from .passes_vlm2rec import fuse, last_token_pool, scatter_rows, states_at, unit

__all__ = ["Encoding", "VLM2RecEmbedder", "VLM2RecOutput"]


@dataclass
class VLM2RecOutput(ModelOutput):
    """What `VLM2RecEmbedder.forward` returns.

    Attributes:
        embeddings: `(n, d)` the fused vectors, `text_embeddings + image_embeddings` (external fusion).
        text_embeddings: `(n, d)` unit vectors, zero where the text is absent; `None` for internal fusion.
        image_embeddings: `(n, d)` unit vectors, zero where the image is absent; `None` for internal fusion.
        has_text: `(n,)` bool.
        has_image: `(n,)` bool.
    """

    embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    image_embeddings: Tensor | None = None
    has_text: Tensor | None = None
    has_image: Tensor | None = None

    @property
    def view_embeddings(self) -> Tensor:
        """`(n, 2 d)` the text and the image vector side by side (external fusion)."""
        if self.text_embeddings is None or self.image_embeddings is None:
            raise ValueError("`view_embeddings` need a vector of each view, which internal fusion does not have.")
        return torch.cat([self.text_embeddings, self.image_embeddings], dim=-1)


class VLM2RecEmbedder(EncodingMixin, BackboneModel):
    """A vision-language model that embeds items (title and image) and histories for recommendation.

    External fusion (arXiv 2603.17450): the text row and the image row are encoded separately, each pooled at its
    last token and normalised, and the two unit vectors are added; a missing modality contributes nothing, so
    `encode(both) == encode(text) + encode(image)` exactly. Scores are cosine similarities of the sums.
    """

    config: VLM2RecConfig
    config_class = VLM2RecConfig

    def __init__(self, config: VLM2RecConfig) -> None:
        super().__init__(config)
        self.set_up_backbone()
        self.post_init()

    @classmethod
    def from_backbone(cls, backbone: str, *, fusion: str = "external", **kwargs: Any) -> "VLM2RecEmbedder":
        """Build an embedder from a raw vision-language checkpoint (Hub id or folder).

        Args:
            backbone: Hub id or path, such as `"Qwen/Qwen2.5-VL-3B-Instruct"`.
            fusion: see `VLM2RecConfig`.
            kwargs: for `AutoModel.from_pretrained` (`revision`, `dtype`, `attn_implementation`, ...).

        Raises:
            ValueError: a weight of the backbone is missing in the checkpoint or has another shape; such a
                model would be partly random.
        """
        require_safetensors(kwargs)
        refuse_pixels(kwargs)
        commit = hub_commit(str(backbone), **hub_arguments(kwargs))
        if commit is not None:
            kwargs["revision"] = commit
        vlm, info = AutoModel.from_pretrained(backbone, output_loading_info=True, **kwargs)
        refuse_random_weights("backbone", str(backbone), info)
        return cls._around(vlm, vlm, str(backbone), commit, fusion)

    @classmethod
    def from_parts(
        cls,
        *,
        language_model: str,
        image_encoder: str | None = None,
        feature_size: int | None = None,
        tokens_per_image: int = 4,
        image_encoder_revision: str | None = None,
        fusion: str = "external",
        seed: int = 0,
        **kwargs: Any,
    ) -> "VLM2RecEmbedder":
        """Build an embedder from a causal language model and images as features, with a new projector between.

        Args:
            language_model: Hub id or folder of a causal decoder, such as `"Qwen/Qwen3-0.6B"`.
            image_encoder: Hub id or folder of a model with an image processor (SigLIP, DINOv2, CLIP, ViT, ...), which
                stays frozen; or `None`, and
            feature_size: the width of the items' `image_features`.
            tokens_per_image: features that an encoder's patch states are averaged to.
            image_encoder_revision: tag, branch or commit of the encoder.
            fusion: see `VLM2RecConfig`.
            seed: of the projector's random weights.
            kwargs: for `AutoModel.from_pretrained` (`revision` of the language model, `dtype`, ...).

        Raises:
            ValueError: neither or both of `image_encoder` and `feature_size`, a part of another kind, or one that
                lacks weights.
        """
        encoder = (image_encoder, image_encoder_revision)
        parts: Any = family_of("vlm2rec_parts")
        vlm, commit = parts.load(language_model, encoder, feature_size, tokens_per_image, seed, kwargs)
        return cls._around(vlm, vlm.language_model, str(language_model), commit, fusion)

    @classmethod
    def _around(cls, vlm: Any, loaded: Any, where: str, commit: str | None, fusion: str) -> "VLM2RecEmbedder":
        """An embedder around a backbone whose weights were `loaded` from somewhere."""
        config = VLM2RecConfig(
            vlm_config=vlm.config,
            fusion=fusion,
            dtype=vlm.dtype,
            base_model=where if commit else None,
            base_model_revision=commit,
        )
        config._attn_implementation = loaded.config._attn_implementation
        with torch.device("meta"):
            model = cls(config)
        model.set_up_backbone(vlm)
        return model.around_loaded(loaded, where, commit)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rows: Tensor | None = None,
        image_rows_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        image_index: Tensor | None = None,
        image_features: Tensor | None = None,
        deepstack_features: Tensor | None = None,
        has_text: Tensor | None = None,
        has_image: Tensor | None = None,
        groups: Sequence[dict[str, Tensor]] | None = None,
        **kwargs: Any,
    ) -> VLM2RecOutput | tuple[VLM2RecOutput, ...]:
        """Embed a batch made by `VLM2RecProcessor`; see its `collate` for every argument's shape.

        With `groups`, several passes that share their images (`VLM2RecProcessor.collate_passes`) are embedded in one
        call, each distinct image passing the vision tower once; then there is one output per pass, which holds the
        unit vectors at its `ends` as `embeddings`.
        """
        if groups is not None:
            shared = self._gather_images(pixel_values, image_grid_thw, None, image_features, deepstack_features)
            return tuple(
                self._embed_rows(images=self._select(shared, group.get("image_index")), **group) for group in groups
            )
        images = self._gather_images(pixel_values, image_grid_thw, image_index, image_features, deepstack_features)
        return self._embed_rows(input_ids, attention_mask, image_rows, image_rows_mask, has_text, has_image, images)

    def _embed_rows(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rows: Tensor | None = None,
        image_rows_mask: Tensor | None = None,
        has_text: Tensor | None = None,
        has_image: Tensor | None = None,
        images: ImageFeatures | None = None,
        ends: Tensor | None = None,
        **kwargs: Any,
    ) -> VLM2RecOutput:
        """Embed rows; `images` are the features of their image slots, in row order."""
        if input_ids is None or attention_mask is None:
            raise ValueError("`input_ids` and `attention_mask` are required; make batches with `VLM2RecProcessor`.")
        if ends is not None:
            made = states_at(self, input_ids, attention_mask, images, ends, packs(self, "auto"))
            return VLM2RecOutput(embeddings=unit(made))
        has_text = attention_mask.new_ones(len(input_ids), dtype=torch.bool) if has_text is None else has_text.bool()
        if has_image is None:
            rows = image_rows if image_rows is not None else input_ids
            has_image = (rows == self.config.vlm_config.image_token_id).any(-1)  # type: ignore[union-attr]
        has_image = has_image.bool()
        if self.config.fusion == "internal":
            if image_rows is not None:
                raise ValueError("`image_rows` belong to external fusion; make the processor with fusion='internal'.")
            embeddings = unit(self._pooled(input_ids, attention_mask, images))
            return VLM2RecOutput(embeddings=embeddings, has_text=has_text, has_image=has_image)
        text = self._view(input_ids, attention_mask, None, has_text)
        if image_rows is None or image_rows_mask is None:
            image = torch.zeros_like(text)
        else:
            image = self._view(image_rows, image_rows_mask, images, has_image)
        return VLM2RecOutput(fuse(text, image), text, image, has_text, has_image)

    def _view(self, rows: Tensor, mask: Tensor, images: ImageFeatures | None, present: Tensor) -> Tensor:
        """Unit vectors of one view; absent rows are never run, so they get neither a value nor a gradient."""
        if bool(present.all()):
            return unit(self._pooled(rows, mask, images))
        if not bool(present.any()):
            return torch.zeros(len(rows), self.config.hidden_size, device=rows.device)
        return scatter_rows(unit(self._pooled(rows[present], mask[present], images)), present)

    def _pooled(self, rows: Tensor, mask: Tensor, images: ImageFeatures | None) -> Tensor:
        """Final-norm state of the last token of each row."""
        return last_token_pool(self.family.run(self.vlm, rows, mask, images), mask)
