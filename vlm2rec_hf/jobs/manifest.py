"""The manifest of a sharded job: what is computed, from what, by what, and with what result."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..catalogues.vector_files import FORMAT_VERSION
from ..files import json_bytes, whole_file

PACKAGES = ("vlm2rec-hf", "torch", "transformers", "tokenizers", "pillow", "torchvision")


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write it whole; the caller holds the claim on it."""
    with whole_file(path) as partial:
        partial.write_bytes(json_bytes({"format_version": FORMAT_VERSION, **content}))


def check_same_job(manifest: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """Hold settings against those of a manifest; only what `settings` names is compared.

    Raises:
        ValueError: they differ; says in what.
    """
    found = differences(manifest["settings"], settings)
    if found:
        raise ValueError(
            f"`--output`: {str(path.parent)!r} holds the shards of another job: {'; '.join(found)}. Name "
            "another output, or delete that folder to start anew."
        )


def differences(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """In what two settings differ, in words; only what `settings` names is compared."""
    there, here = _flat(earlier), _flat(settings)
    sections = tuple(f"{name}." for name in settings)
    names = [name for name in there if name in here or name.startswith(sections)]
    names += [name for name in here if name not in there]
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in names
        if there.get(name) != here.get(name)
    ]


def package_versions() -> dict[str, str]:
    """Versions of what computes the vectors; absent packages are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def changed_packages(manifest: Mapping[str, Any]) -> list[str]:
    """What has another version now than when the job began: `torch 2.12 -> 2.13`."""
    now, then = package_versions(), dict(manifest.get("packages", {}))
    names = [name for name in PACKAGES if now.get(name) != then.get(name)]
    return [f"{name} {then.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
