"""The split that interactions bring along in their column `split`: taken over, or kept under another name."""

from __future__ import annotations

import pyarrow as pa

from .ids import encode_ids
from .interaction_log import SPLIT
from .sequences import SPLIT_CODES, TRAIN

OWN_SPLIT = "auto"
"""Value of `split_column`: the column `split`, where there is one."""
KEPT_SPLIT = "given_split"
"""What a column `split` that is not taken over is called: the name belongs to the dataset's own split."""


def own_split(table: pa.Table, split_column: str | None) -> tuple[pa.Table, str | None]:
    """The interactions and the column of their split, by what the user said and what the table has.

    A column that says train everywhere (an unsplit dataset written out) is no split.

    Args:
        table: interactions with standard names.
        split_column: a column, None to take over none, or `OWN_SPLIT`.

    Returns:
        The table, in which a column `split` that is not taken over is called `given_split`, and the column to take
        over, or None.

    Raises:
        ValueError: a column `split` that holds no split, or one that cannot be renamed.
    """
    if SPLIT not in table.column_names or split_column == SPLIT:
        return table, None if split_column == OWN_SPLIT else split_column
    if split_column != OWN_SPLIT:
        if KEPT_SPLIT in table.column_names:
            raise ValueError(
                f"The interactions have columns `{SPLIT}` and `{KEPT_SPLIT}`, and `{SPLIT}` is not taken over by "
                f"`split_column` {split_column!r}; rename or drop one of them first."
            )
        names = [KEPT_SPLIT if name == SPLIT else name for name in table.column_names]
        return table.rename_columns(names), split_column
    if pa.types.is_nested(table[SPLIT].type) or pa.types.is_temporal(table[SPLIT].type):
        values = sorted({str(value) for value in table[SPLIT].slice(0, 100).to_pylist()})
    else:
        values = encode_ids(table[SPLIT], SPLIT)[1].to_pylist()
    known = SPLIT_CODES | {str(code): code for code in SPLIT_CODES.values()}
    codes = {known[value] for value in values if value in known}
    if values and not codes:
        raise ValueError(
            f"The interactions have a column `{SPLIT}` that holds {values[:3]}, and none of {list(known)}. Pass "
            f"`split_column=None` if it is no split, and it is kept as `{KEPT_SPLIT}`."
        )
    return table, SPLIT if codes - {TRAIN} or any(value not in known for value in values) else None
