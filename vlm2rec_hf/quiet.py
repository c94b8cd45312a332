"""Keep our own loads and saves quiet. What other code logs or draws is left alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BAR_AFTER_SECONDS = 3.0
"""Progress bars of transformers appear only for loads and saves that take longer than this."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Load and save models without noise; afterwards everything is as it was before.

    Inside, the bars that transformers draws for every load and save ("Loading weights", "Writing model shards") appear
    only after `BAR_AFTER_SECONDS`, and its warning that an image processor falls back to PIL without torchvision is
    dropped: that is how our processors are meant to work. Warnings about anything else, and the bars of downloads,
    are shown as ever.
    """
    restore = _quieten()
    try:
        yield
    finally:
        restore()


def quiet_process() -> None:
    """Keep the libraries quiet until the process ends: for programs of our own, such as the command line.

    Beside what `quiet_libraries` does, warnings of transformers, TRL and the tokenizers are not shown. Settings that
    the user made by environment variables stay.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if os.environ["TRANSFORMERS_VERBOSITY"] == "error":
        logging.getLogger("transformers").setLevel(logging.ERROR)
    _quieten()


def _quieten() -> Callable[[], None]:
    """Start being quiet; what is returned ends it."""
    from transformers.utils import logging as transformers_logging

    previous: Any = None

    def draw_later(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {"delay": BAR_AFTER_SECONDS, **kwargs}
        return factory(*args, **kwargs) if previous is None else previous(factory, args, kwargs)

    def restore() -> None:
        transformers_logging.set_tqdm_hook(previous)
        import_warnings.removeFilter(_is_not_about_torchvision)

    import_warnings = logging.getLogger("transformers.utils.import_utils")
    import_warnings.addFilter(_is_not_about_torchvision)
    previous = transformers_logging.set_tqdm_hook(draw_later)
    return restore


def _is_not_about_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision (not installed)" not in record.getMessage()
