"""In front of every request: who asks, how much, how slowly; and a line of log without what was asked."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from .metrics import Metrics
from .settings import MEGABYTE, ServerSettings, Tokens

Message = dict[str, Any]
OPEN_PATHS = ("/healthz", "/readyz")
"""Answered without a token, for who watches whether the server lives."""
RETRY_AFTER_S = 1
DRAIN_S = 0.5


class Refused(Exception):
    """A request that goes no further.

    Args:
        status: HTTP status.
        detail: what is said.
        reason: for the counters; None: it is not counted as refused.
    """

    def __init__(self, status: int, detail: str, reason: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.reason = status, detail, reason


class Guard:
    """ASGI middleware: tokens, limits before anything is parsed, errors without traces, metrics, log.

    Args:
        app: what is guarded.
        settings: limits.
        metrics: counts.
        log: takes one mapping per request.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], settings: ServerSettings, metrics: Metrics,
        log: Callable[[Message], None],
    ) -> None:  # fmt: skip
        self.app, self.settings, self.metrics, self._log = app, settings, metrics, log
        self._tokens = None if settings.token_file is None else Tokens(settings.token_file)
        self._open, self._buffered = 0, 0
        self._max_open = 2 * settings.queue_size

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        scope["state"] = {**scope.get("state", {}), "request_id": uuid.uuid4().hex}
        answered = False
        parts: list[bytes] = []

        async def sending(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
            await send(message)

        self._open += 1
        try:
            self._check_head(scope)
            await self._receive_body(scope, parts, receive)
            body = b"".join(parts)
            await self.app(scope, _replay(body, receive), sending)
        except Refused as error:
            if error.reason:
                self.metrics.refused.labels(error.reason).inc()
            await self._drain(scope, receive)
            await _say(sending, error.status, error.detail)
        except Exception as error:
            self._log_error(scope, error)
            if not answered:
                await _say(sending, 500, f"The server failed; its log has more under {_id(scope)}.")
        finally:
            self._open -= 1
            self._buffered -= sum(map(len, parts))
            self._note(scope, status, time.perf_counter() - begun)

    def _check_head(self, scope: Message) -> None:
        headers = dict(scope["headers"])
        if (
            self._tokens is not None
            and scope["path"] not in OPEN_PATHS
            and not self._tokens.accept(headers.get(b"authorization"))
        ):
            raise Refused(401, "A token is needed: `Authorization: Bearer TOKEN`.")
        if self._open > self._max_open:
            raise Refused(503, "The server is busy; come again.", "open_requests")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.settings.max_body_mb * MEGABYTE:
            raise Refused(413, f"The body is larger than {self.settings.max_body_mb:g} MB.")

    async def _receive_body(self, scope: Message, parts: list[bytes], receive: Any) -> None:
        size, limit = 0, self.settings.max_body_mb * MEGABYTE
        try:
            async with asyncio.timeout(self.settings.receive_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(408, "The request ended early.")
                    parts.append(message.get("body", b""))
                    scope["state"]["received"] = not message.get("more_body", False)
                    size += len(parts[-1])
                    self._buffered += len(parts[-1])
                    if self._buffered > self.settings.max_buffered_mb * MEGABYTE:
                        raise Refused(503, "The server is busy; come again.", "memory")
                    if size > limit:
                        raise Refused(413, f"The body is larger than {self.settings.max_body_mb:g} MB.")
                    if scope["state"]["received"]:
                        return
        except TimeoutError:
            raise Refused(408, f"The body did not arrive within {self.settings.receive_s:g} s.") from None

    async def _drain(self, scope: Message, receive: Any) -> None:
        """Throw away what is still coming, within bounds: who is cut off while sending does not read the answer."""
        left = 2 * self.settings.max_body_mb * MEGABYTE
        try:
            async with asyncio.timeout(DRAIN_S):
                while left > 0 and not scope["state"].get("received"):
                    message = await receive()
                    left -= len(message.get("body", b""))
                    scope["state"]["received"] = not message.get("more_body", False)
        except TimeoutError:
            pass  # it is told all the same

    def _note(self, scope: Message, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route not in OPEN_PATHS and route != "/metrics":
            method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE") else "other"
            self._log({
                "event": "request", "id": _id(scope), "method": method, "route": route, "status": status,
                "ms": round(1000 * seconds, 2),
            })  # fmt: skip

    def _log_error(self, scope: Message, error: Exception) -> None:
        """Where an error came from, but not what it says, which may hold what a user sent."""
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]
        self._log({"event": "error", "id": _id(scope), "error": type(error).__name__, "at": places})


def log_line(values: Message) -> None:
    """One event as a line of JSON on standard error."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values}
    print(json.dumps(line, ensure_ascii=True), file=sys.stderr, flush=True)  # noqa: T201


class JsonLogs(logging.Handler):
    """What libraries and the package log, as lines of JSON; of errors the kind and the place, not the text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        values: Message = {"event": "log", "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            values["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])[-8:]
            values["at"] = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        else:
            values["message"] = record.getMessage()
        log_line(values)


async def _say(send: Any, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Any) -> Callable[[], Awaitable[Message]]:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return dict(await receive())

    return replayed


def _id(scope: Message) -> str:
    return str(scope["state"]["request_id"])
