"""One way to read options: dataclasses from the command line and `--config FILE.yaml`; the command line wins.

`--a-b` and `--a_b` are the same everywhere. Names are never abbreviated, so that what one reader of a command line
sees, every reader sees. Help shows a command's own options in groups; `--help-all` adds those of the library.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config_file import as_typed, from_yaml, read_config, value_of, with_underscores, without_config

COMMON_TRAINING = (
    "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end", "logging_steps", "report_to", "seed",
    "bf16", "gradient_checkpointing", "dataloader_num_workers", "use_cpu", "resume_from_checkpoint",
)  # fmt: skip
"""Options of `transformers.TrainingArguments` that stand in the short help as well."""


keep_quiet = True
"""Whether commands keep the libraries' warnings and bars away; `--debug` shows them."""


known_options: set[str] = set()
"""Names of the options of the command that runs, once they are known; for the words of errors."""


def parse(
    command: str,
    description: str,
    dataclass_types: Sequence[Any],
    argv: Sequence[str],
    usage: str = "[options]",
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Parse dataclasses from a command line and its `--config` file.

    Args:
        command: after `vlm2rec`.
        description: of the command.
        dataclass_types: what the options are; each is a group of the help, named by its `_argument_group_name`.
        argv: the command line without `vlm2rec COMMAND`.
        usage: the options nobody can do without, for the first line of the help.
        defaults: of this command, in place of the dataclasses' own.

    Raises:
        ValueError: an unknown option, NaN, or a config file that does not exist, is no mapping, or names an unknown
            option or a value that an option does not take.
    """
    argv = with_underscores(argv)
    config = read_config(argv)
    quiet_libraries()
    from trl import TrlParser

    types = list(dataclass_types)
    parser = TrlParser(
        types,
        prog=f"vlm2rec {command}",
        usage=f"vlm2rec {command} {usage}",
        description=description,
        allow_abbrev=False,
        epilog="Options may also stand in a YAML file given as --config FILE; the command line wins. --a-b and --a_b "
        "are the same.",
    )
    if defaults:
        parser.set_defaults(**defaults)
    shown = None if "--help_all" in argv else _own_options(types)
    _arrange_help(parser, types, shown)
    if "--help_all" in argv or "--help" in argv or "-h" in argv:
        parser.print_help()
        raise SystemExit(0)
    known = {option for action in parser._actions for option in action.option_strings} | {"--config"}
    known_options.update(name.removeprefix("--") for name in known)
    refuse_unknown(argv, known)
    refuse_unknown([f"--{name}" for name in config], known, "`--config` names")
    parser.set_defaults_with_config(**{**(defaults or {}), **from_yaml(config, parser, types)})
    parsed = tuple(parser.parse_args_into_dataclasses(args=without_config(argv)))
    refuse_nan(parsed)
    return parsed


def refuse_nan(parsed: Sequence[Any]) -> None:
    """Refuse `nan` for any number of any option: it passes every comparison, and whatever it meets becomes NaN.

    Raises:
        ValueError: an option that is NaN.
    """
    for arguments in parsed:
        for name, value in vars(arguments).items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"`--{name}` must be a number, got nan.")


def quiet_libraries() -> None:
    """Keep the libraries quiet from now on; to be called before anything of theirs is imported for the command."""
    from ..quiet import quiet_process

    if keep_quiet:
        quiet_process()


def refuse_unknown(argv: Sequence[str], known: set[str], subject: str = "There is") -> None:
    """Refuse options that a command does not have.

    Raises:
        ValueError: one of them, with the nearest name that exists.
    """
    for argument in argv:
        name = argument.split("=")[0]
        if name.startswith("--") and name not in known and name not in ("--help", "--help_all"):
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean `{near[0]}`?" if near else "; see --help."
            words = f"no option `{name}`" if subject == "There is" else f"`{name[2:]}`, which is no option"
            raise ValueError(f"{subject} {words}{hint}")


def option_of(argv: Sequence[str], name: str) -> str | None:
    """One option before the whole is parsed: from the command line, else from its `--config` file, else `None`."""
    argv = with_underscores(argv)
    given = value_of(argv, name)
    if given is None:
        value = read_config(argv).get(name)
        given = None if value is None else as_typed(name, value)
    return given


def check_options_early(argv: Sequence[str], dataclass_types: Sequence[Any], modules: Sequence[str] = ()) -> None:
    """Refuse mistyped options before anything slow is imported; the parser proper checks the rest.

    Args:
        argv: the command line without `vlm2rec COMMAND`.
        dataclass_types: those of the options' dataclasses that are cheap to import.
        modules: modules whose dataclasses are not; their fields are read from the source.

    Raises:
        ValueError: an unknown option.
    """
    argv = with_underscores(argv)
    names = {one.name for kind in dataclass_types for one in fields(kind)} | {"config"}
    for module in modules:
        names |= set(_annotated_names(module))
    aliases = {alias for kind in dataclass_types for one in fields(kind) for alias in one.metadata.get("aliases", ())}
    refuse_unknown(argv, {f"--{name}" for name in names} | {f"--no_{name}" for name in names} | aliases)


def _annotated_names(module: str) -> Iterator[str]:
    """Names annotated in the classes of a module, without importing it (or the packages it lies in)."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder).joinpath(*rest).with_suffix(".py")
        if path.is_file():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield from (
                        item.target.id
                        for item in node.body
                        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                    )


def _own_options(types: Sequence[Any]) -> set[str]:
    """Options that the short help shows: all but those a training dataclass only inherits from transformers."""
    names: set[str] = set()
    for kind in types:
        ours, inherited = _annotations(kind, "vlm2rec_hf."), _annotations(kind, "transformers.")
        names |= {
            one.name
            for one in fields(kind)
            if one.name in ours or one.name not in inherited or one.name in COMMON_TRAINING
        }
    return names


def _annotations(kind: Any, package: str) -> set[str]:
    """Names annotated in those classes of a dataclass' line that a package defines."""
    lines = (base for base in kind.__mro__ if base.__module__.startswith(package))
    return {name for base in lines for name in base.__dict__.get("__annotations__", {})}


def _arrange_help(parser: argparse.ArgumentParser, types: Sequence[Any], shown: set[str] | None) -> None:
    """Show each option once, in the spelling with underscores, and hide what is not `shown` (`None`: show all)."""
    hidden = 0
    for action in parser._actions:
        long = [name for name in action.option_strings if name.startswith("--")]
        if long and action.dest != "help":
            action.option_strings = [name for name in action.option_strings if not name.startswith("--")] + [
                name for name in long if "-" not in name[2:]
            ]
        is_complement = any(name.startswith("--no_") for name in action.option_strings) and action.nargs == 0
        if shown is not None and action.dest not in shown and action.dest not in ("help", "config"):
            hidden += not is_complement
            action.help = argparse.SUPPRESS
        elif is_complement:
            action.help = argparse.SUPPRESS
    new = {name for kind in types for name in _annotations(kind, "vlm2rec_hf.") - _annotations(kind, "transformers.")}
    for group in parser._action_groups:
        group._group_actions.sort(key=lambda action: action.dest not in new)
    own_help = f"show the library's {hidden} options, too" if hidden else "the same as --help"
    parser.add_argument("--help_all", "--help-all", action="store_true", default=argparse.SUPPRESS, help=own_help)
    parser.formatter_class = _Formatter


class _Formatter(argparse.HelpFormatter):
    """Options on the left, explanations beside them, defaults where they say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = ", ".join(action.option_strings) or action.dest
        if action.nargs == 0 or isinstance(action.const, bool):
            return names
        kinds: dict[Any, str] = {int: "N", float: "X"}
        return f"{names} {action.metavar or kinds.get(action.type) or action.dest.split('_')[-1].upper()}"

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        default = action.default
        says_something = default not in (None, "", False, argparse.SUPPRESS) and not callable(default)
        return f"{text} [{default}]" if says_something and str(default) not in text else text
