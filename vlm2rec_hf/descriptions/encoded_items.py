"""The file of encoded descriptions: one safetensors file with the items' ids and where the vectors came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.item_vectors import rows_of_items
from ..files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.dataset import RecDataset
    from ..modeling.inputs_dmesr import ItemInputs

_TENSORS = ("coarse", "coarse_present", "fine", "fine_present")


@dataclass(frozen=True)
class EncodedItems:
    """What a text encoder made of a dataset's items.

    Attributes:
        item_ids: raw ids, one per row.
        coarse: `(n, 3, D)` float16, the descriptions of text, image and both; zeros where absent.
        coarse_present: `(n, 3)` bool.
        fine: `(n, L, F)` float16, token states of the original text; zeros beyond its end.
        fine_present: `(n, L)` bool.
        facts: `model`, `revision`, `columns`, `dataset_fingerprint`, `max_fine_tokens` as plain data.
        fingerprint: hash of all of it.
    """

    item_ids: list[str]
    coarse: Tensor
    coarse_present: Tensor
    fine: Tensor
    fine_present: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ValueError("`item_ids` must be unique; keep one row per item.")
        for name in _TENSORS:
            if len(getattr(self, name)) != len(self.item_ids):
                raise ValueError(f"`{name}` must have one row per item ({len(self.item_ids)}).")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._hash())

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        coarse, (length, width) = self.coarse.shape[2], self.fine.shape[1:]
        return (
            f"EncodedItems({len(self):,} items, descriptions of {coarse} dimensions, texts of up to {length} tokens x "
            f"{width} dimensions, model={self.facts.get('model')!r})"
        )

    def for_dataset(self, dataset: RecDataset) -> EncodedItems:
        """The rows of a dataset's items, in its order; the file may hold more (it was made before a k-core, say).

        Raises:
            ValueError: items of the dataset that are not here.
        """
        wanted = [str(item) for item in dataset.item_ids]
        if wanted == self.item_ids:
            return self  # nothing is copied, so a memory-mapped file stays on the disk
        remedy = "encode this dataset's descriptions again (`vlm2rec encode-descriptions`)."
        rows = rows_of_items(wanted, self.item_ids, "`inputs` lack", remedy)
        parts = {name: getattr(self, name)[rows] for name in _TENSORS}
        return EncodedItems(wanted, **parts, facts=self.facts, fingerprint=self.fingerprint)

    def inputs(self) -> ItemInputs:
        """The vectors as inputs of a `DMESRModel`, with their ids."""
        from ..modeling.inputs_dmesr import ItemInputs

        return ItemInputs(self.coarse, self.coarse_present, self.fine, self.fine_present, tuple(self.item_ids))

    def save(self, path: str | Path) -> Path:
        """Write the file; it appears whole or not at all.

        Raises:
            ValueError: the file exists.
        """
        from safetensors.torch import save_file

        path = Path(path)
        if path.exists():
            raise ValueError(f"`path` {str(path)!r} exists; name a new file or move the old one away.")
        metadata = {"item_ids": self.item_ids, "facts": self.facts, "fingerprint": self.fingerprint}
        with whole_file(path) as partial:
            save_file(
                {name: getattr(self, name).contiguous() for name in _TENSORS},
                partial,
                metadata={name: json.dumps(value) for name, value in metadata.items()},
            )
        return path

    @classmethod
    def load(cls, path: str | Path) -> EncodedItems:
        """Read a file that `save` wrote; its tensors are mapped from the disk, not read.

        Raises:
            ValueError: no such file, or not a file of encoded descriptions.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ValueError(f"`inputs` {str(path)!r} does not exist; write it with `vlm2rec encode-descriptions`.")
        try:
            with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
                metadata = file.metadata() or {}
                fields = {name: json.loads(metadata[name]) for name in ("item_ids", "facts", "fingerprint")}
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"`inputs` {str(path)!r} is no file of encoded descriptions ({error}); write it with "
                "`vlm2rec encode-descriptions`."
            ) from error
        return cls(**fields, **tensors)

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self.item_ids, self.facts], sort_keys=True).encode())
        for name in _TENSORS:
            tensor = getattr(self, name)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            for start in range(0, len(tensor), 4096):
                digest.update(tensor[start : start + 4096].contiguous().numpy().tobytes())
        return digest.hexdigest()
