"""Real servers in processes of their own, forked with a loaded model, on free ports of the loopback."""

import os
import select
import signal
import sys
import time

from tests.forks import child
from tests.waiting import PATIENCE_S

try:
    import httpx2 as httpx
except ImportError:  # with huggingface_hub 1.x
    import httpx  # noqa: F401


class Live:
    """A server; a context manager that stops it.

    Args:
        make: called in the new process, gives the recommender.
        log: file of its standard error.
        settings: of `ServerSettings`.
        port: 0: a free one.
    """

    def __init__(self, make, log, port=0, **settings):
        read, write = os.pipe()

        def work(_):
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            from vlm2rec_hf.serving import running
            from vlm2rec_hf.serving.settings import ServerSettings

            limits = ServerSettings(**settings)
            app = running.application(make(), limits)
            running.serve(
                lambda: app, limits, host="127.0.0.1", port=port, workers=1,
                listening=lambda address: os.write(write, f"{address}\n".encode()),
            )  # fmt: skip

        self.pid, self._pipe = child(work)
        self.log, self._code = log, None
        if not select.select([read], [], [], 60)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise RuntimeError("the server did not listen: " + str(self._wait()))
        self.url = os.read(read, 100).decode().strip()
        self.port = int(self.url.rpartition(":")[2])
        os.close(read)
        os.close(write)
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self._until_ready()

    def _until_ready(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise RuntimeError("the server is not ready")

    def end(self, number=signal.SIGTERM):
        """Stop it by a signal; returns its exit code."""
        if self._code is None:
            os.kill(self.pid, number)
            self._wait()
        return self._code

    def _wait(self):
        _, status = os.waitpid(self.pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        os.close(self._pipe)
        return self._code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.end(signal.SIGKILL)

    def metric(self, name):
        """A number of `/metrics`; labels stand in the name."""
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), None)
