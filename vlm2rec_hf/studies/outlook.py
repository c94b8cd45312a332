"""What a study would do: its runs, what is done of them, and how long the rest may take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..trainers.checkpoints import complete_checkpoints
from ..trainers.progress_bar import LOG_FILE
from .budget import MAX_SECONDS
from .runs import RESULT_FILE, Run, check_configs, read_json, runs_of
from .study_file import Study
from .work import check_arguments


@dataclass(frozen=True)
class Pace:
    """How far the training of a run is, and how fast it went.

    Args:
        steps: done.
        of: steps in all; 0: not known.
        seconds: that they took, validation included.
    """

    steps: int
    of: int
    seconds: float


def outlook(study: Study, only: Sequence[str] | None = None) -> str:
    """The runs of a study as a Markdown table, in their order, with the minutes that each may still take.

    An estimate is the mean of the finished runs of the same method on the same data; without one it comes from the
    run's own steps so far, else from those of runs of the same kind on the same data; the table says from what.

    Args:
        study: the study.
        only: these methods alone.

    Raises:
        ValueError: a run that was begun with another configuration, or arguments that cannot be used.
    """
    runs = runs_of(study, only)
    check_configs(runs)
    for run in runs:
        check_arguments(run)
    lines = ["| run | state | minutes left | estimated from |", "|---|---|---:|---|"]
    left, unknown = 0.0, 0
    for run in runs:
        if run.is_done:
            lines.append(f"| {run.key} | done in {_total(run) / 60:.1f} minutes | 0 | |")
            continue
        pace = pace_of(run)
        seconds, basis = estimate(run, runs, pace)
        state = "open" if pace is None else f"step {pace.steps}" + (f" of {pace.of}" if pace.of else "")
        left, unknown = left + (seconds or 0.0), unknown + (seconds is None)
        shown = "?" if seconds is None else f"{seconds / 60:.1f}"
        lines.append(f"| {run.key} | {state} | {shown} | {basis} |")
    done = sum(run.is_done for run in runs)
    rest = f", and {unknown} runs that nothing is known of yet" if unknown else ""
    return "\n".join(lines) + (
        f"\n\n{done} of {len(runs)} runs are done; {left / 3600:.1f} hours of one process are left{rest}.\n"
    )


def estimate(run: Run, runs: Sequence[Run], pace: Pace | None) -> tuple[float | None, str]:
    """Seconds that an open run may still take, and what that is based on.

    Args:
        run: open.
        runs: of the study.
        pace: of the run.
    """
    here = [other for other in runs if other.data == run.data and other != run]
    finished = [_total(other) for other in here if other.is_done and other.method == run.method]
    whole = sum(finished) / len(finished) if finished else None
    budget = run.arguments.get(MAX_SECONDS) if run.method.kind == "embedder" else None
    if budget is not None:
        done = pace.steps / pace.of if pace is not None and pace.of else 0.0
        return budget * (1 - done), "its budget, without validation and test"
    if pace is not None and pace.of and pace.steps:
        return (pace.of - pace.steps) * pace.seconds / pace.steps, f"its own {pace.steps} steps, without the test"
    if whole is not None:
        return whole, f"{len(finished)} finished runs of this method"
    alike = [other for other in here if other.method.kind == run.method.kind]
    others = [_total(other) for other in alike if other.is_done]
    if others:
        return sum(others) / len(others), f"{len(others)} finished runs of other methods"
    paces = [known for other in alike if (known := pace_of(other)) is not None and known.of and known.steps]
    if paces:
        steps = sum(known.steps for known in paces)
        seconds = sum(known.seconds / known.steps * known.of for known in paces) / len(paces)
        return seconds, f"{steps} steps of {len(paces)} runs of other methods, without the test"
    return None, "nothing: no run of this kind has taken a step yet"


def pace_of(run: Run) -> Pace | None:
    """How far a run is: by its newest whole checkpoint, else by its log; `None` where it has taken no step."""
    checkpoints = complete_checkpoints(run.folder)
    if checkpoints:
        state = json.loads((checkpoints[-1] / "trainer_state.json").read_text(encoding="utf-8"))
        clock = state["stateful_callbacks"]["TimedLog"]["attributes"]
        seconds = clock["seconds"] + clock["evaluation_seconds"]
        return Pace(state["global_step"], state["max_steps"], seconds)
    log = run.folder / LOG_FILE
    if not log.is_file():
        return None
    timed = [record for record in read_log(run) if "seconds" in record and record["step"]]
    if not timed:
        return None
    return Pace(int(timed[-1]["step"]), max(int(run.arguments.get("max_steps", 0)), 0), timed[-1]["seconds"])


def read_log(run: Run) -> list[dict[str, float]]:
    """The records of a run's training log; a line that a kill cut off is left out."""
    records = []
    for line in (run.folder / LOG_FILE).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:  # only the last line of a killed run can be half-written
            continue
    return records


def _total(run: Run) -> float:
    seconds = read_json(run.folder / RESULT_FILE)["seconds"]
    return float(sum(seconds.get(name, 0.0) for name in ("training", "validation", "test")))
