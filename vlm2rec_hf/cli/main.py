"""Entry point of `vlm2rec`: finds the sub-command and turns errors into exit codes.

Exit codes: 0 done, 2 bad usage or bad input, 1 anything else. Errors are a few lines; `--debug` shows tracebacks.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import logging
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from . import parsing
from .wording import in_command_words

COMMANDS = {
    "quickstart": "train on a generated shop and compare with and without the paper's losses",
    "prepare": "read interactions and items, check, filter and split them, save a dataset",
    "train": "train a model: --method vlm2rec (an embedder), pixrec, seqrec (SASRec, ...) or dmesr",
    "evaluate": "rank a dataset's test users with a trained model, beside the floors",
    "study": "methods x seeds x data as a YAML file says: resumable runs, tables, tests, plots",
    "compare": "several evaluations in one table, with paired tests between their methods",
    "embed": "write the vectors of a dataset's items",
    "describe": "let a vision-language model write descriptions of the items into a dataset",
    "merge": "merge an adapter into its base, checked on real items",
    "push": "publish a model or a dataset on the Hub: one commit, checked, then tagged",
    "encode-descriptions": "encode item descriptions by a text encoder, for `train --method dmesr`",
    "index": "write items' vectors and metadata into an index, which recommends, takes new items and filters",
    "serve": "a model behind HTTP: lists, new items, users' clicks, numbers for Prometheus",
    "demo": "a shop's page: click items, see what is recommended and why, search, put items in",
    "push-space": "put that page on the Hub as a Space, with a model and a dataset of the Hub",
    "recommend": "the best next items after a history, as a table or a page with images",
}


def make_parser() -> argparse.ArgumentParser:
    """The top-level parser; sub-commands have their own."""
    listing = "\n".join(f"  {name:<21}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vlm2rec",
        usage="vlm2rec [--version] [--debug] COMMAND ...",
        description="Turn a vision-language model into a recommender.",
        epilog=f"commands:\n{listing}\n\n`vlm2rec COMMAND --help` tells each one's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and library warnings")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def check_command(command: str) -> str:
    """The command in the spelling of `COMMANDS`.

    Raises:
        ValueError: there is no such command.
    """
    spelt = command.replace("_", "-")
    if spelt not in COMMANDS:
        near = difflib.get_close_matches(spelt, COMMANDS, 1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(COMMANDS)}."
        raise ValueError(f"there is no command `{command}`{hint}")
    return spelt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    parsing.known_options.clear()
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Everything up to the first word that is no option belongs to `vlm2rec` itself.
    split = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    parser = make_parser()
    try:
        known = parser.parse_args(arguments[: split + 1])
        if known.version:
            from ..version import __version__

            print(__version__)
            return 0
        if known.command is None:
            parser.print_help()
            return 2
        name = check_command(known.command)
        parsing.keep_quiet = not debug
        command = importlib.import_module(f"vlm2rec_hf.cli.{name.replace('-', '_')}")
        with _messages_shown():
            command.main(arguments[split + 1 :])
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: 0 for --help, 2 for bad usage
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, TypeError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if debug:
            raise
        print(f"vlm2rec: {message_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Python remembers an interrupt that passed through an `exec`, as dataclasses and imports use it, and would end
        # by the signal instead of the exit code; the next one, that of a new dataclass, makes it forget.
        dataclasses.make_dataclass("Forget", ["nothing"])
        print("vlm2rec: interrupted; what was saved so far is kept.", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 1
        if debug:
            raise
        print(
            f"vlm2rec: {type(error).__name__}: {message_of(error)} (run again with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1
    return 0


def message_of(error: BaseException) -> str:
    """What an error says, its lines as they are, in the words of the command line."""
    text = "\n".join(line.rstrip() for line in str(error).strip().splitlines())
    return in_command_words(text, parsing.known_options) or type(error).__name__


def _reader_left() -> bool:
    """Whether nobody reads standard output any more (`| head` has enough): no reason for a message."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains as it ends
    return gone


class _Messages(logging.Handler):
    """Shows what the package logs on standard error, in plain words."""

    def emit(self, record: logging.LogRecord) -> None:
        label = "Warning: " if record.levelno >= logging.WARNING else ""
        print(f"{label}{record.getMessage()}", file=sys.stderr, flush=True)


@contextmanager
def _messages_shown() -> Iterator[None]:
    """Show what the package logs while a command runs; how the encoder cuts its work up is of no interest here."""
    logger, encoding = logging.getLogger("vlm2rec_hf"), logging.getLogger("vlm2rec_hf.modeling")
    handler, before = _Messages(), (logger.level, encoding.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    encoding.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, encoding.level, logger.propagate = before


if __name__ == "__main__":
    sys.exit(main())
