"""How fast training goes: targets and tokens per second, and how much of the work is padding."""

from __future__ import annotations

import time

import torch

from ..losses.gather import is_distributed


class Throughput:
    """Counts between two logs."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._start = time.perf_counter()
        self._targets = self._real = self._padded = self._steps = 0

    def add_targets(self, number: int) -> None:
        """Count the targets of a batch."""
        self._targets += number
        self._steps += 1

    def add_tokens(self, real: int, padded: int) -> None:
        """Count the tokens of rows that were run, without and with padding."""
        self._real += real
        self._padded += padded

    def since_last(self, device: torch.device) -> dict[str, float]:
        """Rates since the last call, of all processes together, and start anew. A collective where there are several.

        Args:
            device: where the collective runs.

        Returns:
            `targets`: of a batch on average, of one process; `targets_per_second`; `tokens_per_second`, without
            padding; `padding_share`, of the tokens that were run. Seconds are those of the wall, evaluations included.
        """
        counts = torch.tensor([self._targets, self._real, self._padded, self._steps], dtype=torch.float, device=device)
        seconds = time.perf_counter() - self._start
        if is_distributed():
            torch.distributed.all_reduce(counts)
        targets, real, padded, steps = counts.tolist()
        self._clear()
        if not steps:
            return {}
        return {
            "targets": targets / steps,
            "targets_per_second": targets / seconds,
            "tokens_per_second": real / seconds,
            "padding_share": 1 - real / max(padded, 1),
        }
