"""Numbers that change over training, written as short strings so that they fit a command line and a config file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

SCHEDULES = ("constant", "linear", "cosine")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RAMP = re.compile(
    rf"(?P<kind>linear|cosine):(?P<start>{_NUMBER})->(?P<end>{_NUMBER})(?:@(?:(?P<begin>{_NUMBER})-)?(?P<stop>{_NUMBER}))?"
)
_HELP = (
    "write a number such as '5', or a ramp such as 'linear:0->5@0.2' (from 0 to 5 over the first 20 % of training, "
    "then constant) or 'cosine:0->0.2@0.1-0.5' (from 10 % to 50 %)"
)


@dataclass(frozen=True)
class Schedule:
    """A value as a function of training progress: `start` before `begin`, `end` after `stop`, a ramp between.

    `str()` gives the notation that `parse` reads.

    Attributes:
        start: first value.
        end: last value.
        begin: progress in [0, 1] at which the ramp begins.
        stop: progress in [0, 1] at which the ramp is over, above `begin`.
        kind: `"constant"`, `"linear"`, or `"cosine"` (half a wave, flat at both ends).
    """

    start: float
    end: float
    begin: float = 0.0
    stop: float = 1.0
    kind: str = "linear"

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ValueError(f"`kind` must be one of {SCHEDULES}, got {self.kind!r}.")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"`start` and `end` must be finite numbers, got {self.start!r} and {self.end!r}.")
        if self.kind == "constant" and self.start != self.end:
            raise ValueError(f"`end` must equal `start` in a constant schedule, got {self.end!r} and {self.start!r}.")
        if not 0 <= self.begin < self.stop <= 1:
            raise ValueError(
                "`begin` and `stop` must satisfy 0 <= begin < stop <= 1 (shares of training), "
                f"got {self.begin!r} and {self.stop!r}."
            )

    @classmethod
    def parse(cls, value: Schedule | str | float) -> Schedule:
        """Read a number, a string in the notation above, or a schedule (returned as it is).

        Raises:
            ValueError: a string that is no schedule, or numbers out of range.
        """
        if isinstance(value, Schedule):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(float(value), float(value), kind="constant")
        text = str(value).replace(" ", "")
        if re.fullmatch(_NUMBER, text):
            return cls(float(text), float(text), kind="constant")
        match = _RAMP.fullmatch(text) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"`schedule` must be a number or a ramp, got {value!r}: {_HELP}.")
        try:
            return cls(
                float(match["start"]),
                float(match["end"]),
                float(match["begin"] or 0.0),
                float(match["stop"] or 1.0),
                match["kind"],
            )
        except ValueError as error:
            raise ValueError(f"`schedule` {value!r} is out of range: {error}") from error

    def __call__(self, progress: float) -> float:
        """Value at `progress`, the share of training done, in [0, 1].

        Raises:
            ValueError: `progress` outside [0, 1] (a rounding error of 1e-6 is let through).
        """
        if not -1e-6 <= progress <= 1 + 1e-6:
            raise ValueError(f"`progress` must lie in [0, 1], got {progress!r}; pass step / total steps.")
        share = min(max((progress - self.begin) / (self.stop - self.begin), 0.0), 1.0)
        if self.kind == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        # The ends are returned as written, not as a rounded sum.
        return self.end if share == 1 else self.start + (self.end - self.start) * share

    @property
    def lowest(self) -> float:
        """Smallest value ever taken."""
        return min(self.start, self.end)

    @property
    def highest(self) -> float:
        """Largest value ever taken."""
        return max(self.start, self.end)

    def __str__(self) -> str:
        if self.kind == "constant":
            return repr(self.start)
        begin = f"{self.begin!r}-" if self.begin else ""
        return f"{self.kind}:{self.start!r}->{self.end!r}@{begin}{self.stop!r}"
