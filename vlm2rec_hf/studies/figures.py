"""Plots of a study: validation over training, views by method, margins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.plots import plot_curves, plot_margins, plot_views
from ..evaluation.report import FLOOR_VIEW, Report
from .outlook import read_log
from .results import DataResults, Mean
from .runs import Run

METRICS = ("ndcg@10", "hit@10")


def draw(one: DataResults, folder: Path) -> list[str]:
    """Draw the plots of one data set into a folder.

    Returns:
        The names of the files.
    """
    drawn = []
    embedders = [method.name for method in one.methods if method.kind == "embedder"]
    curves = {name: [curve for run in one.runs_on(name) if (curve := validation_curve(run))] for name in embedders}
    curves = {name: runs for name, runs in curves.items() if runs}
    if curves:
        drawn.append(plot_curves(curves, folder / f"{one.data.name}-curves.png").name)
    for metric in METRICS:
        name = f"{one.data.name}-views-{metric.replace('@', '')}.png"
        drawn.append(plot_views(_as_report(one, metric), folder / name, metric).name)
    margins = {name: read_log(one.runs_on(name)[0]) for name in embedders}
    margins = {name: log for name, log in margins.items() if any("margin_text" in record for record in log)}
    if margins:
        drawn.append(plot_margins(margins, folder / f"{one.data.name}-margins.png").name)
    return drawn


def validation_curve(run: Run) -> list[tuple[float, float]]:
    """Targets seen and the validation NDCG@10 of the view that stands for the method, at each evaluation.

    Targets are counted from the log, which holds their mean per step since the line before.
    """
    key = f"eval_{run.method.view}_ndcg@10"
    points, seen, last, rate = [], 0.0, 0.0, 0.0
    for record in read_log(run):
        if "targets" in record:
            rate = record["targets"]
            seen, last = seen + rate * (record["step"] - last), record["step"]
        if key in record:
            points.append((seen + rate * (record["step"] - last), record[key]))
    return points


def _as_report(one: DataResults, metric: str) -> Report:
    """A report whose intervals are one standard deviation over seeds, for `plot_views`."""

    def summary(mean: Mean) -> dict[str, Any]:
        spread = 0.0 if np.isnan(mean.deviation) else mean.deviation
        return {"mean": mean.mean, "low": mean.mean - spread, "high": mean.mean + spread, "n": mean.n}

    shown = Report(one.first.protocol, user_ids=[], item_ids=[])
    for label in one.labels:
        views = one.views(label)
        shown.metrics[label] = {view: {metric: summary(one.mean(label, view, metric))} for view in views}
    shown.floors = {name: {metric: summary(one.mean(name, FLOOR_VIEW, metric))} for name in one.floors}
    return shown
