"""One type for a column of two tables: types are guessed from each file, by what it happens to hold."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from .text_tables import is_string, text_column


def alike(old: pa.Table, new: pa.Table, argument: str, apart: Collection[str] = ()) -> tuple[pa.Table, pa.Table]:
    """Both tables with one type for every column that they share, in which no value of either is lost.

    That is the old type, where the new values read the same in it. Else the wider one: anything beside nothing but
    nulls, whole numbers with others as doubles; and where there is none, text by the rule of `as_text`.

    Args:
        old: rows of a dataset.
        new: rows to put beside them.
        argument: name of `new` in messages.
        apart: columns that are left as they are.

    Raises:
        ValueError: a column of lists, structs or bytes here and of something else there.
    """
    for name in new.column_names:
        if name in apart or name not in old.column_names or old[name].type == new[name].type:
            continue
        pair = _one_type(old[name], new[name], name)
        if pair is None:
            raise ValueError(
                f"`{argument}` column {name!r} holds {new[name].type}, which is another type than {old[name].type} in "
                "the dataset and cannot stand beside it; cast it."
            )
        old = old.set_column(old.column_names.index(name), name, pair[0])
        new = new.set_column(new.column_names.index(name), name, pair[1])
    return old, new


def _one_type(old: pa.ChunkedArray, new: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray] | None:
    same = _cast(new, old.type)
    if same is not None and _reads_the_same(new, same, name):
        return old, same
    try:
        pair = [pa.schema([(name, column.type)]) for column in (old, new)]
        kind = pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowException:  # no type holds both
        kind = None
    if kind is not None:
        wider = _cast(old, kind), _cast(new, kind)
        if wider[0] is not None and wider[1] is not None:
            return wider[0], wider[1]
    return (text_column(old, name), text_column(new, name)) if _plain(old.type) and _plain(new.type) else None


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """The column in another type; None where a value does not fit into it."""
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return None


def _reads_the_same(before: pa.ChunkedArray, after: pa.ChunkedArray, name: str) -> bool:
    """Whether a cast lost nothing: `0042` is no 42, and 12.0 as text is `12`."""
    if pa.types.is_temporal(after.type):
        return is_string(before.type) or _cast(after, before.type) == before
    if not (_plain(before.type) and _plain(after.type)):
        return True  # lists of numbers in another precision
    return bool(text_column(before, name).equals(text_column(after, name)))


def _plain(kind: pa.DataType) -> bool:
    """Whether `text_column` takes a type for single values."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
