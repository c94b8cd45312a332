"""What our models share in loading: one commit for all files, safetensors only, where unchanged weights come from."""

import os
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


def hub_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say where and how to read a repo."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}


def hub_commit(where: str, **hub: Any) -> str | None:
    """The commit a Hub id stands for, at `revision` where given; `None` for a folder."""
    if os.path.isdir(where):
        return None
    return extract_commit_hash(repo_file(where, "config.json", hub), None)


def repo_file(where: str, name: str, hub: dict[str, Any]) -> str | None:
    """Path of a file of a folder or Hub repo, or `None` where it does not have it."""
    return cached_file(where, name, _raise_exceptions_for_missing_entries=False, **hub)


def require_safetensors(arguments: dict[str, Any]) -> None:
    """Set `use_safetensors` in `from_pretrained`'s arguments.

    Raises:
        ValueError: it was given and is not True.
    """
    if arguments.setdefault("use_safetensors", True) is not True:
        raise ValueError("`use_safetensors` must be True: other weight files are pickles, which can run code.")


def refuse_random_weights(argument: str, where: str, info: dict[str, Any]) -> None:
    """Refuse a checkpoint that leaves weights as they were initialised; the library only warns.

    Args:
        argument: name of the argument that `where` was given as.
        where: folder or Hub id.
        info: as returned by `from_pretrained(..., output_loading_info=True)`.

    Raises:
        ValueError: a weight is missing or has another shape.
    """
    lost = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if lost:
        raise ValueError(
            f"`{argument}` {where!r} lacks {len(lost)} weights of its own architecture ({', '.join(lost[:3])}"
            f"{', ...' if len(lost) > 3 else ''}); they would stay random. Use a complete checkpoint."
        )


class Origin:
    """Where a model's weights were loaded from, for as long as they are those weights.

    Two marks are kept of each weight. Some of its values show what optimizers, `load_state_dict` and a merged adapter
    do. The version counter also shows an operation in place that changes a few other values; it counts for weights
    that can train only, as `DistributedDataParallel` writes all weights once, with the values they have. Neither the
    device nor an adapter beside the weights makes a difference, and casting the weights does not count as a change.

    Args:
        where: Hub id or folder.
        commit: of the Hub repo; `None` for a folder.
        model: with these weights.
    """

    def __init__(self, where: str, commit: str | None, model: nn.Module) -> None:
        self.where = (where, commit)
        self._marks = {name: _Mark(weight) for name, weight in model.named_parameters()}

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
