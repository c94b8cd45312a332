"""Make one table of all shards, in catalogue order, one shard in memory at a time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.vector_files import facts_of, job_id, read_manifest
from ..files import whole_file
from .manifest import write_manifest
from .shards import ShardPlan

if TYPE_CHECKING:
    import numpy as np

    from .job import EmbedJob


def quarantine_file(output: Path) -> Path:
    """Where the bad rows of a table in one file lie: `items.quarantine.parquet` beside `items.parquet`."""
    return output.with_name(f"{output.stem}.quarantine.parquet")


def assemble(job: EmbedJob, plan: ShardPlan, item_ids: np.ndarray) -> Counter[str]:
    """Finish a job all of whose shards are done; the caller holds the claim on it.

    A file as output: all shards in one, and their bad rows in another file, which is there first. A folder as
    output: the manifest lists the shards and says `complete`.

    Args:
        job: the job.
        plan: its shards.
        item_ids: `(n_items,)` the catalogue; every shard is held against it.

    Returns:
        How many bad rows there are, by reason.

    Raises:
        ValueError: a shard holds other items than the catalogue.
    """
    manifest = read_manifest(job.folder.manifest)
    assert manifest is not None
    counted: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []
    bad: list[Path] = []
    for shard in range(len(plan)):
        path, aside = job.folder.shard(plan, shard), job.folder.quarantine(plan, shard)
        quarantined = json.loads(facts_of(path)["quarantined"])
        counted.update(quarantined)
        bad += [aside] if quarantined else []
        entry = {"file": f"shards/{path.name}", "rows": len(plan.rows(shard)), "bytes": path.stat().st_size}
        entries.append({**entry, "quarantine": f"quarantine/{aside.name}" if quarantined else None})
    if job.makes_file:
        if bad:
            _join(bad, quarantine_file(job.output), {})
        facts = {
            "dataset_fingerprint": manifest["settings"]["dataset"]["fingerprint"],
            "model": manifest["model"],
            "revision": manifest["revision"],
            "job": job_id(manifest["settings"]),
            "settings": json.dumps(manifest["settings"], ensure_ascii=False),
            "quarantined": json.dumps(dict(counted)),
            "score_options": json.dumps(manifest.get("score_options")),
        }
        _join([job.folder.path / entry["file"] for entry in entries], job.output, facts, (plan, item_ids))
    else:
        content = {**manifest, "complete": True, "items": plan.n_items, "quarantined": dict(counted)}
        write_manifest(job.folder.manifest, {**content, "shards": entries})
    return counted


def _join(
    paths: list[Path], target: Path, facts: dict[str, str], catalogue: tuple[ShardPlan, np.ndarray] | None = None
) -> None:
    """Write tables of one schema one after the other into one file, each as a row group of its own."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(paths[0]).with_metadata(facts)
    with whole_file(target) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            for shard, path in enumerate(paths):
                table = pq.read_table(path)
                if catalogue is not None:
                    rows = catalogue[0].rows(shard)
                    if table["item_id"].to_pylist() != catalogue[1][rows.start : rows.stop].tolist():
                        raise ValueError(f"{str(path)!r} holds other items than the dataset; delete it and run again.")
                writer.write_table(table.replace_schema_metadata(facts))
