"""Run an embedding job, or resume it, until it is complete."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..catalogues.vector_files import facts_of, job_id, read_manifest
from ..data.dataset import RecDataset
from ..files import is_being_written, remove_folder, remove_leftovers
from .assemble import assemble, quarantine_file
from .earlier import EarlierVectors
from .job import EmbedJob, ShardDone
from .manifest import check_same_job
from .shards import NAMES, ShardPlan

Engine = Callable[[EmbedJob, list[int]], Iterator[ShardDone]]


@dataclass(frozen=True)
class Embedded:
    """Result of a run.

    Attributes:
        items: items of the catalogue.
        dimensions: length of the vectors; 0 while that is not known.
        missing: shards that belong to other parts and are not done yet; 0: the table is whole.
        shards: shards of the job.
        quarantined: bad rows of the table by reason; empty while shards are missing.
        quarantine: the file or folder of the bad rows; None where there are none.
    """

    items: int
    dimensions: int
    missing: int
    shards: int
    quarantined: dict[str, int]
    quarantine: Path | None


def run_embed_job(job: EmbedJob, engine: Engine, *, part: tuple[int, int] = (0, 1), progress: bool = True) -> Embedded:
    """Embed a catalogue, or one part of its shards; resumes where an earlier run of the same job stopped.

    Several runs may work in one folder at once, and any of them may be killed at any moment. The run that finds all
    shards done puts the table together.

    Args:
        job: what to do.
        engine: does shards that are missing, such as `run_here`.
        part: this run's index and the number of runs among which the shards are dealt out.
        progress: draw a bar.

    Returns:
        What is done now.

    Raises:
        ValueError: the output exists, or belongs to another job.
    """
    _check_free(job, alone=part[1] == 1)
    dataset = job.open_dataset()
    presence = job.folder.claims.enter()
    whole = False
    try:
        plan = job.plan(dataset)
        manifest = read_manifest(job.folder.manifest)
        known = job.known_settings(dataset, plan)
        if job.update is not None:
            EarlierVectors(job.update).check(known)  # before any model is loaded
        if manifest is not None:
            check_same_job(manifest, known, job.folder.manifest)
        if not (job.makes_file and job.output.exists()):
            _do_shards(job, engine, plan, part, manifest, progress)
        elif manifest is None:
            # Another part, or another run, finished and cleared up before this one began.
            return _finished_by_others(job, known, plan, alone=part[1] == 1)
        embedded = _finish(job, plan, dataset)
        whole = embedded.missing == 0
        return embedded
    finally:
        presence.close()
        _clear_up(job, whole=whole)


def _check_free(job: EmbedJob, *, alone: bool) -> None:
    """Refuse an output that another program, or an earlier job, made."""
    where, begun = str(job.output), job.folder.path.exists()
    if job.makes_file:
        if not begun:
            remove_leftovers(job.folder.path.parent)
        if job.output.exists() and not begun and alone:
            raise ValueError(f"`--output` {where!r} exists; name a new file or move the old one away.")
        if job.output.is_dir():
            raise ValueError(f"`--output` {where!r} is a folder; name a FILE.parquet, or a folder without `.parquet`.")
        aside = quarantine_file(job.output)
        if aside.exists() and not begun and not job.output.exists():
            raise ValueError(f"`--output` {where!r}: its bad rows would replace {str(aside)!r}; move that away.")
    elif job.output.exists() and not job.output.is_dir():
        raise ValueError(f"`--output` {where!r} is a file; name a new FILE.parquet or a folder.")
    elif job.output.is_dir() and any(p.name not in NAMES and not is_being_written(p) for p in job.output.iterdir()):
        raise ValueError(f"`--output` {where!r} holds something else; name a new folder.")


def _finished_by_others(job: EmbedJob, known: dict[str, Any], plan: ShardPlan, *, alone: bool) -> Embedded:
    """Result for a part that starts after others have completed the table of the same job."""
    facts = facts_of(job.output)
    if alone or "settings" not in facts:
        raise ValueError(f"`--output` {str(job.output)!r} exists; name a new file or move the old one away.")
    settings = json.loads(facts["settings"])
    check_same_job({"settings": settings}, known, job.output)
    return _whole(job, plan, settings, json.loads(facts["quarantined"]))


def _do_shards(
    job: EmbedJob, engine: Engine, plan: ShardPlan, part: tuple[int, int], manifest: dict | None, progress: bool
) -> None:
    """Run the missing shards of this part."""
    own = plan.part(*part)
    missing = own if manifest is None else job.folder.missing(plan, job_id(manifest["settings"]), own)
    if not missing:
        return
    with tqdm(total=len(own), initial=len(own) - len(missing), desc="Shards", disable=not progress) as bar:
        for _ in engine(job, missing):
            bar.update()
        bar.update(len(own) - bar.n)  # what other runs did meanwhile


def _finish(job: EmbedJob, plan: ShardPlan, dataset: RecDataset) -> Embedded:
    """Put the table together if all shards are done and no other run has."""
    manifest = read_manifest(job.folder.manifest)
    if manifest is None:  # a part that has no shards came first
        return Embedded(plan.n_items, 0, len(plan), len(plan), {}, None)
    settings = manifest["settings"]
    identity = job_id(settings)
    missing = job.folder.missing(plan, identity)
    if missing:
        return Embedded(plan.n_items, settings["loaded"]["dimensions"], len(missing), len(plan), {}, None)
    with job.folder.claims.wait("table"):
        manifest = read_manifest(job.folder.manifest) or manifest
        if job.makes_file and job.output.exists():
            facts = facts_of(job.output)
            if facts.get("job") != identity:
                raise ValueError(f"`--output` {str(job.output)!r} exists; name a new file or move the old one away.")
            return _whole(job, plan, settings, json.loads(facts["quarantined"]))
        if manifest["complete"]:
            return _whole(job, plan, settings, manifest["quarantined"])
        return _whole(job, plan, settings, assemble(job, plan, dataset.item_ids))


def _whole(job: EmbedJob, plan: ShardPlan, settings: Mapping[str, Any], quarantined: Mapping[str, int]) -> Embedded:
    """What a run reports once the table is whole."""
    aside = quarantine_file(job.output) if job.makes_file else job.output / "quarantine"
    dimensions = settings["loaded"]["dimensions"]
    return Embedded(plan.n_items, dimensions, 0, len(plan), dict(quarantined), aside if quarantined else None)


def _clear_up(job: EmbedJob, *, whole: bool) -> None:
    """Remove working files, unless they are still needed or another run is still at work there."""
    begun = job.folder.manifest.exists()
    if begun and not whole:
        return
    with job.folder.claims.alone() as alone:
        if not alone:
            return
        if job.makes_file:
            remove_folder(job.folder.path)
        else:
            remove_folder(job.folder.claims.folder)
            if not begun:
                with contextlib.suppress(OSError):  # not empty: not ours to remove
                    job.output.rmdir()
