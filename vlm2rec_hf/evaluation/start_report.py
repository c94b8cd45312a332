"""A `Report` of embedders on one dataset: every view, the floors, the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .floors import fit_floors, floor_settings, rank_floors
from .protocol import Protocol
from .report import Report
from .slices import make_slices

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from .embedder import EmbedderEvaluation
    from .scorers import BlockScorer


def start_report(
    dataset: RecDataset,
    examples: Examples,
    *,
    split: str = "test",
    ks: Sequence[int] = (10, 20),
    exclude_seen: bool = True,
    facts: Mapping[str, Any] | None = None,
    floors: Mapping[str, BlockScorer] | None = None,
) -> Report:
    """An empty report for `examples`, with the floors already in it and their settings under `facts["floors"]`.

    Args:
        dataset: what the examples were cut from; its fingerprint enters the protocol.
        examples: who is ranked.
        split: the examples' split.
        ks: cut-offs.
        exclude_seen: leave items of the user's past out of the candidates.
        facts: plain JSON values to keep beside the numbers.
        floors: as `fit_floors(examples)` made them; fitted now by default.
    """
    fitted = fit_floors(examples) if floors is None else floors
    protocol = Protocol(
        dataset=dataset.fingerprint,
        split=split,
        exclude_seen=exclude_seen,
        max_history=examples.max_history,
        k=tuple(sorted(ks)),
    )
    report = Report(
        protocol,
        user_ids=examples.user_ids,
        item_ids=examples.sequences.item_ids[examples.targets],
        slices=make_slices(examples, has_image=dataset.item_has_image),
        facts={"floors": floor_settings(fitted), **(facts or {})},
    )
    counts = examples.sequences.train_counts()
    for name, ranking in rank_floors(examples, k=max(ks), exclude_seen=exclude_seen, floors=fitted).items():
        report.add_floor(name, ranking, train_counts=counts)
    return report


def add_embedder(report: Report, method: str, evaluation: EmbedderEvaluation, examples: Examples) -> None:
    """Add all views of one evaluated embedder.

    Its modality diagnostics stand under `facts["modality"]`, and under `facts["score_options"]` how its view `scored`
    was ranked, where there is one.
    """
    counts = examples.sequences.train_counts()
    for view, ranking in evaluation.rankings.items():
        report.add(method, ranking, view=view, train_counts=counts)
    # NaN (a dataset without images, say) has no place in JSON.
    known = {name: value if value == value else None for name, value in evaluation.modality.items()}
    report.facts.setdefault("modality", {})[method] = known
    if not evaluation.score_options.is_bare:
        report.facts.setdefault("score_options", {})[method] = evaluation.score_options.to_dict()
