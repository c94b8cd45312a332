"""Whether the Hub can be reached, asked once: without a line the client waits half a minute for every single file.

It asks for a file six times, 23 seconds in all, before it looks into its cache, and a model has about ten files.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .errors import is_connection_trouble

logger = logging.getLogger(__name__)
SECONDS = 5.0
"""How long an answer may take (our choice)."""
_answered: set[str] = set()
_P = ParamSpec("_P")
_R = TypeVar("_R")


def asked_once(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function whose first argument is a folder or Hub id use the cache alone while the Hub is out of reach."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        where: Any = args[0] if args else next(iter(kwargs.values()), None)
        is_remote = isinstance(where, (str, Path)) and not Path(where).exists()
        with cache_alone_without_hub() if is_remote else contextlib.nullcontext():
            return function(*args, **kwargs)

    return wrapper


@contextlib.contextmanager
def cache_alone_without_hub() -> Iterator[None]:
    """Inside, the client behaves as with HF_HUB_OFFLINE=1 if the Hub does not answer; afterwards it is as it was.

    An endpoint that has answered is not asked again in this process.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or constants.ENDPOINT in _answered:
        yield
        return
    trouble = _trouble(constants.ENDPOINT)
    if trouble is None:
        _answered.add(constants.ENDPOINT)
        yield
        return
    logger.warning(f"{constants.ENDPOINT} cannot be reached ({trouble}); only what is in the cache is used.")
    modules = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


def _trouble(endpoint: str) -> str | None:
    """Why an endpoint gives no answer; None where it gives any, be it a refusal."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=SECONDS)
    except Exception as error:
        if not is_connection_trouble(error):
            return None  # the line works; what is wrong with the answer is for the request that matters
        return type(error).__name__
    return None
