"""Which files of a model folder belong on the Hub, and whether the folder is whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..hub.card_marks import CARD_FILE
from .code_files import code_files
from .model_folder import read_json, read_report
from .model_kinds import kind_of

# What a loader of ours, of transformers, PEFT or sentence-transformers reads, and what a reader wants to see.
PUBLISHED = (
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors",
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]_*/*.json",
    "[0-9]_*/model.safetensors", "training.json", "catalogue.parquet", "evaluation/report.json", "evaluation/*.png",
    "evaluation/*.md",
)  # fmt: skip
# What an earlier version may have left in the repo and would be loaded, or believed, beside the new files.
STALE = (
    *PUBLISHED, "pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "training_args.bin",
    "tf_model.h5", "flax_model.msgpack", "model*.safetensors",
)  # fmt: skip
KEPT = (".gitattributes", CARD_FILE)
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder.

    Attributes:
        folder: the model's folder.
        config: its `config.json`.
        adapter: its `adapter_config.json` where it holds an adapter alone, `None` otherwise.
        published: paths relative to `folder`, sorted, README.md not among them.
        left_out: paths relative to `folder` that stay here; a folder left out whole ends in `/`.
    """

    folder: Path
    config: dict[str, Any]
    adapter: dict[str, Any] | None
    published: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def model_type(self) -> str:
        """`model_type` of the configuration."""
        return str(self.config.get("model_type"))


def find_model_files(folder: Path) -> ModelFiles:
    """Sort a model folder's files, after checking that the model is whole.

    Raises:
        ValueError: no folder, no `config.json`, weights missing, damaged or not safetensors, or code files missing.
    """
    if not folder.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is no folder; name one that `save_pretrained` or a trainer wrote.")
    config = _require_json(folder / "config.json", "no saved model; name the folder that holds the model itself")
    code = _code_files(folder)
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    published = [name for name in present if _matches(name, PUBLISHED)] + code
    if read_report(folder) is None:
        published = [name for name in published if not name.startswith("evaluation/")]
    weights = _check_weights(folder, published)
    adapter = None
    if weights and "adapter_config.json" in published:
        raise ValueError(
            f"`folder` {str(folder)!r} holds both a whole model and an adapter; loaders differ in which they take. "
            "Publish them from folders of their own."
        )
    for name, remedy in kind_of(str(config.get("model_type"))).required.items():
        if name not in published:
            raise ValueError(f"`folder` {str(folder)!r} has no {name}: {remedy}.")
    if not weights:
        adapter = _require_json(folder / "adapter_config.json", "no weights: neither model.safetensors nor an adapter")
        _check_tensors(folder, "adapter_model.safetensors")
    left = {name for name in present if name not in published and name != CARD_FILE}
    return ModelFiles(folder, config, adapter, tuple(sorted(published)), tuple(_fold(left, published)))


def stale_files(remote: Iterable[str], published: Iterable[str], own_code: Iterable[str]) -> list[str]:
    """Files of an earlier version that the new one does not have and that must not stay beside it.

    Args:
        remote: paths in the repo.
        published: paths of the new version.
        own_code: Python files that are ours, in whatever version.
    """
    kept, own = {*published, *KEPT}, set(own_code)
    return sorted(name for name in remote if name not in kept and (name in own or _matches(name, STALE)))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of the patterns, part by part: `*` stays within one folder."""
    parts = name.split("/")
    return any(
        len(parts) == len(wanted) and all(fnmatchcase(*pair) for pair in zip(parts, wanted, strict=True))
        for wanted in (pattern.split("/") for pattern in patterns)
    )


def _check_weights(folder: Path, names: list[str]) -> bool:
    """Whether the folder holds full weights; damaged or missing shards are an error."""
    if "model.safetensors" in names:
        _check_tensors(folder, "model.safetensors")
        # A shard left over from another saving would be uploaded for nothing.
        names[:] = [name for name in names if not fnmatchcase(name, "model-*-of-*.safetensors") and name != INDEX]
        return True
    if INDEX not in names:
        return False
    listed = _require_json(folder / INDEX, "an index that cannot be read").get("weight_map", {})
    tensors: set[str] = set()
    for shard in sorted(set(listed.values())):
        tensors |= _check_tensors(folder, shard)
    if lost := sorted(set(listed) - tensors):
        raise ValueError(
            f"`folder` {str(folder)!r}: {len(lost)} weights of {INDEX} are in none of its shards ({lost[0]}, ...); "
            "save the model again."
        )
    names[:] = [n for n in names if not fnmatchcase(n, "model-*-of-*.safetensors") or n in set(listed.values())]
    return True


def _check_tensors(folder: Path, name: str) -> set[str]:
    """Names of the tensors in a safetensors file; opening it checks that its length fits its header."""
    from safetensors import SafetensorError, safe_open

    path = folder / name
    if not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        hint = f" ({', '.join(pickles)} is no safetensors and is not published)" if pickles else ""
        raise ValueError(f"`folder` {str(folder)!r} lacks {name}{hint}; save the model again, whole.")
    try:
        with safe_open(path, "pt") as tensors:  # type: ignore[no-untyped-call]
            return set(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`folder` {str(folder)!r}: {name} is damaged ({error}); save the model again.") from error


def _code_files(folder: Path) -> list[str]:
    present, missing = code_files(folder)
    if missing:
        raise ValueError(
            f"`folder` {str(folder)!r} lacks {min(missing)}, code that its `auto_map` needs; save the model again."
        )
    return sorted(present)


def _require_json(path: Path, meaning: str) -> dict[str, Any]:
    content = read_json(path)
    if content is None:
        raise ValueError(f"`folder` {str(path.parent)!r} has no {path.name}: it is {meaning}.")
    return content


def _fold(names: Iterable[str], published: Iterable[str]) -> list[str]:
    """Name a folder once where nothing of it is published."""
    used = {name.split("/")[0] for name in published if "/" in name}
    return sorted({f"{n.split('/')[0]}/" if "/" in n and n.split("/")[0] not in used else n for n in names})
