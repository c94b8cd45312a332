"""Embed shards in this process, or in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from ..processes import follow_parent
from .failures import Failure
from .job import EmbedJob, ShardDone, ShardWorker

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


def run_here(job: EmbedJob, shards: list[int], *, device: int = 0) -> Iterator[ShardDone]:
    """Do the shards in this process; see `ShardWorker`."""
    if job.torch_threads is not None:
        import torch

        torch.set_num_threads(job.torch_threads)
    yield from ShardWorker(job, device=device).run(shards)


def run_processes(job: EmbedJob, shards: list[int], *, count: int, device: int = 0) -> Iterator[ShardDone]:
    """Do the shards in processes of their own, each with its own copy of the model.

    Whichever process is free takes the next shard. The first error stops all; shards that are done stay done. If this
    process dies, they end, too.

    Args:
        job: the job; sent to the processes, so all it holds must be picklable.
        shards: to do.
        count: processes, at most one per shard.
        device: accelerator of the first process; the next ones take the next ones.

    Yields:
        What was written, as it is written.

    Raises:
        ValueError: a process reports bad input.
        RuntimeError: a process failed or was killed.
    """
    spawn = multiprocessing.get_context("spawn")
    count = min(count, len(shards))
    workers: dict[Connection, SpawnProcess] = {}
    try:
        for i in range(count):
            reports, sender = spawn.Pipe(duplex=False)
            worker = spawn.Process(target=_worker, args=(job, shards, device + i, (i, count), sender), name=str(i))
            worker.start()
            sender.close()  # the worker's is the only one left, so its death ends the pipe
            workers[reports] = worker
        yield from _reports(workers)
        for worker in workers.values():
            worker.join()
    finally:
        for worker in workers.values():
            worker.terminate()  # those that an error leaves behind
        for worker in workers.values():
            worker.join()


def _reports(workers: dict[Connection, SpawnProcess]) -> Iterator[ShardDone]:
    """Reports of the workers, until all have ended without error."""
    running = dict(workers)
    while running:
        for pipe in wait(list(running)):
            assert isinstance(pipe, Connection)
            worker = running[pipe]
            try:
                report = pipe.recv()
            except EOFError:
                worker.join()
                raise RuntimeError(_cause(worker)) from None
            if isinstance(report, Failure):
                raise report.as_error(worker.name)
            if report is None:
                del running[pipe]
            else:
                yield report


def _cause(worker: SpawnProcess) -> str:
    code = worker.exitcode or 0
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
        how += " (out of memory? try fewer processes or smaller batches)" if code == -signal.SIGKILL else ""
    return f"Worker {worker.name} was ended by {how}; the shards done so far are kept, run again to go on."


def _worker(job: EmbedJob, shards: list[int], device: int, part: tuple[int, int], sender: Connection) -> None:
    """Body of one worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    threading.Thread(target=follow_parent, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(job.torch_threads or 1)
        # Each starts elsewhere, so that they do not try for the same shards.
        first = part[0] * len(shards) // part[1]
        for done in ShardWorker(job, device=device).run(shards[first:] + shards[:first]):
            sender.send(done)
        sender.send(None)
    except Exception as error:
        sender.send(Failure.of(error))
