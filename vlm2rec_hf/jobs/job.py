"""An embedding job: what to embed with what, and a worker that does shards of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.vector_files import job_id, read_manifest
from ..files import whole_file
from ..processes import POLL_SECONDS
from .manifest import changed_packages, check_same_job, package_versions, write_manifest
from .shards import ShardFolder, ShardPlan, default_shard_size

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.dataset import RecDataset
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
    from ..modeling.processing_vlm2rec import VLM2RecProcessor


@dataclass(frozen=True)
class EmbedJob:
    """Everything a worker needs, small enough to be sent to other processes and machines.

    Attributes:
        output: the parquet file to make (`.parquet`), or the folder that is to hold the shards.
        open_dataset: opens the dataset; called in every worker, so it must be picklable.
        load_model: loads model and processor; likewise.
        model: repo id or folder of the model, kept beside the vectors.
        revision: its commit, or a digest of its weights.
        shard_size: items per shard; by default as in a job begun before, else `default_shard_size`.
        batch_size: items per forward pass. Not part of what must stay the same: a run that did not fit into memory
            may be resumed with smaller batches.
        torch_threads: threads of each worker; PyTorch's own choice by default.
        update: a table of an earlier state of the dataset, whose unchanged items are not encoded again.
    """

    output: Path
    open_dataset: Callable[[], RecDataset]
    load_model: Callable[[], tuple[VLM2RecEmbedder, VLM2RecProcessor]]
    model: str
    revision: str
    shard_size: int | None = None
    batch_size: int = 64
    torch_threads: int | None = None
    update: Path | None = None

    @property
    def makes_file(self) -> bool:
        """Whether one file is made of the shards at the end."""
        return self.output.suffix == ".parquet"

    @property
    def folder(self) -> ShardFolder:
        """Where the shards go: the output itself, or a folder beside it."""
        return ShardFolder(self.output.with_name(f"{self.output.name}.work") if self.makes_file else self.output)

    def plan(self, dataset: RecDataset) -> ShardPlan:
        """How the dataset is cut: as asked, else as begun, else by its size."""
        begun = read_manifest(self.folder.manifest)
        size = self.shard_size
        if size is None:
            size = begun["settings"]["shards"]["shard_size"] if begun else default_shard_size(dataset.n_items)
        return ShardPlan(dataset.n_items, size)

    def known_settings(self, dataset: RecDataset, plan: ShardPlan) -> dict[str, Any]:
        """Settings that need no model in memory."""
        return {
            "dataset": {"fingerprint": dataset.fingerprint, "items": dataset.n_items},
            "model": {"revision": self.revision or self.model},
            "shards": {"shard_size": plan.shard_size},
        }


@dataclass(frozen=True)
class ShardDone:
    """What a worker reports of a shard it wrote: `shard`, `rows`, and `quarantined` bad rows."""

    shard: int
    rows: int
    quarantined: int


class ShardWorker:
    """A process's dataset, model and processor, ready to do shards of a job.

    Args:
        job: the job.
        device: which accelerator to use, counted among those there are.

    Raises:
        ValueError: the folder holds another job's shards, or the dataset or model cannot be used.
    """

    def __init__(self, job: EmbedJob, *, device: int = 0) -> None:
        from .earlier import EarlierVectors
        from .settings import loaded_settings

        self.job = job
        self.dataset = job.open_dataset()
        self.plan = job.plan(self.dataset)
        model, self.processor = job.load_model()
        self.model = _place(model, device)
        known = job.known_settings(self.dataset, self.plan)
        settings = {**known, **loaded_settings(self.model, self.processor)}
        self.earlier = None if job.update is None else EarlierVectors(job.update)
        if self.earlier is not None:
            self.earlier.check(settings)
        self.identity = open_manifest(job, settings, self.model.config.score_options)

    def run(self, shards: list[int]) -> Iterator[ShardDone]:
        """Do these shards, each unless another worker does it; ends when all are done.

        Yields:
            What this worker wrote itself.
        """
        waiting, folder = shards, self.job.folder
        while waiting:
            still: list[int] = []
            for shard in waiting:
                with folder.claims.attempt(self.plan.name(shard)) as mine:
                    if not mine:
                        still.append(shard)
                    elif not folder.is_done(self.plan, shard, self.identity):
                        yield self._do(shard)
            if len(still) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = still

    def _do(self, shard: int) -> ShardDone:
        """Embed one shard and write it; bad rows first, because the vectors' file says that the shard is done."""
        from ..data.quarantine import counts
        from .embed_items import embed_items, with_facts

        job, rows = self.job, self.plan.rows(shard)
        vectors, bad = embed_items(
            self.dataset, rows, self.model, self.processor, batch_size=job.batch_size, earlier=self.earlier
        )
        if bad.num_rows:
            _write_table(bad, job.folder.quarantine(self.plan, shard))
        facts = {"job": self.identity}
        _write_table(with_facts(vectors, facts, counts(bad)), job.folder.shard(self.plan, shard))
        return ShardDone(shard, vectors.num_rows, bad.num_rows)


def open_manifest(job: EmbedJob, settings: Mapping[str, Any], score_options: Mapping[str, Any] | None = None) -> str:
    """Write the job's manifest, or hold the settings against the one that is there.

    Args:
        job: the job.
        settings: what decides the vectors; they must stay the same.
        score_options: of the model, for who scores with the vectors; they decide no vector.

    Returns:
        The id of the job.

    Raises:
        ValueError: the folder holds another job.
    """
    folder = job.folder
    with folder.claims.wait("manifest"):
        manifest = read_manifest(folder.manifest)
        if manifest is None:
            folder.make()
            content = {"model": job.model, "revision": job.revision, "settings": settings, "complete": False}
            content["score_options"] = None if score_options is None else dict(score_options)
            write_manifest(folder.manifest, {**content, "packages": package_versions()})
            return job_id(settings)
    check_same_job(manifest, settings, folder.manifest)
    changed = changed_packages(manifest)
    if changed:
        warnings.warn(
            f"{folder.path}: begun with other versions ({', '.join(changed)}); vectors may differ in the last digits.",
            stacklevel=2,
        )
    return job_id(manifest["settings"])


def _write_table(table: pa.Table, path: Path) -> None:
    """One parquet file, whole and on the disk."""
    import pyarrow.parquet as pq

    with whole_file(path) as partial:
        pq.write_table(table, partial)


def _place(model: Any, device: int) -> Any:
    """The model on an accelerator where there is one."""
    import torch

    count = torch.cuda.device_count()
    return model.to(f"cuda:{device % count}") if count else model
