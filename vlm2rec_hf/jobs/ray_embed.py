"""Embed shards as a Ray Data job: a pool of actors, each of which loads the model once.

Every actor writes its shards into the job's folder, which all nodes must see; what travels through Ray is which shard
to do and its result. So the table is the same with every engine, and a job may be begun with one and finished with
another.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .failures import Failure
from .job import EmbedJob, ShardDone, ShardWorker

if TYPE_CHECKING:
    import numpy as np


OBJECT_STORE_BYTES = 100 * 1024**2  # only numbers of shards travel


def run_ray(job: EmbedJob, shards: list[int], *, count: int) -> Iterator[ShardDone]:
    """Do the shards on a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names, else a local one.

    Args:
        job: the job; its folder, dataset and model must be there on all nodes.
        shards: to do.
        count: actors. Each takes one CPU, and one GPU where the cluster has any.

    Yields:
        What was written, as it is written.

    Raises:
        ImportError: Ray is not installed.
        ValueError: an actor reports bad input.
        RuntimeError: an actor failed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "`--engine ray` needs Ray: pip install 'vlm2rec-hf[ray]'; `--engine local` does without."
        ) from error
    started = not ray.is_initialized()
    if started:
        _connect(ray, count)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the job has its own
    try:
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        done = rows.map_batches(
            _ShardActor,
            fn_constructor_args=(job,),
            batch_size=1,
            num_cpus=1,
            num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(shards))),
        )
        for row in done.iter_rows():
            if row["failure"]:
                raise Failure(**json.loads(row["failure"])).as_error("of Ray")
            if row["written"]:
                yield ShardDone(int(row["shard"]), int(row["rows"]), int(row["quarantined"]))
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, count: int) -> None:
    """Join the cluster named by `RAY_ADDRESS`, or start one that only this machine can reach."""
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ray.init(
            address="local",
            num_cpus=max(count, cores),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )


class _ShardActor:
    """Embeds the shards it is given; errors come back as rows, because Ray's own would hide their cause."""

    def __init__(self, job: EmbedJob) -> None:
        self._job = job
        self._worker: ShardWorker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One row per shard: what was written, or why not."""
        import torch

        rows: list[dict[str, Any]] = []
        for shard in batch["shard"].tolist():
            row = {"shard": shard, "rows": 0, "quarantined": 0, "written": False, "failure": ""}
            try:
                if self._worker is None:
                    torch.set_num_threads(self._job.torch_threads or 1)
                    self._worker = ShardWorker(self._job)
                for done in self._worker.run([shard]):
                    row |= {**asdict(done), "written": True}
            except Exception as error:
                row["failure"] = json.dumps(asdict(Failure.of(error)))
            rows.append(row)
        return {name: [row[name] for row in rows] for name in rows[0]}
