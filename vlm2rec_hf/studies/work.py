"""Do the open runs of a study: in this process or in several, each run by one of them, from wherever it stands."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processes import follow_parent
from .callbacks import TimeIsUp
from .embedder_run import embedder_arguments, train_embedder
from .final_report import report_test_users
from .fitting import drop_checkpoints, is_trained
from .head_run import head_arguments, train_head
from .report_options import check_report, report_options
from .runs import (
    ERROR_FILE,
    REPORT_FOLDER,
    RESULT_FILE,
    TRAINED_FILE,
    Run,
    check_configs,
    read_json,
    runs_of,
    write_config,
    write_json,
)
from .shared_work import claims_of, processor_options, shared_dataset
from .study_file import Study

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0


def run_study(
    study: Study,
    *,
    only: Sequence[str] | None = None,
    processes: int = 1,
    threads: int = 1,
    max_hours: float | None = None,
) -> list[Run]:
    """Do what is open of a study. Any number of processes, wherever they were started, share the work.

    A run is done when its `result.json` is there; a half-trained one goes on from its newest whole checkpoint. A run
    that fails leaves `error.txt` and the others go on.

    Args:
        study: the study.
        only: these methods alone.
        processes: started here; 1: this one does the work.
        threads: of each process.
        max_hours: after these no run is begun, and training ends at its next checkpoint.

    Returns:
        The runs that are still open, because time was up or others work on them.

    Raises:
        ValueError: a run that was begun with another configuration, or arguments that cannot be used.
        RuntimeError: runs failed.
    """
    if processes < 1 or threads < 1 or (max_hours is not None and max_hours <= 0):
        raise ValueError("`processes` and `threads` must be at least 1 and `max_hours` above 0; got "
                         f"{processes}, {threads}, {max_hours}.")  # fmt: skip
    runs = runs_of(study, only)
    check_configs(runs)
    for run in runs:
        check_arguments(run)
    began = time.time()
    deadline = None if max_hours is None else began + 3600 * max_hours
    if processes == 1:
        work(runs, threads, deadline, began)
    else:
        _in_processes(runs, processes, threads, deadline, began)
    failed = [run for run in runs if _failed_since(run, began)]
    if failed:
        listed = ", ".join(f"{run.key} ({_last_line(run.folder / ERROR_FILE)})" for run in failed)
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed, see {ERROR_FILE} in their folders: {listed}")
    return [run for run in runs if not run.is_done]


def check_arguments(run: Run) -> None:
    """Refuse arguments of training and evaluation that cannot be used, before anything is done.

    Raises:
        ValueError: there are some.
    """
    report_options(run)
    processor_options(run)
    try:
        if run.method.kind == "embedder":
            embedder_arguments(run)
        elif run.method.kind == "head":
            head_arguments(run)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`methods`: the arguments of {run.method.name!r} cannot be used: {error}") from error


def work(runs: Sequence[Run], threads: int, deadline: float | None, began: float) -> None:
    """Do open runs in order until none is left that this process could do.

    Args:
        runs: of one study.
        threads: of torch.
        deadline: moment of `time.time()` after which nothing is begun.
        began: runs that failed since this moment are left alone.
    """
    import torch

    torch.set_num_threads(threads)
    while True:
        open_runs = [run for run in runs if not run.is_done and not _failed_since(run, began)]
        ready = [run for run in open_runs if (needed := run.needs()) is None or needed.is_done]
        if not ready or _is_past(deadline):
            if not open_runs or _is_past(deadline) or not _somebody_works_on_what_they_need(open_runs):
                return
            time.sleep(POLL_SECONDS)
            continue
        if not any(_claim_and_do(run, deadline, began) for run in ready):  # after each, the order decides anew
            if not _somebody_works_on_what_they_need(open_runs):
                return  # others work on all that is left
            time.sleep(POLL_SECONDS)


def _claim_and_do(run: Run, deadline: float | None, began: float) -> bool:
    """Do a run unless it is done, another process has it, or time is up; returns whether this process did."""
    if run.is_done or _failed_since(run, began) or _is_past(deadline):
        return False
    with claims_of(run.study).attempt(_claim(run)) as mine:
        if not mine or run.is_done or _failed_since(run, began):
            return False
        try:
            do_run(run, deadline)
        except TimeIsUp:
            logger.info("%s: time is up; it goes on from its newest checkpoint next time", run.key)
        except Exception as error:  # the other runs go on; all failures are reported at the end
            run.folder.mkdir(parents=True, exist_ok=True)
            (run.folder / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")
            logger.warning("%s failed: %s: %s", run.key, type(error).__name__, error)
        return True


def do_run(run: Run, deadline: float | None = None) -> None:
    """Do one run from where its folder stands: train, test, and write `result.json` last.

    Raises:
        TimeIsUp: the deadline has passed.
        ValueError: it was begun with another configuration.
    """
    began, process = time.perf_counter(), time.process_time()
    dataset = shared_dataset(run.study, run.data)
    check_report(run, dataset)
    write_config(run, dataset.fingerprint)
    logger.info("%s: %s", run.key, "goes on" if any(run.folder.glob("checkpoint-*")) else "begins")
    kind, facts = run.method.kind, {}
    if kind != "zero_shot":
        if not is_trained(run):
            (train_embedder if kind == "embedder" else train_head)(run, dataset, deadline)
        drop_checkpoints(run.folder)
        facts = read_json(run.folder / TRAINED_FILE)
    if not (run.folder / REPORT_FOLDER / "report.json").is_file():
        report_test_users(run, dataset)
    report = read_json(run.folder / REPORT_FOLDER / "report.json")
    (run.folder / ERROR_FILE).unlink(missing_ok=True)
    seconds = {**facts.pop("seconds", {}), "test": report["facts"]["seconds"]}
    seconds["last_attempt"] = round(time.perf_counter() - began, 1)
    seconds["last_attempt_process"] = round(time.process_time() - process, 1)
    write_json(
        run.folder / RESULT_FILE,
        {
            "data": run.data.name,
            "method": run.method.name,
            "seed": run.seed,
            **facts,
            "seconds": seconds,
            "dataset": dataset.fingerprint,
            "weights": report["facts"].get("weights"),
            "code": code_version(),
            "platform": sys.platform,
        },
    )
    logger.info("%s: done", run.key)


def code_version() -> dict[str, Any]:
    """Versions of the package and its libraries, and the commit of the package's checkout where it has one."""
    from ..trainers.training_facts import library_versions

    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {**library_versions(), "commit": asked.stdout.strip() or None}


def _in_processes(runs: Sequence[Run], processes: int, threads: int, deadline: float | None, began: float) -> None:
    """Work in processes of their own, which end when this one does."""
    spawn = multiprocessing.get_context("spawn")
    level = logging.getLogger("vlm2rec_hf").getEffectiveLevel()
    workers: list[BaseProcess] = [
        spawn.Process(target=_worker, args=(runs, threads, deadline, began, level)) for _ in range(processes)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()
    killed = [worker.exitcode for worker in workers if worker.exitcode]
    if killed:
        raise RuntimeError(
            f"{len(killed)} of {processes} processes ended with exit codes {killed} (below 0: a signal; -9 may mean "
            "that memory ran out); what was done is kept, run again to go on."
        )


def _worker(runs: Sequence[Run], threads: int, deadline: float | None, began: float, level: int) -> None:
    """Body of one process."""
    from ..quiet import quiet_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    threading.Thread(target=follow_parent, daemon=True).start()
    package = logging.getLogger("vlm2rec_hf")
    package.addHandler(logging.StreamHandler())
    package.setLevel(level)
    logging.getLogger("vlm2rec_hf.modeling").setLevel(logging.WARNING)
    quiet_process()
    work(runs, threads, deadline, began)


def _claim(run: Run) -> str:
    return f"run.{run.data.name}.{run.method.name}.seed-{run.seed}"


def _somebody_works_on_what_they_need(runs: Sequence[Run]) -> bool:
    """Whether a run that another one waits for is claimed by a living process."""
    for needed in filter(None, (run.needs() for run in runs)):
        with claims_of(needed.study).attempt(_claim(needed)) as mine:
            if not mine:
                return True
    return False


def _failed_since(run: Run, moment: float) -> bool:
    path = run.folder / ERROR_FILE
    return not run.is_done and path.is_file() and path.stat().st_mtime >= moment


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline


def _last_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip().splitlines()[-1]
