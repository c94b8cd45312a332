"""The frozen inputs of a `DMESRModel`: what a text encoder made of the items' descriptions and texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DESCRIPTIONS = ("text", "image", "both")
"""What the three descriptions of an item describe, in the order of `ItemInputs.coarse`."""


@dataclass(frozen=True)
class ItemInputs:
    """Frozen vectors of items; half precision is enough, and the tensors may be memory-mapped.

    Attributes:
        coarse: `(n, 3, D)` one vector per description, in the order of `DESCRIPTIONS`.
        coarse_present: `(n, 3)` bool: whether the item has that description.
        fine: `(n, L, F)` states of the tokens of the original text.
        fine_present: `(n, L)` bool: which of them are tokens and not padding.
        item_ids: raw ids of the items; None where they are not known, and then only their number is checked.

    Raises:
        ValueError: shapes that do not fit together.
    """

    coarse: Tensor
    coarse_present: Tensor
    fine: Tensor
    fine_present: Tensor
    item_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.coarse)
        if (
            self.coarse.ndim != 3
            or self.coarse.shape[1] != len(DESCRIPTIONS)
            or self.coarse_present.shape != (n, len(DESCRIPTIONS))
        ):
            raise ValueError(
                f"`coarse` and `coarse_present` must be (n, {len(DESCRIPTIONS)}, D) and (n, {len(DESCRIPTIONS)}), got "
                f"{tuple(self.coarse.shape)} and {tuple(self.coarse_present.shape)}."
            )
        if self.fine.ndim != 3 or len(self.fine) != n or self.fine_present.shape != self.fine.shape[:2]:
            raise ValueError(
                f"`fine` and `fine_present` must be ({n}, L, F) and ({n}, L), got {tuple(self.fine.shape)} and "
                f"{tuple(self.fine_present.shape)}."
            )
        if self.item_ids is not None and len(self.item_ids) != n:
            raise ValueError(f"`item_ids` must have one id per item ({n}), got {len(self.item_ids)}.")

    def __len__(self) -> int:
        return len(self.coarse)

    @property
    def dims(self) -> dict[str, int]:
        """Lengths of the vectors, as `DMESRConfig.content_dims` names them."""
        return {"coarse": self.coarse.shape[2], "fine": self.fine.shape[2]}

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "ItemInputs":
        """The same on another device, the vectors as another type where one is given."""
        parts = (part.to(device, dtype if part.is_floating_point() else None) for part in self._parts())
        return self._of(parts, self.item_ids)

    def rows(self, start: int, stop: int) -> "ItemInputs":
        """The items from `start` up to `stop`, without a copy."""
        ids = None if self.item_ids is None else self.item_ids[start:stop]
        return self._of((part[start:stop] for part in self._parts()), ids)

    def followed_by(self, others: "ItemInputs") -> "ItemInputs":
        """These items and then others; shorter texts are padded."""
        ids = None if self.item_ids is None or others.item_ids is None else self.item_ids + others.item_ids
        width = max(self.fine.shape[1], others.fine.shape[1])
        ours, theirs = self._widened(width), others._widened(width)
        return self._of((torch.cat(pair) for pair in zip(ours._parts(), theirs._parts(), strict=True)), ids)

    def check_items(self, item_ids: Sequence[str]) -> None:
        """Check that these are the inputs of these items, in this order, as far as their ids are known.

        Raises:
            ValueError: other items, or another order.
        """
        if self.item_ids is None or self.item_ids == (wanted := tuple(map(str, item_ids))):
            return
        row = next(
            (i for i, (own, other) in enumerate(zip(self.item_ids, wanted, strict=False)) if own != other), None
        )
        difference = f"of {len(self)} and not {len(wanted)} items"
        if row is not None:
            difference = f"of {self.item_ids[row]!r} instead of {wanted[row]!r} in row {row}"
        raise ValueError(
            f"`inputs` must be of the catalogue's items in its order, but are {difference}; take them in the "
            "dataset's order (`EncodedItems.for_dataset`), or encode its descriptions again."
        )

    def check_finite(self, at_once: int = 4096) -> None:
        """Check that all vectors are finite.

        Raises:
            ValueError: with the first such item's place.
        """
        for start in range(0, len(self), at_once):
            part = self.rows(start, start + at_once)
            good = torch.isfinite(part.coarse).flatten(1).all(dim=1) & torch.isfinite(part.fine).flatten(1).all(dim=1)
            if not bool(good.all()):
                place = start + int((~good).nonzero()[0, 0])
                raise ValueError(f"`inputs` of the item at place {place} are not finite; encode the items again.")

    def same_descriptions(self) -> Tensor:
        """`(n, 3)` int64: within a kind, equal numbers where items have equal vectors (the same description)."""
        numbers = [
            torch.unique(self.coarse[:, kind].cpu().float(), dim=0, return_inverse=True)[1] for kind in range(3)
        ]
        return torch.stack(numbers, dim=1)

    def _widened(self, width: int) -> "ItemInputs":
        more = width - self.fine.shape[1]
        if more == 0:
            return self
        fine = torch.nn.functional.pad(self.fine, (0, 0, 0, more))
        return ItemInputs(
            self.coarse,
            self.coarse_present,
            fine,
            torch.nn.functional.pad(self.fine_present, (0, more)),
            self.item_ids,
        )

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.coarse, self.coarse_present, self.fine, self.fine_present

    @classmethod
    def _of(cls, parts: Iterable[Tensor], item_ids: tuple[str, ...] | None) -> "ItemInputs":
        coarse, coarse_present, fine, fine_present = parts
        return cls(coarse, coarse_present, fine, fine_present, item_ids)
