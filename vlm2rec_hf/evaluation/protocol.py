"""What was asked: the protocol behind a set of numbers, and a fingerprint that says whether two sets compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CANDIDATES = ("full", "sampled")
NOT_IN_FINGERPRINT = ("max_history",)
"""`max_history` is what a model was shown, not what it was asked: an embedder that reads 10 items and a head that
reads 200 answer the same question, since seen items are excluded by the whole history in both cases."""


@dataclass(frozen=True)
class Protocol:
    """How examples were ranked.

    Attributes:
        dataset: fingerprint of the data set (interactions, catalogue and split).
        split: `"validation"` or `"test"`, or `"train"` for a check of fit.
        candidates: `"full"` or `"sampled"`.
        n_negatives: negatives per example when sampled, else None.
        seed: of the negatives when sampled, else None.
        exclude_seen: whether items seen before the target were left out.
        max_history: longest history shown to the model; None for all of it, or where methods differ. Recorded, but no
            part of the fingerprint.
        k: cut-offs, increasing.
        ties: `"pessimistic"`, the only rule there is.
        targets: `"all"`, `"first"` or `"last"`, as in `make_examples`.
        min_history: examples with a shorter history were skipped.

    Raises:
        ValueError: a value outside those, or `n_negatives`/`seed` that do not go with `candidates`.
    """

    dataset: str
    split: str = "test"
    candidates: str = "full"
    n_negatives: int | None = None
    seed: int | None = None
    exclude_seen: bool = True
    max_history: int | None = None
    k: tuple[int, ...] = (10, 20)
    ties: str = "pessimistic"
    targets: str = "all"
    min_history: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", tuple(int(k) for k in self.k))
        if not self.dataset:
            raise ValueError("`dataset` must be the data set's fingerprint, got an empty string.")
        for name, allowed in (
            ("split", ("train", "validation", "test")),
            ("candidates", CANDIDATES),
            ("ties", ("pessimistic",)),
            ("targets", ("all", "first", "last")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        if not self.k or self.k[0] < 1 or any(a >= b for a, b in zip(self.k, self.k[1:], strict=False)):
            raise ValueError(f"`k` must be increasing cut-offs of at least 1, got {self.k}.")
        sampled = self.candidates == "sampled"
        if sampled and (self.n_negatives is None or self.n_negatives < 1 or self.seed is None):
            raise ValueError(
                f"`n_negatives` and `seed` must be given with candidates='sampled', "
                f"got {self.n_negatives!r} and {self.seed!r}."
            )
        if not sampled and (self.n_negatives is not None or self.seed is not None):
            raise ValueError(
                f"`n_negatives` and `seed` belong to candidates='sampled', got {self.n_negatives!r} and {self.seed!r}."
            )
        if sampled and not self.exclude_seen:
            raise ValueError("`exclude_seen` must be True with candidates='sampled': seen items are never drawn.")
        for name in ("max_history", "min_history"):
            value, low = getattr(self, name), int(name == "max_history")
            if value is not None and value < low:
                raise ValueError(f"`{name}` must be at least {low}, got {value}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "k": list(self.k)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown names, as from a newer version.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"`values` holds unknown protocol fields {unknown}; update vlm2rec-hf to read it.")
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """16 hex digits; equal if and only if two sets of numbers answer the same question."""
        values = {name: value for name, value in self.to_dict().items() if name not in NOT_IN_FINGERPRINT}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """Fields of the fingerprint in which two protocols differ: name -> (ours, theirs)."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if name not in NOT_IN_FINGERPRINT and mine[name] != theirs[name]
        }
