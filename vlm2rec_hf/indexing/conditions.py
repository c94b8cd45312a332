"""Conditions on what a shop knows of its items, such as `{"price": {"<": 30}, "category": ["shoes", "boots"]}`.

They are plain data: column names are looked up, values are compared and never read as code, so they may come from
users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

OPERATORS = ("<", "<=", ">", ">=", "=", "!=", "in", "not in")
MAX_VALUES = 10_000
"""Values in one condition at most."""
LEAST_INTEGER = -(2**63)
"""Of columns of type int64."""
MAX_DEPTH = 8
"""How deep `or` and `not` may nest."""
_FORM = 'such as {"price": {"<": 30}, "category": ["shoes", "boots"]}'


@dataclass(frozen=True)
class Comparison:
    """One column against one value, or (`in`, `not in`) several; `=` to None asks for items that lack a value."""

    column: str
    operator: str
    value: Any

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table fulfil it: `(n,)` bool. A missing value fulfils nothing but `=` None."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = table[self.column]
        if self.value is None:
            found = pc.is_null(column) if self.operator == "=" else pc.is_valid(column)
        elif self.operator in ("in", "not in"):
            found = pc.is_in(column, value_set=pa.array(self.value, column.type))
            found = found if self.operator == "in" else pc.and_(pc.invert(found), pc.is_valid(column))
        else:
            names = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "=": "equal",
                     "!=": "not_equal"}  # fmt: skip
            found = getattr(pc, names[self.operator])(column, pa.scalar(self.value))
        return pc.fill_null(found, False).combine_chunks().to_numpy(zero_copy_only=False)

    def sql(self) -> str:
        """The same for a database; every value is written by `literal`."""
        column = f"`{self.column}`"
        if self.value is None:
            return f"{column} IS {'' if self.operator == '=' else 'NOT '}NULL"
        if self.operator in ("in", "not in"):
            if not self.value:
                return "false" if self.operator == "in" else f"{column} IS NOT NULL"
            return f"{column} {self.operator.upper()} ({', '.join(map(literal, self.value))})"
        return f"{column} {self.operator} {literal(self.value)}"


@dataclass(frozen=True)
class Every:
    """All of some conditions; of none, everything."""

    parts: tuple[Any, ...]

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows fulfil all of them."""
        import numpy as np

        return np.logical_and.reduce([np.ones(len(table), bool), *(part.mask(table) for part in self.parts)])

    def sql(self) -> str:
        """The same for a database."""
        return " AND ".join(f"({part.sql()})" for part in self.parts) or "true"


@dataclass(frozen=True)
class AnyOf:
    """At least one of some conditions."""

    parts: tuple[Any, ...]

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows fulfil one of them."""
        import numpy as np

        return np.logical_or.reduce([part.mask(table) for part in self.parts])

    def sql(self) -> str:
        """The same for a database."""
        return " OR ".join(f"({part.sql()})" for part in self.parts)


@dataclass(frozen=True)
class Not:
    """Whatever does not fulfil a condition, items that lack the value among them."""

    part: Any

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows do not fulfil it."""
        return ~self.part.mask(table)

    def sql(self) -> str:
        """The same for a database, where what is unknown counts as not fulfilled."""
        return f"NOT coalesce(({self.part.sql()}), false)"


def parse_condition(expression: Any, columns: Mapping[str, str], depth: int = 0) -> Every:
    """Read a condition.

    Args:
        expression: column -> what its value shall be: one value; a list, any of which will do; or a mapping of
            operators (`OPERATORS`) to values, all of which shall hold. None asks for items without a value. The keys
            `$or` (a list of expressions) and `$not` (one) combine them.
        columns: column -> `"string"`, `"int64"`, `"double"` or `"bool"`.
        depth: of nesting, so far.

    Raises:
        ValueError: another form, an unknown column or operator, a value of another type, or too much of it.
    """
    if not isinstance(expression, Mapping):
        raise ValueError(f"`filter` must map columns to conditions, {_FORM}; got {expression!r:.100}.")
    if depth > MAX_DEPTH:
        raise ValueError(f"`filter` nests deeper than {MAX_DEPTH}; write it flatter.")
    parts: list[Any] = []
    for name, wanted in expression.items():
        if name == "$or":
            if not isinstance(wanted, (list, tuple)) or not wanted or len(wanted) > MAX_VALUES:
                raise ValueError(f"`filter`: `$or` must hold a list of 1 to {MAX_VALUES} conditions.")
            parts.append(AnyOf(tuple(parse_condition(one, columns, depth + 1) for one in wanted)))
        elif name == "$not":
            parts.append(Not(parse_condition(wanted, columns, depth + 1)))
        elif name not in columns:
            raise ValueError(f"`filter` names the column {name!r:.80}, and there are {sorted(columns)}.")
        else:
            parts += _of_column(name, wanted, columns[name])
    return Every(tuple(parts))


def _of_column(name: str, wanted: Any, kind: str) -> list[Comparison]:
    if isinstance(wanted, Mapping):
        return [_comparison(name, operator, value, kind) for operator, value in wanted.items()]
    return [_comparison(name, "in" if isinstance(wanted, (list, tuple)) else "=", wanted, kind)]


def _comparison(name: str, operator: Any, value: Any, kind: str) -> Comparison:
    if operator not in OPERATORS:
        raise ValueError(f"`filter`: the operator of {name!r} must be one of {OPERATORS}, got {operator!r:.80}.")
    if operator in ("in", "not in"):
        if not isinstance(value, (list, tuple)) or len(value) > MAX_VALUES:
            raise ValueError(f"`filter`: {operator!r} of {name!r} takes a list of at most {MAX_VALUES} values.")
        values = [_value(name, one, kind) for one in value]
        return Comparison(name, operator, tuple(one for one in values if kind != "int64" or isinstance(one, int)))
    if value is None and operator not in ("=", "!="):
        raise ValueError(f"`filter`: {name!r} {operator} None compares with nothing; only = and != take None.")
    value = None if value is None else _value(name, value, kind)
    if kind == "int64" and isinstance(value, float):
        operator, value = _of_integers(operator, value)
    return Comparison(name, operator, value)


def _of_integers(operator: str, fraction: float) -> tuple[str, Any]:
    """The same asked of integers: a fraction equals none of them, and lies between two."""
    if operator in ("=", "!="):
        return ("in" if operator == "=" else "not in"), ()
    return ("<=", math.floor(fraction)) if operator in ("<", "<=") else (">=", math.ceil(fraction))


def _value(name: str, value: Any, kind: str) -> Any:
    """A value as its column holds them; of integers a fraction stays one."""
    fits = {
        "string": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int64": isinstance(value, (int, float)) and not isinstance(value, bool),
        "double": isinstance(value, (int, float)) and not isinstance(value, bool),
    }[kind]
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"`filter`: {name!r} holds values of type {kind}, got {value!r:.80}.")
    if kind == "int64" and not LEAST_INTEGER <= value < -LEAST_INTEGER:
        raise ValueError(f"`filter`: {name!r} holds 64-bit integers, got {value!r:.80}.")
    if kind == "string" and "\x00" in value:
        raise ValueError(f"`filter`: a value of {name!r} holds a zero byte.")
    if kind == "int64":
        return int(value) if value == int(value) else float(value)
    if kind != "double":
        return value
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"`filter`: {name!r} holds 64-bit floats, got {value!r:.80}.") from error


def literal(value: Any) -> str:
    """A checked value as SQL: a text in single quotes (doubled inside), a number, true or false."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        # The least integer is read as the negative of one that is too large.
        return repr(value) if value != LEAST_INTEGER else f"({LEAST_INTEGER + 1} - 1)"
    return "'" + str(value).replace("'", "''") + "'"


def id_list(item_ids: Sequence[str]) -> str:
    """`item_id IN (...)` of some ids, as SQL."""
    return f"item_id IN ({', '.join(map(literal, item_ids))})" if len(item_ids) else "false"
