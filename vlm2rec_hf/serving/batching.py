"""Micro-batching: requests that arrive together are worked on together, by one thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


class Overloaded(Exception):
    """The queue is full, or the server is ending; come again."""


class TooLate(Exception):
    """The deadline passed."""


@dataclass(eq=False)
class _Waiting:
    job: Any
    future: asyncio.Future[Any]
    until: float


class Batcher:
    """Collects jobs and gives them to a function, some at once.

    While one batch is worked on, the next gathers; a free worker waits `wait_s` for others after the first.

    Args:
        work: jobs -> one result per job, in a thread of its own; a result that is an exception is raised to its asker.
        size: jobs at once at most.
        wait_s: seconds.
        queue_size: jobs that may wait.
        on_batch: is told each batch's size.
    """

    def __init__(
        self,
        work: Callable[[list[Any]], list[Any]],
        *,
        size: int,
        wait_s: float = 0.0,
        queue_size: int = 256,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._size, self._wait_s, self._queue_size = work, size, wait_s, queue_size
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._something = asyncio.Event()
        self._full = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "vlm2rec-batch")
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin; to be called inside the event loop."""
        self._task = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether jobs are worked on."""
        return self._task is not None and not self._task.done() and not self._closed

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def ask(self, job: Any, deadline_s: float) -> Any:
        """Have a job done.

        Args:
            job: for the function.
            deadline_s: seconds from now; a job that was not begun by then is not begun at all.

        Raises:
            Overloaded: too many wait.
            TooLate: it took longer. A job that was begun is finished all the same.
        """
        if self._closed or len(self._waiting) >= self._queue_size:
            raise Overloaded
        loop = asyncio.get_running_loop()
        one = _Waiting(job, loop.create_future(), loop.time() + deadline_s)
        self._waiting.append(one)
        self._something.set()
        if len(self._waiting) >= self._size:
            self._full.set()
        try:
            return await asyncio.wait_for(one.future, deadline_s)
        except TimeoutError:
            raise TooLate from None

    async def close(self) -> None:
        """Do what was accepted, accept nothing more."""
        self._closed = True
        self._something.set()
        self._full.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                if self._closed:
                    return
                self._something.clear()
                await self._something.wait()
                continue
            if self._wait_s and self._size > 1 and len(self._waiting) < self._size and not self._closed:
                self._full.clear()
                try:
                    await asyncio.wait_for(self._full.wait(), self._wait_s)
                except TimeoutError:
                    pass  # nobody else came
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            batch = [one for one in batch if not one.future.done() and one.until > loop.time()]
            if batch:
                self._on_batch(len(batch))
                await self._do(batch, loop)

    async def _do(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        try:
            results = await loop.run_in_executor(self._thread, self._work, [one.job for one in batch])
        except Exception as error:  # each asker is told; a server goes on
            results = [error] * len(batch)
        for one, result in zip(batch, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, BaseException):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)
