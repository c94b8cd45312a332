"""`vlm2rec serve`: a model behind HTTP, that recommends, takes items and clicks, and counts."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments
from .common import named_as_options, say
from .opening import USAGE, OpeningArguments, opened, with_first_word
from .parsing import check_options_early, parse

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..serving.settings import ServerSettings

WORKER = "VLM2REC_SERVE_WORKER"
"""Variable that tells worker processes the command line."""
LIMITS = (
    "batch_wait_ms", "max_batch", "queue_size", "deadline_s", "receive_s", "max_body_mb", "max_image_mb",
    "history_memory_mb", "kv_memory_mb", "history_length", "shutdown_s", "state",
)  # fmt: skip


@dataclass
class ServeArguments(OpeningArguments):
    """What is served, where, to whom, and how much of it."""

    _argument_group_name = "server"
    _command = "serve"

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; any but loopback needs tokens."})
    port: int = field(default=8000, metadata={"help": "Port; 0: a free one, which is printed."})
    workers: int = field(default=1, metadata={"help": "Processes; they share the index and the clicks."})
    threads: int = field(
        default=0, metadata={"help": "Threads of each process's model; 0: the cores over the workers."}
    )
    api_token_file: str | None = field(
        default=None, metadata={"help": "File with a token a line; requests must carry one (Bearer)."}
    )
    open_to_all: bool = field(
        default=False, metadata={"help": "Listen to other machines without tokens; something in front must ask."}
    )
    state: str | None = field(
        default=None, metadata={"help": "Folder that keeps users' clicks; without it they are gone at the end."}
    )
    batch_wait_ms: float = field(default=2.0, metadata={"help": "How long a request waits for others, 0 to 1000."})
    max_batch: int = field(default=32, metadata={"help": "Requests in one pass at most; 1: one by one."})
    queue_size: int = field(default=256, metadata={"help": "Requests that may wait; further ones get 503."})
    deadline_s: float = field(default=10.0, metadata={"help": "Seconds until a request is given up."})
    receive_s: float = field(default=10.0, metadata={"help": "Seconds for a request to arrive."})
    max_body_mb: float = field(default=20.0, metadata={"help": "Of a request, in MB."})
    max_image_mb: float = field(default=10.0, metadata={"help": "Of an image file in a request, in MB."})
    history_memory_mb: float = field(
        default=256.0, metadata={"help": "For users' clicks; those not used for longest are forgotten first."}
    )
    kv_memory_mb: float = field(
        default=256.0,
        metadata={
            "help": "For what an embedder has read of users' histories, so that a click costs one item; 0: none."
        },
    )
    history_length: int = field(default=1000, metadata={"help": "Newest clicks kept per user."})
    shutdown_s: float = field(default=30.0, metadata={"help": "Seconds to finish what was accepted, at the end."})

    def __post_init__(self) -> None:
        for name, least, most in (("port", 0, 65535), ("workers", 1, 256), ("threads", 0, 1024)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"`--{name}` must lie between {least} and {most}, got {getattr(self, name)}.")
        super().__post_init__()

    def settings(self) -> ServerSettings:
        """The limits.

        Raises:
            ValueError: one that is none.
        """
        from ..serving.settings import ServerSettings

        return ServerSettings(**{name: getattr(self, name) for name in LIMITS}, token_file=self.api_token_file)


TYPES = (DataArguments, ServeArguments)


def main(argv: Sequence[str]) -> None:
    """Run the command, until it is told to stop."""
    argv = with_first_word(argv, "--folder")
    check_options_early(argv, TYPES)
    data, options = parse("serve", __doc__ or "", TYPES, argv, USAGE)
    from ..serving import running
    from ..serving.settings import Tokens, check_host

    running.require_serve()
    state, clear = running.state_folder(options.state, options.workers)
    names = {"token_file": "--api_token_file", **{name: f"--{name}" for name in (*LIMITS, "host", "port")}}
    try:
        with named_as_options(**names, open_to_all="--open_to_all"):
            settings = dataclasses.replace(options.settings(), state=state)
            check_host(options.host, settings, options.open_to_all)
            if settings.token_file is not None:
                Tokens(settings.token_file)
            app: Any = "vlm2rec_hf.cli.serve:worker"
            if options.workers == 1:
                ready = _application(data, options, settings)
                app = lambda: ready  # noqa: E731
            else:
                os.environ[WORKER] = json.dumps({"argv": list(argv), "state": state, "parent": os.getpid()})
            code = running.serve(
                app, settings, host=options.host, port=options.port, workers=options.workers, listening=_say_where
            )
        if code:
            raise SystemExit(code)
    finally:
        clear()


def worker() -> FastAPI:
    """The application of one of several processes, which are told the command line by a variable."""
    from ..serving.running import end_with_parent

    given = json.loads(os.environ[WORKER])
    end_with_parent(given["parent"])
    data, options = parse("serve", "", TYPES, given["argv"])
    return _application(data, options, dataclasses.replace(options.settings(), state=given["state"]))


def _application(data: DataArguments, options: ServeArguments, settings: ServerSettings) -> FastAPI:
    import torch

    from ..serving.running import application

    with opened(data, options) as recommender:
        torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // options.workers))
        return application(recommender, settings)


def _say_where(address: str) -> None:
    say(f"Serving on {address}; {address}/openapi.json tells what can be asked.")
