"""Processes forked from a test, which may be killed at any moment without harm to the one that forked them."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

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


def child(work):
    """Run `work` in a forked process; returns its id and a pipe with what it writes to its argument."""
    read, write = os.pipe()
    if (pid := fork()) == 0:
        status = 1
        try:
            os.close(read)
            work(write)
            status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    return pid, read


def ended(pid, read):
    """Wait for a process; returns its exit code (minus the signal that killed it) and what it wrote."""
    with os.fdopen(read, "rb") as pipe:
        written = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written


OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "fcntl.flock")


def killed_at(number, folder):
    """From now on count this process's file operations in `folder`; die before the one of this number."""
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event not in OPERATIONS:
            return
        if event != "fcntl.flock" and folder not in str(arguments[0]):
            return
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    sys.addaudithook(watch)


def in_a_process(module, *arguments):
    """Run a module of the tests, which may fork there; returns the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
