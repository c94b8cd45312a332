"""Listen on a port, with one process or several."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..recommending.recommender import Recommender


def require_serve() -> None:
    """Say what is missing.

    Raises:
        ValueError: the extra `serve` is not installed.
    """
    from importlib.util import find_spec

    lost = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if lost:
        raise ValueError(f"Serving needs {', '.join(lost)}; install them with `pip install 'vlm2rec-hf[serve]'`.")


def application(recommender: Recommender, settings: ServerSettings) -> FastAPI:
    """The application of this process, its logs as lines of JSON."""
    from .app import create_app
    from .guard import JsonLogs
    from .protocol import TimedProtocol

    for name in ("vlm2rec_hf", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [JsonLogs()]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    TimedProtocol.head_s = settings.receive_s
    return create_app(recommender, settings)


def serve(
    app: Callable[[], FastAPI] | str, settings: ServerSettings, *, host: str, port: int, workers: int,
    listening: Callable[[str], None],
) -> int:  # fmt: skip
    """Serve until a signal to stop; what was accepted is finished first.

    Args:
        app: makes the application; of several processes its name, `package.module:function`, as each makes its own.
        settings: limits.
        host: address to listen on.
        port: 0: a free one.
        workers: processes. One that dies is started anew.
        listening: is told the address, once the port is ours.

    Returns:
        Exit code.

    Raises:
        ValueError: the port is taken, or the address is not this machine's.
    """
    import socket

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    config: Any = uvicorn.Config(
        app, factory=True, host=host, port=port, workers=workers, http="vlm2rec_hf.serving.protocol:TimedProtocol",
        loop="asyncio", ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=30, timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ValueError(f"`port` {port} of `host` {host!r} cannot be listened on: {error.strerror}.") from error
    sock.set_inheritable(True)
    name = f"[{host}]" if family == socket.AF_INET6 else host
    listening(f"http://{name}:{sock.getsockname()[1]}")
    if workers == 1:
        server = uvicorn.Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):  # it ends by itself, and then raises the signal once more
            signal.signal(number, lambda *_: None)
        server.run(sockets=[sock])
        return 0 if server.started else 1
    with _SharedFolder():
        Multiprocess(config, sockets=[sock]).run()
    return 0


class _SharedFolder:
    """The folder that the processes count in, for `/metrics`."""

    def __enter__(self) -> None:
        from .metrics import SHARED

        self._folder = tempfile.mkdtemp(prefix="vlm2rec-metrics-")
        os.environ[SHARED] = self._folder

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def end_with_parent(parent: int) -> None:
    """Let a worker end when the process that started it is gone, however that ended.

    Args:
        parent: its id, as it told the worker: it may be gone before this is called.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def state_folder(state: str | None, workers: int) -> tuple[str | None, Callable[[], None]]:
    """Where clicks are kept, and what removes it: several processes without a folder share one until they end."""
    if state is not None or workers == 1:
        return state, lambda: None
    folder = tempfile.mkdtemp(prefix="vlm2rec-clicks-")
    return folder, lambda: shutil.rmtree(Path(folder), ignore_errors=True)
