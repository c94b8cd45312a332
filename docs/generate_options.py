"""The options reference: one page per command, made from the parsers that the command line uses.

    python docs/generate_options.py            # lists the pages that would change
    python docs/generate_options.py --write    # writes docs/reference/options/*.md

Options that a training command only inherits from transformers are named, not explained: their help belongs to the
installed version of that library.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(__file__).resolve().parent / "reference" / "options"
TRAINING = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
METHODS = {
    "vlm2rec": "an embedder",
    "pixrec": "PixRec",
    "seqrec": "a sequential head: SASRec, GRU4Rec or BERT4Rec",
    "dmesr": "DMESR",
}


def pages() -> dict[str, str]:
    """File name -> Markdown of every page."""
    from vlm2rec_hf.cli.main import COMMANDS

    made, rows = {}, []
    for command, summary in COMMANDS.items():
        if command == "train":
            for method, what in METHODS.items():
                name = f"train_{method}.md"
                made[name] = page(f"train --method {method}", f"Train {what}.", ["train", "--method", method])
                rows.append(f"| [`vlm2rec train --method {method}`]({name}) | train {what} |")
        else:
            # `index.md` is the page that lists them all.
            name = "index_command.md" if command == "index" else f"{command.replace('-', '_')}.md"
            made[name] = page(command, f"{summary[0].upper()}{summary[1:]}.", [command])
            rows.append(f"| [`vlm2rec {command}`]({name}) | {summary} |")
    made["index.md"] = INDEX.replace("ROWS", "\n".join(rows))
    return made


INDEX = """# Options

What every command takes, made from the parsers themselves. `vlm2rec COMMAND --help` shows the same; `--help-all` adds
what training commands inherit from transformers.

| command | what it does |
|---|---|
ROWS

- `--a_b` and `--a-b` are the same.
- Every option may stand in a YAML file, without its dashes: `--config FILE.yaml`. The command line wins. The folder
  [recipes](https://github.com/vlm2rec/vlm2rec-hf/tree/main/recipes) holds the ones we use.
- Switches take `true` or `false`; the name alone means `true`.
- Exit codes: 0 done, 2 bad usage or input, 1 anything else. `vlm2rec --debug COMMAND ...` shows tracebacks.
"""


def page(command: str, summary: str, argv: list[str]) -> str:
    """One command's page."""
    parser = parser_of(argv)
    kinds: dict[str, argparse.Action] = {}
    for action in filter(shown, parser._actions):  # a switch that is on by default has `--no_...` behind it
        kinds.setdefault(action.dest, action)
    inherited = inherited_options(parser)
    lines = [f"# vlm2rec {command}", "", summary, "", "```text", usage_of(parser), "```", ""]
    listed: list[str] = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if shown(action) and kinds[action.dest] is action]
        lines_of_group = [row(action) for action in actions if action.dest not in inherited]
        listed += [f"`--{action.dest}`" for action in actions if action.dest in inherited]
        if lines_of_group:
            lines += [f"## {title(group)}", "", "| option | default | meaning |", "|---|---|---|", *lines_of_group, ""]
    if listed:
        lines += [
            "## From transformers",
            "",
            f"Explained [there]({TRAINING}): {', '.join(listed)}, and all others: `--help-all`.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def parser_of(argv: list[str]) -> argparse.ArgumentParser:
    """The parser whose help a command prints."""
    from vlm2rec_hf.cli.main import main

    caught: list[argparse.ArgumentParser] = []

    def catch(self: argparse.ArgumentParser, file: Any = None) -> None:
        caught.append(self)

    with mock.patch.object(argparse.ArgumentParser, "print_help", catch), contextlib.redirect_stdout(io.StringIO()):
        code = main([*argv, "--help"])
    if code != 0 or len(caught) != 1:
        raise RuntimeError(f"`vlm2rec {' '.join(argv)} --help` ended with {code} and {len(caught)} parsers.")
    return caught[0]


def inherited_options(parser: argparse.ArgumentParser) -> set[str]:
    """Names that a training dataclass has from transformers and does not declare itself."""
    names: set[str] = set()
    for kind in getattr(parser, "dataclass_types", ()):
        declared: Iterator[Any] = (
            base.__dict__.get("__annotations__", {})
            for base in kind.__mro__
            if base.__module__.startswith("vlm2rec_hf")
        )
        ours = {name for annotations in declared for name in annotations}
        names |= {name for name in getattr(kind, "__dataclass_fields__", {}) if name not in ours}
    return names


def shown(action: argparse.Action) -> bool:
    """Whether the short help shows it."""
    return action.help != argparse.SUPPRESS and action.dest not in ("help", "help_all", "config", "method")


def title(group: Any) -> str:
    """Of a group of options."""
    named = {"positional arguments": "Arguments", "options": "Options", "optional arguments": "Options"}
    name = named.get(group.title, group.title)
    return name[0].upper() + name[1:]


def usage_of(parser: argparse.ArgumentParser) -> str:
    """The first line of the help."""
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def row(action: argparse.Action) -> str:
    """A line of the table."""
    if action.option_strings:
        name = ", ".join(f"`{option}`" for option in action.option_strings)
    else:
        name = f"`{action.metavar or action.dest.upper()}`"
    default = action.default
    text = "" if default in (None, "", argparse.SUPPRESS) or callable(default) else str(default)
    if isinstance(default, bool):
        text = str(default).lower()
    meaning = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
    meaning = " ".join(meaning.split())
    if action.choices:
        meaning += f" ({', '.join(f'`{choice}`' for choice in action.choices)})"
    return f"| {name} | {f'`{text}`' if text else ''} | {meaning} |"


def main() -> None:
    """List what would change, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages")
    options = parser.parse_args()
    made = pages()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            print(f"{path.name}: no such command any more")
            if options.write:
                path.unlink()
    for name, text in made.items():
        path = FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(name)
            if options.write:
                path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
