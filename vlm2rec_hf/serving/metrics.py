"""What `/metrics` tells: requests, batches, and whether the lists are still what they were."""

from __future__ import annotations

import glob
import os
import threading
from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

WINDOW = 1000
"""Lists that the reference window, and the window of now, hold (our choice)."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own variable: a folder that all processes of a server count in."""


def drift(reference: Sequence[float], now: Sequence[float]) -> float:
    """How far two samples of scores lie apart: the two-sample Kolmogorov-Smirnov statistic, 0 to 1.

    Args:
        reference: `n` numbers.
        now: `m` numbers.
    """
    first, second = np.sort(np.asarray(reference)), np.sort(np.asarray(now))
    points = np.concatenate([first, second])
    below = [np.searchsorted(sample, points, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


class ListWatch:
    """The lists of now beside those of the beginning.

    Args:
        window: how many lists.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window, self._lock = window, threading.Lock()
        self._reference: list[float] = []
        self._best: deque[float] = deque(maxlen=window)
        self._lists: deque[tuple[str, list[str]]] = deque()
        self._items: Tally[str] = Tally()
        self._fallbacks = 0

    def add(self, source: str, item_ids: list[str], scores: Sequence[float]) -> None:
        """Take note of a list."""
        with self._lock:
            self._lists.append((source, item_ids))
            self._items.update(item_ids)
            self._fallbacks += source != "model"
            if len(self._lists) > self._window:
                old, gone = self._lists.popleft()
                self._fallbacks -= old != "model"
                self._items.subtract(gone)
                for item in gone:
                    if not self._items[item]:
                        del self._items[item]
            if source == "model" and scores:
                if len(self._reference) < self._window:
                    self._reference.append(scores[0])
                self._best.append(scores[0])

    def state(self, n_items: int) -> dict[str, float]:
        """`coverage` (share of all items that the window's lists hold), `fallback_share`, `score_drift`."""
        with self._lock:
            lists = len(self._lists)
            return {
                "coverage": len(self._items) / n_items if n_items else 0.0,
                "fallback_share": self._fallbacks / lists if lists else 0.0,
                "score_drift": drift(self._reference, self._best) if self._best else 0.0,
            }


class Metrics:
    """The numbers of a server; of all its processes together where they share a folder."""

    def __init__(self) -> None:
        self.shared = os.environ.get(SHARED)
        self.registry = CollectorRegistry()
        self.watch = ListWatch()
        options: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("vlm2rec_requests", "Requests by route and status.", ["route", "status"], **options)
        self.seconds = Histogram("vlm2rec_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, **options)
        self.batches = Histogram(
            "vlm2rec_batch_size", "Jobs in one pass.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **options
        )
        self.lists = Counter("vlm2rec_lists", "Lists by source; popularity is the fallback.", ["source"], **options)
        self.clicks = Counter("vlm2rec_clicks", "Clicks that were kept.", **options)
        self.refused = Counter("vlm2rec_refused", "Requests told to come again, by reason.", ["reason"], **options)
        most = {
            "coverage": f"Share of the items that the last {WINDOW} lists hold (of several processes, the largest).",
            "fallback_share": f"Share of the last {WINDOW} lists that are the most popular items.",
            "score_drift": f"Kolmogorov-Smirnov distance of the best scores of the last {WINDOW} lists from those of "
            f"the first {WINDOW} since the start.",
            "items": "Items in the index.",
            "superseded": "1: the index was switched to another model; restart to load it.",
            "users_with_clicks": "Users whose clicks are in memory.",
            "users_forgotten": "Users whose clicks went because the memory budget was used up.",
            "histories_kept": "Users whose histories the embedder need not read again.",
            "torn_lines": "Damaged lines that were met in the log of clicks.",
        }
        self.gauges = {
            name: Gauge(f"vlm2rec_{name}", text, multiprocess_mode="livemax", **options) for name, text in most.items()
        }
        self.waiting = Gauge("vlm2rec_waiting", "Jobs that wait.", multiprocess_mode="livesum", **options)
        if self.shared:
            forget_dead(self.shared)

    def listed(self, source: str, item_ids: list[str], scores: Sequence[float]) -> None:
        """Take note of a list."""
        self.lists.labels(source).inc()
        self.watch.add(source, item_ids, scores)

    def set(self, values: dict[str, float]) -> None:
        """Set the numbers of now."""
        for name, value in values.items():
            self.gauges[name].set(value)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        if self.shared:
            from prometheus_client import multiprocess

            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, self.shared)
            return generate_latest(registry)
        return generate_latest(self.registry)


def forget_dead(folder: str) -> None:
    """Remove what ended processes said of themselves; what they counted stays."""
    for path in glob.glob(os.path.join(folder, "gauge_live*_*.db")):
        number = int(path.rpartition("_")[2].removesuffix(".db"))
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            os.unlink(path)
        except PermissionError:
            pass  # it lives, and is another user's
