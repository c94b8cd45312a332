"""A model and EASE or item-kNN together, as one more row of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .interaction_matrix import HistoryScorer
from .mixing import MixedScorer, mix_curve
from .ranking import rank_targets

if TYPE_CHECKING:
    from ..data.sequences import Examples
    from .report import Report
    from .scorers import BlockScorer

MIXES = ("ease", "item_knn")
"""Floors that a model can be mixed with."""


def check_mix(mix: str | None, split: str, validation: Examples | None) -> None:
    """Refuse a mix whose weight cannot be chosen.

    Args:
        mix: the floor, or `None` for no mix.
        split: what is ranked.
        validation: the validation split's examples.

    Raises:
        ValueError: an unknown floor, another split than the test's, or no validation split.
    """
    if mix is None:
        return
    if mix not in MIXES:
        raise ValueError(f"`mix` must be one of {', '.join(MIXES)}, got {mix!r}.")
    if split != "test":
        raise ValueError(
            f"`mix` {mix!r} takes its weight from the validation split, so that it can be judged on the test split "
            f"only, got `split` {split!r}; leave `mix` out."
        )
    if not validation:
        raise ValueError(
            f"`mix` {mix!r} takes its weight from the validation split, and `dataset` has none with a history; split "
            "it with `leave_one_out()`, or leave `mix` out."
        )


def add_mix(
    report: Report,
    method: str,
    mix: str,
    scorers: tuple[BlockScorer, BlockScorer],
    floors: Mapping[str, BlockScorer],
    examples: Examples,
    validation: Examples,
) -> None:
    """Add `method + mix`, its weight chosen on the validation split by NDCG at the report's first cut-off.

    The floor is fitted once, on what is trained on: to neither split's targets. At test time the validation item is a
    part of the history, as for every other scorer. `report.facts["mix"]` tells the weight (0: the model alone, 1: the
    floor alone) and what it is worth on the validation split, beside both ends.

    Args:
        report: on `examples`.
        method: name of the model in it.
        mix: name of the floor.
        scorers: the model's scorers of `examples` and of `validation`.
        floors: as `fit_floors(examples)` made them.
        examples: of the test split.
        validation: of the validation split.

    Raises:
        ValueError: as `check_mix`, or scorers that do not fit each other.
    """
    check_mix(mix, report.protocol.split, validation)
    floor = floors[mix]
    assert isinstance(floor, HistoryScorer)
    options: dict[str, Any] = {"exclude_seen": report.protocol.exclude_seen}
    metric = f"ndcg@{min(report.protocol.k)}"
    curve = mix_curve(scorers[1], floor.on(validation), validation, metric=metric, **options)
    weight = max(curve, key=lambda value: curve[value])
    mixed = MixedScorer(scorers[0], floor, weight)
    ranking = rank_targets(mixed, examples, k=max(report.protocol.k), **options)
    name = f"{method} + {mix}"
    report.add(name, ranking, train_counts=examples.sequences.train_counts())
    report.facts.setdefault("mix", {})[name] = {
        "model": method,
        "floor": mix,
        "weight": weight,
        "validation_users": len(validation),
        "validation_metric": metric,
        "validation": {"mix": curve[weight], "model": curve[0.0], "floor": curve[1.0]},
    }
