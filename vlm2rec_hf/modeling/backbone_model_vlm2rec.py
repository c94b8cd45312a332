"""What every model around a vision-language backbone does alike: loading, saving, its vision tower, its pictures."""

import os
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from .adapter_repos_vlm2rec import find_adapter_repo, load_with_adapter
from .families_vlm2rec import BackboneFamily, ImageFeatures, family_of
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, require_safetensors


class BackboneModel(PreTrainedModel):
    """A model whose `vlm` is a vision-language backbone; subclasses call `set_up_backbone` in their constructor."""

    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    config: Any
    family: BackboneFamily
    vlm: Any
    loaded_from: tuple[str, str | None] | None = None
    """Hub id and commit of the weights (without adapters), or a folder and `None`; `None` for a model built from
    config, and once the weights have changed. An adapter is saved with it as its base, so whoever changes weights by
    hand sets it to `None`; `VLM2RecTrainer`, `warm_up_backbone` and `merge_adapters` do."""

    def set_up_backbone(self, vlm: Any) -> None:
        """Take `vlm` as the backbone."""
        self.family = family_of(self.config.vlm_config.model_type)
        self.vlm = vlm
        self.family.prepare_backbone(vlm)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Self:
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

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; whatever they are, they are no longer those of `loaded_from`."""
        self.loaded_from = None
        return super().load_state_dict(*args, **kwargs)

    def get_input_embeddings(self) -> Any:
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
