"""Every run once, whatever is killed when and whoever works on it; see `kill_study.py`."""

from collections import Counter

import pytest

from vlm2rec_hf.studies.runs import runs_of

from .conftest import kill_study
from .kill_study import MOMENTS
from .small_studies import small_study

STEPS = {f"{method}/seed-{seed} {step}" for seed in (0, 1) for method, n in (("sft", 4), ("head", 2))
         for step in range(1, n + 1)}  # fmt: skip


@pytest.mark.timeout(600)
def test_two_processes_share_a_study_and_do_every_run_once(studied):
    folder, told = studied
    (first, mine), (second, theirs) = told["shares"]
    assert first == second == 0 and mine and theirs
    assert Counter(mine + theirs) == Counter(STEPS)
    runs_of_each = [{line.split()[0] for line in lines} for lines in (mine, theirs)]
    assert not runs_of_each[0] & runs_of_each[1]
    assert all(run.is_done for run in runs_of(small_study(folder / "shared_by_two")))


def check_killed(told, seeds):
    codes = [code for code, _ in told["attempts"]]
    assert codes == [-9] * len(MOMENTS) * seeds + [0]
    assert told["differ"] == {} and len(told["compared"]) == 2 * seeds
    taken = Counter(step for _, steps in told["attempts"] for step in steps)
    twice = {step for step, times in taken.items() if times > 1}
    # Only what followed the last whole checkpoint is done again: the moment `torn` loses steps 3 and 4.
    assert twice == {f"sft/seed-{seed} {step}" for seed in range(seeds) for step in (3, 4)}
    assert set(taken) == {step for step in STEPS if int(step.split()[0][-1]) < seeds} and max(taken.values()) == 2


@pytest.mark.timeout(600)
def test_a_study_killed_at_every_stage_of_a_run_ends_like_an_unbroken_one(studied):
    check_killed(studied[1], 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_with_two_seeds(tmp_path):
    check_killed(kill_study(tmp_path, 2), 2)
