"""What our models share in loading: one commit for all files, safetensors only, no weights left to chance."""

import os
from typing import Any

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
