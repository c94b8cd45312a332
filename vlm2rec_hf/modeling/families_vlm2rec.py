"""All families of vision-language backbones; a new one is listed here."""

from .family_idefics3 import Idefics3Family
from .family_paligemma import PaliGemmaFamily
from .family_parts import PartsFamily
from .family_qwen_vl import QwenVLFamily
from .family_vlm2rec import BackboneFamily


def families() -> tuple[type[BackboneFamily], ...]:
    """All families there are."""
    return (QwenVLFamily, Idefics3Family, PaliGemmaFamily, PartsFamily)


def family_of(model_type: str) -> BackboneFamily:
    """The family of a backbone's `model_type`.

    Raises:
        ValueError: no family knows this `model_type`.
    """
    for family in families():
        if model_type in family.model_types:
            return family()
    known = sorted(name for family in families() for name in family.model_types)
    raise ValueError(f"`vlm_config` has model_type {model_type!r}; supported backbones are {known}.")
