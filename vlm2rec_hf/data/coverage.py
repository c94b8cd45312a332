"""What a dataset holds and what was odd about it, as numbers and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .sequences import SPLIT_CODES, TRAIN

if TYPE_CHECKING:
    from .interaction_log import InteractionLog


@dataclass(frozen=True)
class Coverage:
    """Counts over a dataset.

    Attributes:
        users: users with at least one interaction.
        items: size of the catalogue.
        interactions: all interactions.
        splits: interactions by split name.
        items_with_text: items with a text (`text`, else `title`).
        items_with_image: items with image bytes (whether they decode is known after `check_images`) or with features
            of an image.
        items_with_both: items with text and image.
        items_with_neither: items with neither; the embedder cannot place them, heads by id can.
        items_image_path_only: items that name an image file without its bytes; such files are never opened.
        items_without_interactions: items nobody interacted with.
        items_cold: items with interactions, none of them in train.
        interactions_with_text: interactions whose item has a text.
        interactions_with_image: interactions whose item has an image.
        noted: oddities that were kept: as the tables came in, or, after a filter, of what is left.
        quarantined: rows taken out, by reason.
        image_problems: images that failed to decode so far, by reason.
    """

    users: int
    items: int
    interactions: int
    splits: dict[str, int]
    items_with_text: int
    items_with_image: int
    items_with_both: int
    items_with_neither: int
    items_image_path_only: int
    items_without_interactions: int
    items_cold: int
    interactions_with_text: int
    interactions_with_image: int
    noted: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    image_problems: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All counts, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A Markdown table: count by count, with shares where they mean something."""
        rows: list[tuple[str, str]] = []
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                rows += [(f"{name}: {key}", f"{number:,}") for key, number in value.items()]
                continue
            whole = {"items_": self.items, "interactions_": self.interactions}
            total = next((total for prefix, total in whole.items() if name.startswith(prefix)), 0)
            rows.append((name.replace("_", " "), f"{value:,}" + (f" ({value / total:.1%})" if total else "")))
        width = max(len(name) for name, _ in rows)
        right = max(len(number) for _, number in rows)
        lines = [f"| {'count'.ljust(width)} | {'value'.rjust(right)} |", f"|{'-' * (width + 2)}|{'-' * (right + 1)}:|"]
        lines += [f"| {name.ljust(width)} | {number.rjust(right)} |" for name, number in rows]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def measure(
    log: InteractionLog,
    *,
    text: np.ndarray,
    image: np.ndarray,
    path_only: np.ndarray,
    noted: dict[str, int],
    quarantined: dict[str, int],
    image_problems: Iterable[str],
) -> Coverage:
    """Count a dataset.

    Args:
        log: the interactions.
        text: `(n_items,)` bool, whether the item has a text.
        image: `(n_items,)` bool, whether it has image bytes.
        path_only: `(n_items,)` bool, whether it only names an image.
        noted: oddities counted before.
        quarantined: rows taken out, by reason.
        image_problems: a reason per image that failed.
    """
    n_items = len(text)
    seen = np.bincount(log.item, minlength=n_items)
    in_train = np.bincount(log.item[log.split == TRAIN], minlength=n_items)
    return Coverage(
        users=len(log.user_ids),
        items=n_items,
        interactions=len(log),
        splits={name: int(np.sum(log.split == code)) for name, code in SPLIT_CODES.items()},
        items_with_text=int(text.sum()),
        items_with_image=int(image.sum()),
        items_with_both=int((text & image).sum()),
        items_with_neither=int((~text & ~image).sum()),
        items_image_path_only=int(path_only.sum()),
        items_without_interactions=int((seen == 0).sum()),
        items_cold=int(((seen > 0) & (in_train == 0)).sum()),
        interactions_with_text=int(seen[text].sum()),
        interactions_with_image=int(seen[image].sum()),
        noted=dict(noted),
        quarantined=dict(quarantined),
        image_problems=dict(sorted(Counter(image_problems).items())),
    )
