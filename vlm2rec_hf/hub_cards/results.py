"""What an evaluation shows, as tables and sentences: views beside floors, intervals, what each modality adds."""

from __future__ import annotations

from typing import Any

from ..columns import SCORED
from .markdown import Markdown, code, escape, table
from .metadata import metric_name
from .run_facts import EvaluationFacts, Metrics

CEILING = "oracle"
"""A floor that is the best possible score instead: known choice probabilities of generated data."""
_DIAGNOSTICS = {
    "margin_text": "margin of the text view (cosine)",
    "margin_image": "margin of the image view (cosine)",
    "weak_text_share": "users whose text is the weaker modality (share)",
    "weak_image_share": "users whose image is the weaker modality (share)",
    "effective_rank_text": "effective rank, text",
    "effective_rank_image": "effective rank, image",
    "effective_rank_both": "effective rank, both",
    "modality_gap": "gap between the modalities' centroids",
}


def main_table(evaluation: EvaluationFacts) -> Markdown:
    """Hit and NDCG (or, without those, the first four metrics) of every view and floor, with 95 % intervals."""
    names = _names(evaluation)
    main = [name for name in names if name.startswith(("hit@", "ndcg@"))] or names[:4]
    return _metrics_table(evaluation, main)


def other_table(evaluation: EvaluationFacts) -> Markdown | None:
    """The metrics that `main_table` leaves out; None where there are none."""
    names = _names(evaluation)
    main = [name for name in names if name.startswith(("hit@", "ndcg@"))] or names[:4]
    rest = [name for name in names if name not in main]
    return _metrics_table(evaluation, rest) if rest else None


def modality_table(evaluation: EvaluationFacts) -> Markdown | None:
    """The modality diagnostics; None where none were measured."""
    if not evaluation.modality:
        return None
    rows = [(_DIAGNOSTICS.get(name, name), value) for name, value in evaluation.modality.items()]
    return table(["diagnostic", "value"], [(name, None if v is None else f"{v:.4f}") for name, v in rows])


def verdict(evaluation: EvaluationFacts) -> Markdown | None:
    """One sentence: does the model beat the strongest floor? None where no floor was measured."""
    metric = next((name for name in _names(evaluation) if name.startswith("ndcg@")), None)
    view = next((name for name in (SCORED, "both", *evaluation.views) if name in evaluation.views), None)
    floors = {
        name: mean
        for name, metrics in evaluation.floors.items()
        if name != CEILING and metric in metrics and (mean := metrics[metric].get("mean")) is not None
    }
    if metric is None or view is None or not floors:
        return None
    ours = evaluation.views[view].get(metric, {})
    mean, low, high = ours.get("mean"), ours.get("low"), ours.get("high")
    if mean is None:
        return None
    name, floor = max(floors.items(), key=lambda pair: pair[1])
    head = f"{metric_name(metric)} of the view {code(view)} is {mean:.4f}, of the strongest floor, {code(name)}, "
    head += f"{floor:.4f}: "
    if low is None or high is None:
        verdict = "above the floor" if mean > floor else "not above the floor"
        return Markdown(f"{head}{verdict} (no interval was computed).")
    if low > floor:
        return Markdown(f"{head}the model's 95 % interval lies above the floor.")
    if high < floor:
        return Markdown(f"{head}**the model is worse than this floor**; the floor is the better recommender here.")
    return Markdown(f"{head}the model's 95 % interval holds the floor, so **it was not shown to beat it**.")


def _names(evaluation: EvaluationFacts) -> list[str]:
    names: dict[str, None] = {}
    for metrics in evaluation.views.values():
        names.update(dict.fromkeys(metrics))
    return list(names)


def _metrics_table(evaluation: EvaluationFacts, names: list[str]) -> Markdown:
    rows: list[list[Any]] = [
        [Markdown(f"**{escape(view)}**"), *_row(m, names)] for view, m in evaluation.views.items()
    ]
    for name, metrics in evaluation.floors.items():
        label = "best possible" if name == CEILING else "floor"
        rows.append([Markdown(f"{escape(name)} ({label})"), *_row(metrics, names)])
    return table(["view", *map(metric_name, names)], rows)


def _row(metrics: Metrics, names: list[str]) -> list[Markdown | None]:
    return [_interval(metrics.get(name)) for name in names]


def _interval(summary: dict[str, float | int | None] | None) -> Markdown | None:
    if summary is None or summary.get("mean") is None:
        return None
    low, high = summary.get("low"), summary.get("high")
    text = f"{summary['mean']:.4f}"
    # An interval of no width (a metric of the whole list, not of users) says nothing.
    return Markdown(text if low is None or high is None or high - low < 1e-12 else f"{text} [{low:.4f}, {high:.4f}]")
