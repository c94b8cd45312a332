"""Tables of vectors on disk, as `vlm2rec embed` writes them: one file, or a folder of shards with a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, None where there is none yet.

    Raises:
        ValueError: damaged, or written by a newer version.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, _ = manifest["format_version"], manifest["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no manifest of ours ({error!r}); move it away.") from error
    if version > FORMAT_VERSION:
        raise ValueError(f"{str(path)!r} has format {version}, this package reads {FORMAT_VERSION}.")
    return manifest


def job_id(settings: Mapping[str, Any]) -> str:
    """A digest of everything that decides what the rows are; every shard carries it."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def facts_of(path: Path) -> dict[str, str]:
    """The facts in a parquet file's schema, without Arrow's own."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}


def table_files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The parquet files of a table of vectors in catalogue order, and the facts about it.

    Args:
        path: a file, or a folder that `vlm2rec embed` wrote.

    Returns:
        Files, and `dataset_fingerprint`, `model`, `revision`, `job` as text (as far as the file has them).

    Raises:
        ValueError: a folder of something else, one that is not whole yet, or one that has lost shards.
    """
    if not path.is_dir():
        return [path], facts_of(path)
    manifest = read_manifest(path / "manifest.json")
    if manifest is None:
        raise ValueError(f"{str(path)!r} holds no manifest.json; write it with `vlm2rec embed`.")
    if not manifest["complete"]:
        raise ValueError(f"{str(path)!r} is not whole yet; run `vlm2rec embed` again to go on with it.")
    files = [path / entry["file"] for entry in manifest["shards"]]
    for file, entry in zip(files, manifest["shards"], strict=True):
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise ValueError(f"{str(path)!r}: {entry['file']} {state}; delete it and run `vlm2rec embed` again.")
    facts = {
        "dataset_fingerprint": manifest["settings"]["dataset"]["fingerprint"],
        "model": manifest["model"],
        "revision": manifest["revision"],
        "job": job_id(manifest["settings"]),
    }
    return files, facts
