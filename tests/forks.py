"""Processes forked from a test, which may be killed at any moment without harm to the one that forked them."""

import os
import threading

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm


def fork():
    """`os.fork()` whose child shares no lock with its parent.

    The lock of tqdm's bars belongs to a process and all that it forks; one that is killed while it holds the lock
    would leave every other one waiting for ever.
    """
    pid = os.fork()
    if pid == 0:
        lock = threading.RLock()
        for bars in tqdm.__mro__:
            if issubclass(bars, plain_tqdm):
                bars.set_lock(lock)
    return pid
