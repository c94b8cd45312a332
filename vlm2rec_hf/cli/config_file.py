"""The `--config FILE.yaml` of a command, and the spelling of options: what must be known before anything is parsed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def with_underscores(argv: Sequence[str]) -> list[str]:
    """The command line with option names spelt with underscores: `--max-steps=3` becomes `--max_steps=3`."""

    def spelt(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return f"--{name[2:].replace('-', '_')}{equals}{value}" if argument.startswith("--") else argument

    return [spelt(argument) for argument in argv]


def read_config(argv: Sequence[str]) -> dict[str, Any]:
    """The `--config` file of a command line, names spelt with underscores; empty without one.

    Raises:
        ValueError: it does not exist, or is no YAML mapping.
    """
    where = value_of(argv, "config")
    if where is None:
        return {}
    import yaml

    path = Path(where)
    if not path.is_file():
        raise ValueError(f"`--config` {where!r} does not exist; name a YAML file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` {where!r} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`--config` {where!r} must hold `option: value` lines, got {type(content).__name__}.")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def from_yaml(config: Mapping[str, Any], parser: argparse.ArgumentParser, types: Sequence[Any]) -> dict[str, Any]:
    """Values of a `--config` file as the options take them: natural YAML means what it looks like.

    A list or mapping is what `A,B` or `A=B,C=D` would be on the command line (unless the option holds lists or
    mappings itself), and null leaves an option at its default.

    Raises:
        ValueError: a value that the option does not take, which is named.
    """
    structured = {name for kind in types for name in _structured(kind)}
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    values: dict[str, Any] = {}
    for name, value in config.items():
        action = actions.get(name)
        if value is None:
            continue
        if action is None or (name in structured and isinstance(value, (list, dict))):
            values[name] = value
            continue
        parts = value if isinstance(value, (list, tuple)) and action.nargs in ("+", "*") else [value]
        taken = [_taken(name, as_typed(name, part), action) for part in parts]
        values[name] = taken if action.nargs in ("+", "*") else taken[0]
    return values


def _structured(kind: type) -> set[str]:
    """Fields that hold lists or mappings; the parser writes over `Field.type`, not over the annotations."""
    lines = [base.__dict__.get("__annotations__", {}) for base in kind.__mro__]
    return {name for line in lines for name, hint in line.items() if re.search(r"\b(dict|list)\b", str(hint))}


def as_typed(name: str, value: Any) -> str:
    """A YAML value as it would be typed behind the option.

    Raises:
        ValueError: lists or mappings within one another.
    """
    if isinstance(value, bool):
        return str(value).lower()
    parts = [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    if any(isinstance(one, (list, dict)) for one in inner):
        raise ValueError(f"`--config`: `{name}` must be one value or a flat list, got {value!r}.")
    return ",".join(str(one) for one in parts) if isinstance(parts, (list, tuple)) else str(value)


def _taken(name: str, text: str, action: argparse.Action) -> Any:
    """What an option makes of a typed value.

    Raises:
        ValueError: nothing.
    """
    convert: Any = action.type or str
    kinds = {int: "a whole number", float: "a number"}
    try:
        value = convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        kind = kinds.get(convert) or str(error)
        raise ValueError(f"`--config`: `{name}` must be {kind}, got {text!r}.") from error
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"`--config`: `{name}` must be one of {list(action.choices)}, got {text!r}.")
    return value


def without_config(argv: Sequence[str]) -> list[str]:
    """A command line without its `--config`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser.parse_known_args(list(argv))[1]


def without_option(argv: Sequence[str], name: str) -> list[str]:
    """A command line without one of its options and that option's value, written in one word or in two."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", nargs="?")
    return parser.parse_known_args(list(argv))[1]


def value_of(argv: Sequence[str], name: str) -> str | None:
    """One option of a command line, else `None`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", dest="value")
    return parser.parse_known_args(list(argv))[0].value
