"""Any table a user may hold, as an Arrow table."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..columns import ITEM_ID, USER_ID
from .exact_values import exact_array
from .ids import id_values
from .image_lists import image_cells
from .items import IMAGE_TYPE, image_cell
from .text import all_sound, as_text, sound
from .text_tables import sound_table

ColumnMapping = Mapping[str, Any]

# A number or a date.
_VALUE = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")


def to_arrow(table: Any, argument: str, ids: Collection[str] = (USER_ID, ITEM_ID)) -> pa.Table:
    """A polars, pandas, pyarrow or `datasets` table or stream, or a list of dicts, as an Arrow table (copying little).

    Columns of mixed values become text: ids by the rule of `encode_ids`, others by that of `as_text`. Text that is not
    Unicode is mended (`sound`).

    Args:
        table: the table.
        argument: its name in error messages.
        ids: its columns that hold ids.

    Raises:
        ValueError: another type, or a table that Arrow cannot hold.
    """
    return sound_table(_without_json(_to_arrow(table, argument, ids)))


def _without_json(table: pa.Table) -> pa.Table:
    """Columns of JSON, as `datasets` makes of mixed values in a file, as text."""
    for index, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name == "arrow.json":
            texts = table.column(index).cast(field.type.storage_type).to_pylist()
            # It writes texts in quotes, except those that look like numbers: "007" stands there as 007.
            texts = [json.loads(text) if text is not None and text[:1] == '"' else text for text in texts]
            table = table.set_column(index, field.name, _column(texts, is_id=False))
    return table


def _to_arrow(table: Any, argument: str, ids: Collection[str]) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    module = type(table).__module__.split(".")[0]
    if module == "polars":
        return _from_polars(table.collect() if hasattr(table, "collect") else table, ids)
    if module == "pandas":
        return _from_pandas(table, argument, ids)
    if module == "datasets" and not hasattr(table, "data") and hasattr(table, "with_format"):
        return _from_stream(table, argument)
    if module == "datasets" and hasattr(table, "with_format"):
        # The raw Arrow data: images stay encoded, whatever the feature's `decode` says.
        flat = table.flatten_indices() if table._indices is not None else table
        return flat.data.table
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return _from_rows(table, argument, ids)
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


def _from_polars(frame: Any, ids: Collection[str]) -> pa.Table:
    import polars as pl

    objects = [name for name, kind in frame.schema.items() if kind == pl.Object]
    # Without the level strings come as string views, which `datasets` and several Arrow kernels do not take.
    table = frame.drop(objects).to_arrow(compat_level=pl.CompatLevel.oldest())
    if not objects:
        return table
    extra = _from_columns({name: frame[name].to_list() for name in objects}, ids)
    names = frame.columns
    return pa.table({name: extra[name] if name in objects else table[name] for name in names})


def _from_rows(rows: Sequence[Any], argument: str, ids: Collection[str]) -> pa.Table:
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"`{argument}` row {index} must be a dict, got {type(row).__name__}.")
        for name in row:
            columns.setdefault(name, [])
    for name, values in columns.items():
        values.extend(row.get(name) for row in rows)
    return _from_columns(columns, ids)


def _from_columns(columns: Mapping[str, list[Any]], ids: Collection[str]) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        images = image_cells(name, values, image_cell, IMAGE_TYPE)
        if images is not None:
            arrays[name] = images
            continue
        arrays[sound(str(name))] = _column(values, name in ids)
    return pa.table(arrays)


def _column(values: list[Any], is_id: bool) -> pa.Array:
    try:
        return exact_array(values)
    except UnicodeEncodeError:
        return _column(all_sound(values), is_id)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        # Mixed values, or numbers too large: text keeps them all apart.
        return id_values(values) if is_id else pa.array([as_text(value) for value in values], pa.string())


def _from_pandas(frame: Any, argument: str, ids: Collection[str]) -> pa.Table:
    if isinstance(frame, Sequence) or not hasattr(frame, "columns"):
        raise ValueError(f"`{argument}` must be a pandas DataFrame, got {type(frame).__name__}.")
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for place, name in enumerate(frame.columns):
        series = frame.iloc[:, place]
        if str(name) in arrays:
            raise ValueError(f"`{argument}` has two columns named {str(name)!r}; drop or rename one of them first.")
        if series.dtype != object:
            try:
                arrays[sound(str(name))] = pa.Array.from_pandas(series)
                continue
            except (pa.ArrowException, UnicodeEncodeError):
                pass  # categories of mixed values, or text that is not Unicode: as for a list
        one = _from_columns({str(name): series.tolist()}, ids)
        arrays[one.column_names[0]] = one.column(0)
    return pa.table(arrays)


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
            f"Drop or rename one of them first.{header_hint(table.column_names)}"
        )
    return table.rename_columns(names)


def header_hint(names: Sequence[str]) -> str:
    """What to add to an error about columns whose names look like data, or an empty string."""
    odd = [name for name in names if _VALUE.fullmatch(name.strip())]
    if not odd:
        return ""
    return (
        f" The names {odd} look like data, as if the first row had been taken for the header: put a line with the "
        f"names above it, such as {USER_ID},{ITEM_ID},timestamp."
    )


def standard_names(mapping: ColumnMapping | None, wanted: Collection[str]) -> set[str]:
    """The original names of the columns `wanted` (standard names) in either table, and these names themselves."""
    parts: list[Mapping[str, Any]] = [mapping or {}]
    parts += [part for part in parts[0].values() if isinstance(part, Mapping)]
    return {*wanted, *(old for part in parts for old, new in part.items() if isinstance(new, str) and new in wanted)}


def concatenated(tables: Sequence[pa.Table], ids: Collection[str]) -> pa.Table:
    """Parts of one table under another; a column that has several types becomes text, ids by their rule."""
    try:
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass  # some column has several types: below
    fields: dict[str, set[pa.DataType]] = {}
    for field in (field for table in tables for field in table.schema):
        fields.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, kinds in fields.items() if len(kinds - {pa.null()}) > 1}
    parts = []
    for table in tables:
        for index, name in enumerate(table.column_names):
            if name in mixed:
                values = table[name].to_pylist()
                text = id_values(values) if name in ids else pa.array(map(as_text, values), pa.string())
                table = table.set_column(index, name, text)
        parts.append(table)
    return pa.concat_tables(parts, promote_options="default")


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
            f"{header_hint([*interactions.column_names, *item_names])}"
        )
    return parts
