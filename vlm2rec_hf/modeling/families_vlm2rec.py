"""The families of vision-language backbones, a line each; a saved model's copy keeps the line of its own alone."""

from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from .family_gemma3 import Gemma3Family
from .family_idefics3 import Idefics3Family
from .family_llava import LlavaFamily
from .family_paligemma import PaliGemmaFamily
from .family_parts import PartsFamily
from .family_qwen_vl import QwenVLFamily
from .family_vlm2rec import BackboneFamily


def families() -> tuple[type[BackboneFamily], ...]:
    """All families there are: what is imported above."""
    found = [value for value in globals().values() if isinstance(value, type) and issubclass(value, BackboneFamily)]
    return tuple(family for family in found if family.model_types)


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


def configure(model_type: str, options: dict[str, Any]) -> Any:
    """A backbone's configuration; of a `model_type` that no family here knows, the library's."""
    family = next((family for family in families() if model_type in family.model_types), BackboneFamily)
    return family().configure(model_type, options)


def keep_family(folder: Any, family: BackboneFamily) -> None:
    """Leave the code of all other families out of a folder in which a model or processor has just been saved.

    The library copies all files that import one another. Here the lines of the others go out of this file's copy, and
    then the files that nothing imports any more: every file in a repo is one that its readers have to trust.
    """
    listing = Path(folder) / Path(__file__).name
    if not listing.is_file():
        return
    before = {Path(name) for name in get_relative_import_files(listing)}
    others = [f" import {other.__name__}\n" for other in families() if type(family) is not other]
    lines = listing.read_text(encoding="utf-8").splitlines(keepends=True)
    listing.write_text("".join(line for line in lines if not line.endswith(tuple(others))), encoding="utf-8")
    unused = before - {Path(name) for name in get_relative_import_files(listing)}
    others_need = [get_relative_imports(path) for path in Path(folder).glob("*.py") if path not in unused]
    for path in unused:
        if not any(path.stem in names for names in others_need):
            path.unlink()


class SavesOwnFamily:
    """What a model and a processor do alike when they are saved: only the code of their own family goes along."""

    family: Any

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as the library does; see `keep_family`."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            keep_family(save_directory, self.family)
        return saved

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        keep_family(working_dir, self.family)  # `save_pretrained(push_to_hub=True)` uploads before it returns
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]
