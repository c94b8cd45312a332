"""What makes a dataset useless though nothing is broken: said aloud, in sentences that name the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from .ids import positions_in

if TYPE_CHECKING:
    from .coverage import Coverage

LOST_SHARE = 0.2
"""Share of the rows in quarantine from which on somebody should look (our choice)."""
NOT_LOST = ("cold_hold_out", "duplicate", "duplicate_item_id")
"""Reasons of the quarantine that were asked for, or under which nothing is missing."""


def leading_zeros(named: pa.Array, catalogue: pa.Array) -> str | None:
    """A sentence about ids that are known only without their leading zeros; None where there is no such id.

    Args:
        named: distinct ids (string) of the interactions.
        catalogue: ids of the items.
    """
    unknown = named.filter(pa.array(positions_in(named, catalogue) < 0))
    bare, known = pc.utf8_ltrim(unknown, "0"), pc.utf8_ltrim(catalogue, "0")
    places = positions_in(bare, known)
    found = (places >= 0) & (pc.utf8_length(bare).to_numpy(zero_copy_only=False) > 0)
    if not found.any():
        return None
    first = int(found.argmax())
    return (
        f"{int(found.sum()):,} item ids of the interactions are among the items only without leading zeros: "
        f"{unknown[first].as_py()!r} there, {catalogue[int(places[first])].as_py()!r} here. Ids are text, and one of "
        "the two files has lost its zeros (a program read them as numbers); write both alike."
    )


def losses(quarantined: Mapping[str, int], kept: int) -> list[str]:
    """Sentences about rows that were taken out, where there are too many.

    Args:
        quarantined: rows taken out as the tables came in, by reason.
        kept: rows of both tables that stayed.
    """
    lost = {reason: number for reason, number in quarantined.items() if reason not in NOT_LOST}
    total, rows = sum(lost.values()), kept + sum(quarantined.values())
    if total <= LOST_SHARE * rows:
        return []
    return [
        f"{total:,} of {rows:,} rows ({total / rows:.0%}) went to the quarantine: {reasons(lost)}. Its column `row` "
        "shows them; look at a few before you train."
    ]


def reasons(quarantined: Mapping[str, int]) -> str:
    """`12 unknown_item, 3 bad_timestamp`, the most frequent first."""
    ordered = sorted(quarantined.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{number:,} {reason}" for reason, number in ordered)


def empty_items(coverage: Coverage, columns: list[str]) -> list[str]:
    """Sentences about items that an embedder cannot place, where there are too many.

    Args:
        coverage: of the dataset.
        columns: of its item table.
    """
    empty = coverage.items_with_neither
    if not coverage.items or empty <= LOST_SHARE * coverage.items:
        return []
    which = "None of the" if empty == coverage.items else f"{empty:,} of the"
    have = "has" if empty == coverage.items else "have neither"
    what = "a text or an image" if empty == coverage.items else "text nor image"
    return [
        f"{which} {coverage.items:,} items {have} {what}. The item table has the columns {columns}; texts come "
        "from `text`, else `title` (`column_mapping` names yours), images from `image` or a folder of images."
    ]
