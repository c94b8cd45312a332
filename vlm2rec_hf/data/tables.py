"""Any table a user may hold, as an Arrow table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..columns import IMAGE
from .exact_values import exact_array
from .items import IMAGE_TYPE, image_cell

ColumnMapping = Mapping[str, Any]


def to_arrow(table: Any, argument: str) -> pa.Table:
    """A polars, pandas, pyarrow or `datasets` table or stream, or a list of dicts, as an Arrow table (copying little).

    Args:
        table: the table.
        argument: its name in error messages.

    Raises:
        ValueError: another type, or a table that Arrow cannot hold.
    """
    if isinstance(table, pa.Table):
        return table
    module = type(table).__module__.split(".")[0]
    if module == "polars":
        frame = table.collect() if hasattr(table, "collect") else table
        return frame.to_arrow(compat_level=_oldest())
    if module == "pandas":
        return _from_pandas(table, argument)
    if module == "datasets" and not hasattr(table, "data") and hasattr(table, "with_format"):
        return _from_stream(table, argument)
    if module == "datasets" and hasattr(table, "with_format"):
        # The raw Arrow data: images stay encoded, whatever the feature's `decode` says.
        flat = table.flatten_indices() if table._indices is not None else table
        return flat.data.table
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return _from_rows(table, argument)
    raise ValueError(
        f"`{argument}` must be a polars, pandas, pyarrow or datasets table or a list of dicts, "
        f"got {type(table).__name__}."
    )


def _from_stream(stream: Any, argument: str) -> pa.Table:
    """All rows of a `datasets.IterableDataset`, images encoded, with the types that its files declare."""
    features = stream.features
    decodes = features is None or any(getattr(feature, "decode", False) for feature in features.values())
    raw = (stream.decode(False) if decodes else stream).with_format("arrow")
    try:
        parts = [part.replace_schema_metadata(None) for part in raw.iter(batch_size=1000)]
        if not parts and features is not None:
            return features.arrow_schema.remove_metadata().empty_table()
        return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})
    except pa.ArrowInvalid as error:
        # A stream that was mapped guesses the types of each row anew.
        raise ValueError(
            f"`{argument}` is a stream whose rows differ in type: {error} Pass it as it was loaded, or as a table."
        ) from error


def _oldest() -> Any:
    import polars as pl

    # Without it strings come as string views, which `datasets` and several Arrow kernels do not take.
    return pl.CompatLevel.oldest()


def _from_rows(rows: Sequence[Any], argument: str) -> pa.Table:
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"`{argument}` row {index} must be a dict, got {type(row).__name__}.")
        for name in row:
            columns.setdefault(name, [])
    for name, values in columns.items():
        values.extend(row.get(name) for row in rows)
    return _from_columns(columns, argument)


def _from_columns(columns: Mapping[str, list[Any]], argument: str) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        if name == IMAGE and not all(isinstance(v, str) or v is None for v in values):
            arrays[name] = pa.array([image_cell(v, row) for row, v in enumerate(values)], type=IMAGE_TYPE)
            continue
        try:
            arrays[name] = exact_array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            kinds = sorted({type(v).__name__ for v in values if v is not None})
            if set(kinds) <= {"str", "int", "float", "bool"}:
                # Mixed scalars (an id column of 1 and "a1"): text keeps them all apart.
                arrays[name] = pa.array([None if v is None else str(v) for v in values])
                continue
            raise ValueError(f"`{argument}` column {name!r} mixes {', '.join(kinds)}; cast it to one type.") from error
    return pa.table(arrays)


def _from_pandas(frame: Any, argument: str) -> pa.Table:
    if isinstance(frame, Sequence) or not hasattr(frame, "columns"):
        raise ValueError(f"`{argument}` must be a pandas DataFrame, got {type(frame).__name__}.")
    awkward = [name for name in frame.columns if frame[name].dtype == object]
    table = pa.Table.from_pandas(frame.drop(columns=awkward), preserve_index=False)
    extra = _from_columns({str(name): frame[name].tolist() for name in awkward}, argument) if awkward else None
    arrays = {
        str(name): extra[str(name)] if extra is not None and name in awkward else table[str(name)]
        for name in frame.columns
    }
    return pa.table(arrays).replace_schema_metadata(None)


def rename(table: pa.Table, mapping: Mapping[str, str], argument: str) -> pa.Table:
    """Rename columns, original name to standard name; names that are not there are left out.

    Raises:
        ValueError: a new name that another column already has.
    """
    names = [mapping.get(name, name) for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"`column_mapping` gives {argument} two columns named {twice}; the columns are {table.column_names}. "
            "Drop or rename one of them first."
        )
    return table.rename_columns(names)


def split_mapping(
    mapping: ColumnMapping | None, interactions: pa.Table, items: pa.Table | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The mapping of each table: a flat `{original: standard}` serves both, a nested one has a part for each.

    Raises:
        ValueError: an original name that neither table (or not the named one) has.
    """
    if not mapping:
        return {}, {}
    item_names = items.column_names if items is not None else []
    if any(isinstance(value, Mapping) for value in mapping.values()):
        if not set(mapping) <= {"interactions", "items"}:
            raise ValueError(
                f"`column_mapping` may be nested by 'interactions' and 'items' only, got {sorted(mapping)}."
            )
        parts = dict(mapping.get("interactions", {})), dict(mapping.get("items", {}))
        unknown = sorted(
            (set(parts[0]) - set(interactions.column_names)) | (set(parts[1]) - set(item_names)),
        )
    else:
        flat = {str(k): str(v) for k, v in mapping.items()}
        parts = flat, flat
        unknown = sorted(set(flat) - set(interactions.column_names) - set(item_names))
    if unknown:
        raise ValueError(
            f"`column_mapping` names columns that are not there: {unknown}. It maps original to standard names; the "
            f"interactions have {interactions.column_names}, the items {item_names}."
        )
    return parts
