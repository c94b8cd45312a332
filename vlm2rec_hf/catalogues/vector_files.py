"""Find the vectors that a job wrote: one file, or a folder of shards."""

from __future__ import annotations

from pathlib import Path

from ..jobs.assemble import facts_of
from ..jobs.manifest import job_id, read_manifest


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
