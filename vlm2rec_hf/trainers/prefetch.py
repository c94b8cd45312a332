"""Prepare the next pieces of a batch in threads while the current one is being used."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def prefetched(
    make: Callable[[Given], Made],
    pieces: Iterable[Given],
    *,
    threads: int = 1,
    waited: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Made]:
    """Yield `make(piece)` in order, made ahead of time.

    Threads, not processes: decoding and resizing images release Python's global lock, and nothing has to be copied
    between processes.

    Args:
        make: called in a thread; what it raises is raised here.
        pieces: what to make things of.
        threads: pieces in the making at once. At most `threads` finished pieces wait beside the one in use, so
            memory is bounded by `threads + 1` of them. 0: everything is made in the calling thread.
        waited: called with the seconds the caller had to wait for each piece.
    """
    if threads < 1:
        for piece in pieces:
            start = time.perf_counter()
            made = make(piece)
            waited(time.perf_counter() - start)
            yield made
            del made
        return
    ahead: deque[Future[Made]] = deque()
    rest = iter(pieces)
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        try:
            ahead.extend(pool.submit(make, piece) for piece in islice(rest, threads))
            while ahead:
                start = time.perf_counter()
                made = ahead.popleft().result()
                waited(time.perf_counter() - start)
                ahead.extend(pool.submit(make, piece) for piece in islice(rest, 1))
                yield made
                del made
        finally:
            for future in ahead:
                future.cancel()
