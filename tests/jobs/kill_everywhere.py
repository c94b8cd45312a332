"""Run a job in process after process, each killed (SIGKILL) right before another one of its file operations.

Every round starts in an empty folder, is killed at its k-th operation, and is then run to its end; so no moment
between two file operations is left out, those of the assembly and of clearing up among them. Some rounds are killed
at random moments as well, again and again, until the job is through. Prints one JSON line.

    python -m tests.jobs.kill_everywhere FOLDER SEED SHARD_SIZE RANDOM_ROUNDS FILE_STEP FOLDER_STEP

The steps are 1 for every operation, 3 for every third one.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from tests.forks import fork, killed_at
from tests.jobs.small_jobs import leftovers, run, small_dataset, small_job, small_model, table_of
from vlm2rec_hf.files import remove_leftovers
from vlm2rec_hf.jobs.assemble import quarantine_file


def attempt(job, before=lambda: None, kill_after=None):
    """Run a job in a process of its own and tell how that ended: 0 well, -9 killed."""
    pid = fork()
    if pid == 0:
        try:
            before()
            run(job)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so the number is still this process's
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(job):
    """Run a job to its end, as a user would: until its table is there and nothing is under way."""
    while not job.output.exists() or job.folder.path.exists():
        if attempt(job) != 0:
            raise SystemExit("a run that nobody killed failed")
        if not job.makes_file:
            return


def main(folder, seed, shard_size, random_rounds, file_step, folder_step):
    torch.set_num_threads(1)
    dataset, loaded = small_dataset(), small_model()
    reference = small_job(folder / "reference" / "items.parquet", dataset, loaded, shard_size=shard_size)
    start = time.perf_counter()
    run(reference)
    seconds = time.perf_counter() - start
    expected, bad = table_of(reference.output), pq.read_table(quarantine_file(reference.output))
    counts = {"operations": 0, "killed_with_table": 0, "random_kills": 0, "folder_operations": 0}

    # A folder as output shares all but the last steps with a file, so a few moments of it do.
    for name, counted, step in (
        ("items.parquet", "operations", file_step),
        ("items", "folder_operations", folder_step),
    ):
        for number in range(0, 10_000, step):
            job = small_job(folder / f"{name}-{number}" / name, dataset, loaded, shard_size=shard_size)
            if attempt(job, lambda job=job, n=number: killed_at(n, str(job.output.parent))) == 0:
                break  # it has fewer operations than that
            counts["killed_with_table"] += job.makes_file and job.output.exists()
            finish(job)
            assert table_of(job.output).equals(expected), number
            aside = quarantine_file(job.output) if job.makes_file else job.output / "quarantine"
            assert pq.read_table(aside).equals(bad), number
            remove_leftovers(job.output.parent)  # as the next writer there does
            assert leftovers(job.output) == [], (number, leftovers(job.output))
            counts[counted] += 1

    draw = random.Random(seed)
    for trial in range(random_rounds):
        job = small_job(folder / f"random-{trial}" / "items.parquet", dataset, loaded, shard_size=shard_size)
        while not job.output.exists() or job.folder.path.exists():
            code = attempt(job, kill_after=draw.uniform(0, 1.2 * seconds))
            assert code in (0, -9)
            counts["random_kills"] += code == -9
        assert table_of(job.output).equals(expected)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
