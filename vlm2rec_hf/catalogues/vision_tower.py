"""A vision tower from outside: which weights it has, how its images are preprocessed, and running it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..modeling.family_vlm2rec import ImageFeatures
from ..modeling.processing_vlm2rec import MAX_ASPECT, VLM2RecProcessor
from .vision_cache_files import bytes_of

if TYPE_CHECKING:
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

DIGEST_BYTES = 20
_ADAPTER_STATE = ("active_adapters", "merged_adapters", "disable_adapters", "scaling")
_NOT_CONTENT = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "_processor_class")
_SAMPLES = 16
_remembered: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()


def tower_fingerprint(model: VLM2RecEmbedder) -> str:
    """Hash of the vision tower: its weights and buffers (names, dtypes, values), configuration and adapters' switches.

    Computed once per tower and again only after its weights were touched: that is seen from the tensors' version
    counters and addresses and from a few of their values.

    Returns:
        40 hex digits; the same for the same tower saved and loaded.

    Raises:
        ValueError: the weights are not here (sharded over processes, or on the meta device).
    """
    tower = _tower(model)
    if is_sharded(model):
        raise ValueError(
            "The vision tower's weights are sharded (or on the meta device), so features cannot be matched to "
            "them; prepare features before the model is sharded."
        )
    state = _state(tower)
    known = _remembered.get(tower[0])
    if known is None or known[0] != state:
        known = state, _hash_tower(model, tower)
        _remembered[tower[0]] = known
    return known[1]


def is_sharded(model: VLM2RecEmbedder) -> bool:
    """Whether this process holds only parts of the tower's weights (FSDP), or none (meta device)."""
    parameters = model.vision_parameters()
    wrapped = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    parts = any(hasattr(p, "_local_tensor") or p.numel() == 0 or p.is_meta for p in parameters)
    return wrapped or parts or not parameters


def preprocessing_fingerprint(processor: VLM2RecProcessor) -> str:
    """Hash of everything that decides what an image processor makes of an image. 40 hex digits."""
    return _digest(preprocessing_settings(processor)).hexdigest()


def preprocessing_settings(processor: VLM2RecProcessor) -> dict[str, Any]:
    """The image processor's class and settings, and the widest aspect it is shown."""
    images = processor.image_processor
    settings = {name: value for name, value in images.to_dict().items() if name not in _NOT_CONTENT}
    return {"class": type(images).__name__, "max_aspect": MAX_ASPECT, **settings}


@contextlib.contextmanager
def ready_to_encode(model: VLM2RecEmbedder, device: torch.device | str | None = None) -> Iterator[None]:
    """Put the tower into evaluation mode, and on a device if one is named; as it was afterwards.

    Autocast is off meanwhile: features are kept, so they must not depend on which caller came first.
    """
    tower = _tower(model)
    training, home = [module for module in tower.modules() if module.training], next(tower.parameters()).device
    place = torch.device(device) if device is not None else home
    tower.eval()
    try:
        if place != home:
            tower.to(place)
        with torch.no_grad(), torch.autocast(place.type, enabled=False):
            yield
    finally:
        if place != home:
            tower.to(home)
        for module in training:
            module.training = True


def run_vision_tower(
    model: VLM2RecEmbedder, pixel_values: Sequence[Tensor], grids: Sequence[tuple[int, ...]]
) -> list[ImageFeatures]:
    """Run several images through the tower at once.

    Args:
        model: inside `ready_to_encode`.
        pixel_values: per image, `(n_patches, patch_dim)`.
        grids: per image, `(t, h, w)`.

    Returns:
        Per image, on the CPU; views of the batch's tensors.
    """
    device = model.vision_parameters()[0].device
    grid = torch.tensor(grids, device=device)
    images = model.encode_images(torch.cat(list(pixel_values)).to(device), grid)
    sizes = model.family.tokens_per_image(model.config.vlm_config, grid).tolist()
    return images.to("cpu").split(sizes)


def _tower(model: VLM2RecEmbedder) -> nn.ModuleList:
    """All modules that images pass, in one."""
    return nn.ModuleList(model.family.vision_modules(model.vlm))


def _state(tower: nn.Module) -> tuple[Any, ...]:
    """What changes when the weights do, without reading all of them."""
    marks: list[Any] = [_adapter_state(tower)]
    samples = []
    for name, tensor in _tensors(tower):
        version = -1 if tensor.is_inference() else tensor._version
        marks.append((name, tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape)))
        # `parameter.data` is written to behind the version counter's back.
        flat = tensor.detach().reshape(-1)
        samples.append(flat[:: max(len(flat) // _SAMPLES, 1)][:_SAMPLES].float())
    return (*marks, torch.cat(samples).cpu().numpy().tobytes())


def _hash_tower(model: VLM2RecEmbedder, tower: nn.Module) -> str:
    vlm_config: Any = model.config.vlm_config
    tower_config = vlm_config.vision_config.to_dict() if vlm_config.vision_config is not None else {}
    vision = {k: v for k, v in tower_config.items() if k not in _NOT_CONTENT}
    digest = _digest({"model_type": vlm_config.model_type, "vision": vision, "adapters": _adapter_state(tower)})
    for name, tensor in sorted(_tensors(tower)):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor.cpu()))
    return digest.hexdigest()


def _tensors(tower: nn.Module) -> list[tuple[str, Tensor]]:
    return list(tower.state_dict(keep_vars=True).items())


def _adapter_state(tower: nn.Module) -> str:
    """Switches of adapters inside the tower, which no weight shows."""
    settings = [
        (name, attribute, str(getattr(module, attribute, None)))
        for name, module in tower.named_modules()
        for attribute in _ADAPTER_STATE
        if hasattr(module, "base_layer")  # PEFT's layers
    ]
    return str(settings)


def _digest(content: dict[str, Any]) -> Any:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES)
