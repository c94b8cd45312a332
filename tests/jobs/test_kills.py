"""Exactly once, whatever is killed when; the work is done by `kill_everywhere.py`, in a process that may fork."""

import pytest

from ..forks import in_a_process


@pytest.mark.timeout(900)
def test_a_job_killed_before_every_eighth_file_operation_goes_on_to_the_same_table(tmp_path):
    result = in_a_process("tests.jobs.kill_everywhere", tmp_path, 0, 16, 1, 8, 16)
    assert result["operations"] > 5 and result["folder_operations"] > 2


@pytest.mark.slow
@pytest.mark.timeout(900)  # some 15 s of work, most of it in waiting for the disk
def test_a_job_killed_before_any_file_operation_goes_on_to_the_same_table(tmp_path):
    result = in_a_process("tests.jobs.kill_everywhere", tmp_path, 0, 16, 1, 1, 8)
    assert result["operations"] > 40 and result["folder_operations"] > 5
    assert result["killed_with_table"] >= 2  # between the table's appearance and the end of clearing up


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_with_more_shards_and_many_random_kills(tmp_path):
    result = in_a_process("tests.jobs.kill_everywhere", tmp_path, 1, 4, 40, 1, 1)
    assert result["operations"] > 80 and result["random_kills"] > 40
