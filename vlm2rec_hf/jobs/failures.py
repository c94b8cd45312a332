"""Errors on their way from a worker process to whoever started it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """An error as plain text: not every exception survives pickling.

    Attributes:
        kind: name of the exception's class.
        message: what it said.
        is_bad_input: whether it is the input's fault and not ours.
        trace: the worker's traceback.
    """

    kind: str
    message: str
    is_bad_input: bool
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an error."""
        bad_input = isinstance(error, (ValueError, TypeError, FileNotFoundError, PermissionError))
        return cls(type(error).__name__, str(error), bad_input, "".join(traceback.format_exception(error)))

    def as_error(self, worker: str) -> Exception:
        """The error to raise in the process that started the worker.

        Args:
            worker: who failed, for people.
        """
        where = f"Worker {worker} failed, the shards done so far are kept"
        error = (
            ValueError(self.message) if self.is_bad_input else RuntimeError(f"{where}: {self.kind}: {self.message}")
        )
        error.add_note(f"{where}. Its traceback:\n{self.trace}")
        return error
