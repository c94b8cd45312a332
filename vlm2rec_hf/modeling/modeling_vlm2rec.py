"""`VLM2RecEmbedder`: items and user histories in one space, from a vision-language backbone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import ModelOutput

from .adapter_repos_vlm2rec import find_adapter_repo, load_with_adapter
from .configuration_vlm2rec import VLM2RecConfig
from .encoding_vlm2rec import VIEWS, Encoding, EncodingMixin
from .families_vlm2rec import ImageFeatures, family_of
from .fusion_vlm2rec import fuse, last_token_pool, scatter_rows, unit
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, require_safetensors
from .processing_vlm2rec import VLM2RecProcessor

__all__ = ["VIEWS", "Encoding", "VLM2RecEmbedder", "VLM2RecOutput", "VLM2RecPreTrainedModel"]


@dataclass
class VLM2RecOutput(ModelOutput):
    """What `VLM2RecEmbedder.forward` returns.

    Attributes:
        embeddings: `(n, d)` the fused vectors, `text_embeddings + image_embeddings` (external fusion).
        text_embeddings: `(n, d)` unit vectors, zero where the text is absent; `None` for internal fusion.
        image_embeddings: `(n, d)` unit vectors, zero where the picture is absent; `None` for internal fusion.
        has_text: `(n,)` bool.
        has_image: `(n,)` bool.
    """

    embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    image_embeddings: Tensor | None = None
    has_text: Tensor | None = None
    has_image: Tensor | None = None


class VLM2RecPreTrainedModel(PreTrainedModel):
    """Weight handling shared by the models built on a vision-language backbone."""

    config: VLM2RecConfig
    config_class = VLM2RecConfig
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class VLM2RecEmbedder(EncodingMixin, VLM2RecPreTrainedModel):
    """A vision-language model that embeds items (title and picture) and histories for recommendation.

    External fusion (arXiv 2603.17450): the text row and the picture row are encoded separately, each pooled at its
    last token and normalised, and the two unit vectors are added; a missing modality contributes nothing, so
    `encode(both) == encode(text) + encode(picture)` exactly. Scores are cosine similarities of the sums.
    """

    loaded_from: tuple[str, str | None] | None = None
    """Hub id and commit of the weights (without adapters), or a folder and `None`; `None` for a model built from
    config, and once the weights have changed. An adapter is saved with it as its base, so whoever changes weights by
    hand sets it to `None`; `VLM2RecTrainer`, `warm_up_backbone` and `merge_adapters` do."""

    def __init__(self, config: VLM2RecConfig) -> None:
        super().__init__(config)
        self.family = family_of(config.vlm_config.model_type)  # type: ignore[union-attr]
        self.vlm = AutoModel.from_config(config.vlm_config)
        self.family.prepare_backbone(self.vlm)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> "VLM2RecEmbedder":
        """Load a model, or an adapter together with the base its `config.json` names (at the commit named there).

        Weights are read from safetensors only.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            model_args: as in `PreTrainedModel.from_pretrained`.
            kwargs: as in `PreTrainedModel.from_pretrained` (`revision`, `dtype`, `attn_implementation`, ...).

        Raises:
            ValueError: `use_safetensors=False`, weights that are missing or of another shape, an adapter that names
                no base, or one that does not fit its base.
        """
        require_safetensors(kwargs)
        adapter = find_adapter_repo(pretrained_model_name_or_path, kwargs)
        if adapter is not None:
            return load_with_adapter(cls, adapter, kwargs)
        where, hub = str(pretrained_model_name_or_path), hub_arguments(kwargs)
        with_info = kwargs.pop("output_loading_info", False)
        commit = hub_commit(where, **hub)
        if commit is not None:
            kwargs["revision"] = commit  # every file of one version, whatever is published meanwhile
        loaded: Any = super().from_pretrained(where, *model_args, **kwargs, output_loading_info=True)
        model, info = loaded
        refuse_random_weights("pretrained_model_name_or_path", where, info)
        model.loaded_from = (where, commit)
        return (model, info) if with_info else model  # type: ignore[return-value]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save; beside an adapter, which the library saves without its configuration, also `config.json`."""
        if self.holds_adapter:
            os.makedirs(save_directory, exist_ok=True)
            if self._auto_class is not None:
                custom_object_save(self, save_directory, config=self.config)  # type: ignore[arg-type]
            self.config.save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def holds_adapter(self) -> bool:
        """Whether an adapter was loaded into this model (a PEFT model around it is another matter)."""
        return bool(getattr(self, "_hf_peft_config_loaded", False))

    @classmethod
    def from_backbone(cls, backbone: str, *, fusion: str = "external", **kwargs: Any) -> "VLM2RecEmbedder":
        """Build an embedder from a raw vision-language checkpoint (Hub id or folder).

        Args:
            backbone: Hub id or path, such as `"Qwen/Qwen2.5-VL-3B-Instruct"`.
            fusion: see `VLM2RecConfig`.
            kwargs: for `AutoModel.from_pretrained` (`revision`, `dtype`, `attn_implementation`, ...).

        Raises:
            ValueError: a weight of the backbone was not found in the checkpoint or has another shape; such a
                model would be partly random.
        """
        require_safetensors(kwargs)
        commit = hub_commit(str(backbone), **hub_arguments(kwargs))
        if commit is not None:
            kwargs["revision"] = commit
        vlm, info = AutoModel.from_pretrained(backbone, output_loading_info=True, **kwargs)
        refuse_random_weights("backbone", str(backbone), info)
        config = VLM2RecConfig(
            vlm_config=vlm.config,
            fusion=fusion,
            dtype=vlm.dtype,
            base_model=str(backbone) if commit else None,
            base_model_revision=commit,
        )
        config._attn_implementation = vlm.config._attn_implementation
        with torch.device("meta"):
            model = cls(config)
        model.vlm = vlm
        model.family.prepare_backbone(vlm)
        model.config.name_or_path = str(backbone)
        model.loaded_from = (str(backbone), commit)
        return model.eval()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; whatever they are, they are no longer those of `loaded_from`."""
        self.loaded_from = None
        return super().load_state_dict(*args, **kwargs)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The backbone's token embedding."""
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the backbone's token embedding."""
        self.vlm.set_input_embeddings(value)

    def vision_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters of the vision tower (its merger or connector included)."""
        return [weight for module in self.family.vision_modules(self.vlm) for weight in module.parameters()]

    def freeze_vision(self) -> None:
        """Stop training the vision tower, so that pictures need to pass it only once."""
        for parameter in self.vision_parameters():
            parameter.requires_grad_(False)

    def encode_images(self, pixel_values: Tensor, image_grid_thw: Tensor) -> ImageFeatures:
        """Run the vision tower alone on what the image processor made of the pictures."""
        dtype = self.family.vision_modules(self.vlm)[0].dtype
        return self.family.encode_images(self.vlm, pixel_values.to(dtype), image_grid_thw)

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

        With `groups`, several batches that share their pictures (`VLM2RecProcessor.collate_groups`) are embedded in
        one call, each distinct picture passing the vision tower once; then there is one output per group.
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
        **kwargs: Any,
    ) -> VLM2RecOutput:
        """Embed rows; `images` are the features of their picture slots, in row order."""
        if input_ids is None or attention_mask is None:
            raise ValueError("`input_ids` and `attention_mask` are required; make batches with `VLM2RecProcessor`.")
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
        return VLM2RecOutput(
            embeddings=fuse(text, image),
            text_embeddings=text,
            image_embeddings=image,
            has_text=has_text,
            has_image=has_image,
        )

    def _gather_images(
        self,
        pixel_values: Tensor | None,
        grid: Tensor | None,
        index: Tensor | None,
        tokens: Tensor | None,
        layers: Tensor | None,
    ) -> ImageFeatures | None:
        """Features of every picture slot: distinct pictures pass the tower once and are repeated by index."""
        if grid is None or (pixel_values is None and tokens is None):
            return None
        if tokens is not None:
            images = ImageFeatures(tokens, grid, tuple(layers) if layers is not None else ())
        else:
            images = self.encode_images(pixel_values, grid)  # type: ignore[arg-type]
        return images if index is None else self._select(images, index)

    def _select(self, images: ImageFeatures | None, image_index: Tensor | None) -> ImageFeatures | None:
        """The features that stand in the slots `image_index`; `None` for rows without pictures."""
        if images is None or image_index is None:
            return None
        return images.select(image_index, self.family.tokens_per_image(self.config.vlm_config, images.grid))

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

    def start_history(
        self,
        processor: VLM2RecProcessor,
        *,
        batch_size: int = 1,
        users: Sequence[int | str] | None = None,
        views: Sequence[str] | None = None,
    ) -> Any:
        """Histories that grow click by click at the cost of the click alone: a `HistoryState`; see there."""
        from .history_state_vlm2rec import HistoryState

        return HistoryState(self, processor, range(batch_size) if users is None else users, views)

    def load_history(self, path: str | os.PathLike, processor: VLM2RecProcessor) -> Any:
        """The `HistoryState` that `HistoryState.save` wrote to `path` with these weights and this processor."""
        from .history_files_vlm2rec import load_history

        return load_history(self, path, processor)
