"""What every model around a vision-language backbone does alike: loading, saving, its vision tower, its images."""

import importlib
import json
import os
import weakref
from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from .families_vlm2rec import SavesOwnFamily, family_of
from .family_vlm2rec import BackboneFamily, ImageFeatures
from .hub_loading import (
    HUB_ARGUMENTS,
    hub_arguments,
    hub_commit,
    refuse_random_weights,
    repo_file,
    require_safetensors,
)


class Origin:
    """Where a model's weights were loaded from (folder, or Hub id and commit), for as long as they are those weights.

    Two marks are kept of each weight. Some of its values show what optimizers, `load_state_dict` and a merged adapter
    do. The version counter also shows an operation in place that changes a few other values; it counts for weights
    that can train only, as `DistributedDataParallel` writes all weights once, with the values they have. Neither the
    device nor an adapter beside the weights makes a difference, and casting the weights does not count as a change.
    """

    def __init__(self, where: str, commit: str | None, model: nn.Module) -> None:
        self.where = (where, commit)
        self._marks = {_without_wrappers(name): _Mark(weight) for name, weight in model.named_parameters()}

    def is_origin_of(self, model: nn.Module) -> bool:
        """Whether `model`, adapters aside, has the weights it had."""
        weights = {_without_wrappers(name): weight for name, weight in model.named_parameters()}
        return all(name in weights and mark.fits(weights[name]) for name, mark in self._marks.items())


class _Mark:
    """What tells whether a weight has changed."""

    def __init__(self, weight: Tensor) -> None:
        self.weight: weakref.ref[Tensor] | None = weakref.ref(weight)
        self.version, self.shape, self.values = _version(weight), weight.shape, _some_values(weight)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weight": None}  # the weight of a copied model counts versions anew

    def fits(self, weight: Tensor) -> bool:
        if hasattr(weight, "_local_tensor") or weight.is_meta or (weight.dim() == 1 and weight.shape != self.shape):
            return not weight.requires_grad  # FSDP, ZeRO-3 and offloading hold a part of it here: it cannot be read
        if weight.shape != self.shape:
            return False
        same = self.weight is not None and self.weight() is weight
        if same and weight.requires_grad and _version(weight) != self.version:
            return False
        return torch.equal(self.values.to(weight.dtype), _some_values(weight))


def _version(weight: Tensor) -> int:
    return -1 if weight.is_inference() else weight._version


def _some_values(weight: Tensor, count: int = 64) -> Tensor:
    """Values of a weight, evenly spread over it, on the CPU."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(len(flat) // count, 1)].cpu().clone()


def _without_wrappers(name: str) -> str:
    """A weight's name where PEFT, FSDP or `torch.compile` put a module around the one that holds it."""
    parts = ("base_layer", "original_module", "_fsdp_wrapped_module", "_orig_mod")
    return ".".join(part for part in name.split(".") if part not in parts)


class BackboneModel(SavesOwnFamily, PreTrainedModel):
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
    _origin: Origin | None = None

    @property
    def loaded_from(self) -> tuple[str, str | None] | None:
        """Hub id and commit of the weights (without adapters), or a folder and `None`.

        `None` for a model built from config, and once the weights have changed: see `Origin`, which finds out by
        itself. An adapter is saved with it as its base.
        """
        return self._origin.where if self._origin is not None and self._origin.is_origin_of(self) else None

    def note_origin(self, where: str, commit: str | None) -> None:
        """Say where the present weights were loaded from: folder, or Hub id and commit; every way of loading does.

        Raises:
            ValueError: weights that are not in memory.
        """
        if away := [name for name, weight in self.named_parameters() if weight.is_meta]:
            raise ValueError(
                f"`device_map` leaves {len(away)} weights of {where!r} out of memory ({away[0]}, ...), which these "
                "models cannot do without; leave it out, or use a smaller backbone or `dtype`."
            )
        self._origin = Origin(where, commit, self)

    def around_loaded(self, loaded: Any, where: str, commit: str | None) -> Self:
        """End building a model around a raw backbone; it is quantized as the library `loaded` that, and saved so."""
        for name in ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_8bit", "is_loaded_in_4bit"):
            if hasattr(loaded, name):
                setattr(self, name, getattr(loaded, name))
        if (how := getattr(loaded.config, "quantization_config", None)) is not None:
            self.config.quantization_config = how
        self.config.name_or_path = where
        self.note_origin(where, commit)
        return self.eval()

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Cosine similarities `(n, m)` of vectors `(n, d)` and `(m, d)`, in float32, bare of score options."""
        first, second = (nn.functional.normalize(torch.as_tensor(one).float(), dim=-1) for one in (first, second))
        with torch.autocast(first.device.type, enabled=False):
            return torch.atleast_2d(first) @ torch.atleast_2d(second).T

    def set_up_backbone(self, vlm: Any = None) -> None:
        """Take `vlm` as the backbone; by default one with random weights."""
        self.family = family_of(self.config.vlm_config.model_type)
        self.vlm = self.family.build(self.config.vlm_config) if vlm is None else vlm
        self.family.prepare_backbone(self.vlm)

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
        model.note_origin(where, commit)
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
        """Stop training the vision tower, so that images need to pass it only once."""
        for parameter in self.vision_parameters():
            parameter.requires_grad_(False)

    def encode_images(self, pixel_values: Tensor, image_grid_thw: Tensor) -> ImageFeatures:
        """Run the vision tower alone on what the image processor made of the images."""
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
        """Features of every image slot: distinct images pass the tower once and are repeated by index."""
        if grid is None or (pixel_values is None and tokens is None):
            return None
        if tokens is not None:
            images = ImageFeatures(tokens, grid, tuple(layers) if layers is not None else ())
        else:
            images = self.encode_images(pixel_values, grid)  # type: ignore[arg-type]
        return images if index is None else self._select(images, index)

    def _select(self, images: ImageFeatures | None, image_index: Tensor | None) -> ImageFeatures | None:
        """The features that stand in the slots `image_index`; `None` for rows without images."""
        if images is None or image_index is None:
            return None
        return images.select(image_index, self.family.tokens_per_image(self.config.vlm_config, images.grid))


def refuse_pixels(arguments: dict[str, Any]) -> None:
    """Refuse the image processor's options among a model's."""
    if given := sorted({"min_pixels", "max_pixels"} & set(arguments)):
        raise ValueError(f"`{given[0]}` is an option of the processor; give it to the processor's `from_backbone`.")


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FULL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PEFT_PREFIX = "base_model.model."  # PEFT saves the names of its wrapper


@dataclass(frozen=True)
class AdapterRepo:
    """An adapter without its base's weights: where it is, the base it names, and how to read `where` from the Hub."""

    where: str
    base: str | None
    hub: dict[str, Any]


def find_adapter_repo(where: Any, arguments: dict[str, Any]) -> AdapterRepo | None:
    """Find out whether `where`, given to `from_pretrained` with `arguments`, holds an adapter and no full weights."""
    where, hub = str(where), hub_arguments(arguments)
    given = arguments.get("adapter_kwargs") or {}
    adapter = str(given.get("_adapter_model_path") or where)
    if adapter != where:  # the library has followed `base_model_name_or_path` to the base already
        where, hub = adapter, {**{k: v for k, v in hub.items() if k != "revision"}, **hub_arguments(given)}
        if repo_file(where, "config.json", hub) is None:
            return None  # no adapter repo of ours
    hub |= hub_arguments(given)
    config = repo_file(where, ADAPTER_CONFIG, hub)
    if config is None or any(repo_file(where, name, hub) for name in FULL_WEIGHTS):
        return None
    if repo_file(where, ADAPTER_WEIGHTS, hub) is None:
        raise ValueError(
            f"`pretrained_model_name_or_path` {where!r} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}; other "
            "formats are not read, because pickles can run code. Save the adapter as safetensors."
        )
    with open(config, encoding="utf-8") as file:
        return AdapterRepo(where, json.load(file).get("base_model_name_or_path"), hub)


def load_with_adapter(embedder_class: Any, adapter: AdapterRepo, arguments: dict[str, Any]) -> Any:
    """Load the base that the adapter's `config.json` names, at the commit named there, and put the adapter into it."""
    config = embedder_class.config_class.from_pretrained(adapter.where, **adapter.hub)
    base = config.base_model or adapter.base
    if not base or base == adapter.where:
        raise ValueError(
            f"`pretrained_model_name_or_path` {adapter.where!r} holds an adapter that names no base model; save it "
            "with its trainer, or merge it into its base."
        )
    of_the_adapter = (*HUB_ARGUMENTS, "config", "adapter_kwargs", "trust_remote_code", "_from_auto", "_commit_hash")
    arguments = {name: value for name, value in arguments.items() if name not in of_the_adapter}
    if (how := getattr(config, "quantization_config", None)) is not None:
        arguments.setdefault("quantization_config", how)  # trained on such weights, it fits no others exactly
    with_info = arguments.pop("output_loading_info", False)
    hub = {name: value for name, value in adapter.hub.items() if name not in ("revision", "subfolder")}
    if config.base_model_revision is not None:
        hub["revision"] = config.base_model_revision
    base_config = PreTrainedConfig.get_config_dict(base, **hub)[0]
    if base_config.get("model_type") == config.model_type:
        model = embedder_class.from_pretrained(base, **hub, **arguments)
    elif hasattr(config.vlm_config, "parts_options"):
        options = {**config.backbone_options(), **config.vlm_config.parts_options()}
        model = embedder_class.from_parts(language_model=base, **options, **hub, **arguments)
    else:
        model = embedder_class.from_backbone(base, **config.backbone_options(), **hub, **arguments)
    _check_shape(adapter, base, config, model.config)
    _put_in(model, adapter)
    model.config.base_model, model.config.base_model_revision = config.base_model, config.base_model_revision
    if hasattr(config, "score_options"):
        model.config.score_options = config.score_options  # the adapter's, not its base's
    model.config.name_or_path = adapter.where
    info: Any = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    return (model.eval(), info) if with_info else model.eval()


def _put_in(model: Any, adapter: AdapterRepo) -> None:
    """Add the adapter's layers to `model` and fill them, by PEFT's own functions.

    `PreTrainedModel.load_adapter` renames weights; with transformers 5.17 and PEFT 0.19 it finds no place for any.
    """
    peft = importlib.import_module("peft")  # not `import`: without an adapter nobody needs it to be installed
    config_file = str(repo_file(adapter.where, ADAPTER_CONFIG, adapter.hub))
    config = peft.PeftConfig.from_pretrained(os.path.dirname(config_file))
    config.inference_mode = True
    saved = load_file(str(repo_file(adapter.where, ADAPTER_WEIGHTS, adapter.hub)))
    peft.inject_adapter_in_model(config, model, "default")
    keys = peft.set_peft_model_state_dict(model, {k.removeprefix(PEFT_PREFIX): v for k, v in saved.items()}, "default")
    places = {name for name, _ in model.named_parameters() if ".default." in name}
    filled = len(places) - len(places & set(keys.missing_keys))
    lost = sorted({*(places & set(keys.missing_keys)), *keys.unexpected_keys})
    if lost or filled != len(saved):
        raise ValueError(
            f"`pretrained_model_name_or_path` {adapter.where!r} does not fit its base: {len(lost)} weights do not "
            f"match ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}). Its config.json must name the base it "
            "was trained on."
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model._hf_peft_config_loaded = True


def _check_shape(adapter: AdapterRepo, base: str, wanted: Any, actual: Any) -> None:
    """Refuse a base of another family or size than the one the adapter was trained on."""
    for name, here in _sizes(wanted).items():
        if here != (there := _sizes(actual)[name]):
            raise ValueError(
                f"`pretrained_model_name_or_path` {adapter.where!r} does not fit its base {base!r}: {name} is "
                f"{there!r} there and {here!r} here. Its config.json must name the base it was trained on."
            )


def _sizes(config: Any) -> dict[str, Any]:
    layers = config.get_text_config().num_hidden_layers
    return {"vlm_config.model_type": config.vlm_config.model_type, "hidden_size": config.hidden_size, "layers": layers}
