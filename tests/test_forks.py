"""A forked process that is killed leaves no lock behind it."""

import os
import signal

import pytest
from tqdm.auto import tqdm

from .forks import fork


@pytest.mark.timeout(30)
def test_a_process_killed_while_it_draws_a_bar_stops_nobody():
    with tqdm(total=1, disable=True):  # the lock is there before the fork
        pass
    if (pid := fork()) == 0:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with tqdm(total=1, disable=True) as bar:
        assert bar.total == 1  # got past the lock
