"""Plots of a report: views by method with floors, and margins over training. Matplotlib is imported on use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file
from .report import floor_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .report import Report

VIEW_COLOURS = {"text": "#3b6fb6", "image": "#e08a2e", "both": "#3c8d5a", "scored": "#8c6bb1"}
OTHER_COLOURS = ("#7a5aa6", "#b5495b", "#5f6b76")
INK, GRID = "#2b2f36", "#d9dde3"
FLOOR_STYLES: tuple[Any, ...] = ("--", ":", "-.", (0, (1, 3)), (0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)))
PANELS_IN_A_ROW = 4
METHOD_COLOURS = (
    "#3b6fb6", "#e08a2e", "#3c8d5a", "#b5495b", "#7a5aa6", "#5f6b76", "#2aa1a1", "#a98a1f", "#d163a7", "#7f4f24",
)  # fmt: skip


def plot_views(report: Report, path: str | os.PathLike[str], metric: str = "ndcg@10") -> Path:
    """Bars of text, image, both and scored by method, with 95 % intervals, and a line per floor.

    Args:
        report: what to show; views come in the order text, image, both, scored, others.
        path: the PNG (or PDF, SVG) to write, atomically.
        metric: one of the report's metrics.

    Returns:
        The path written.

    Raises:
        ValueError: a report without methods, or one of whose views lacks the metric.
    """
    if not report.methods:
        raise ValueError("`report` holds no method; `add` one before plotting.")
    for method in report.methods:
        for view in report.views(method):
            if metric not in report.metrics[method][view]:
                known = sorted(report.metrics[method][view])
                raise ValueError(
                    f"`metric` must be one of {known}, got {metric!r} (method {method!r}, view {view!r})."
                )
    present = {view for method in report.methods for view in report.views(method)}
    views = [view for view in VIEW_COLOURS if view in present] + sorted(present - set(VIEW_COLOURS))
    figure, axes = _figure(max(5.0, 2.2 + 1.5 * len(report.methods)), 4.2)
    width = 0.8 / len(views)
    for place, view in enumerate(views):
        shown = [(i, report.metrics[m][view][metric]) for i, m in enumerate(report.methods) if view in report.views(m)]
        at = [i + (place - (len(views) - 1) / 2) * width for i, _ in shown]
        means = [float(summary["mean"] or 0.0) for _, summary in shown]
        low = [mean - _or(s["low"], mean) for mean, (_, s) in zip(means, shown, strict=True)]
        high = [_or(s["high"], mean) - mean for mean, (_, s) in zip(means, shown, strict=True)]
        colour = VIEW_COLOURS.get(view, OTHER_COLOURS[place % len(OTHER_COLOURS)])
        axes.bar(at, means, width * 0.92, color=colour, label=view, zorder=2)
        axes.errorbar(at, means, [low, high], fmt="none", ecolor=INK, elinewidth=1, capsize=2.5, zorder=3)
        for x, mean, up in zip(at, means, high, strict=True):
            axes.annotate(
                f"{mean:.3f}",
                (x, mean + up),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
            )
    for number, (name, summaries) in enumerate(report.floors.items()):
        level = summaries[metric]["mean"] if metric in summaries else None
        if level is not None:
            style = FLOOR_STYLES[number % len(FLOOR_STYLES)]
            axes.axhline(
                float(level), color="#6b7280", linestyle=style, linewidth=1.3, label=floor_label(name), zorder=1
            )
    axes.set_xticks(range(len(report.methods)), report.methods)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(_title(metric), color=INK)
    what = report.protocol
    axes.set_title(
        f"{_title(metric)} by view, {what.split} split, {what.candidates} ranking", loc="left", fontsize=11, color=INK
    )
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].endswith(("(floor)", "(best possible)")))  # bars first
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        fontsize=8.5,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
    )
    return _save(figure, path)


def plot_margins(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], *, floor: float = 0.0
) -> Path:
    """Text and image margins over training steps, one panel per method on a shared scale.

    Args:
        histories: method -> log records, as a Trainer's `log_history`; records without `step` or margin are skipped.
        path: the PNG (or PDF, SVG) to write, atomically.
        floor: where to draw the line of "no better than a random item".

    Returns:
        The path written.

    Raises:
        ValueError: no method, or a method none of whose records has `step` and `margin_text` or `margin_image`.
    """
    if not histories:
        raise ValueError("`histories` is empty; pass a log history per method.")
    lines: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for method, records in histories.items():
        lines[method] = {}
        for view in ("text", "image"):
            points = sorted(
                (float(record["step"]), float(record[f"margin_{view}"]))
                for record in records
                if "step" in record and record.get(f"margin_{view}") is not None
            )
            if points:
                lines[method][view] = ([x for x, _ in points], [y for _, y in points])
        if not lines[method]:
            raise ValueError(
                f"`histories[{method!r}]` has no record with `step` and `margin_text` or `margin_image`; "
                "was it logged by a method that computes margins?"
            )
    figure, axes_list = _panels(len(histories))
    for axes, (method, views) in zip(axes_list, lines.items(), strict=True):
        axes.axhline(floor, color="#6b7280", linewidth=1, linestyle=":", zorder=1)
        for view, (steps, values) in views.items():
            marker = "o" if len(steps) <= 25 else None
            axes.plot(
                steps, values, color=VIEW_COLOURS[view], linewidth=1.8, marker=marker, markersize=3.5, label=view
            )
        axes.set_title(method, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("step", color=INK)
    for axes in axes_list[::PANELS_IN_A_ROW]:
        axes.set_ylabel("margin (cosine)", color=INK)
    handles = {
        label: line for axes in axes_list for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    axes_list[min(len(axes_list), PANELS_IN_A_ROW) - 1].legend(
        list(handles.values()), list(handles), frameon=False, fontsize=8.5, loc="upper left",
        bbox_to_anchor=(1.02, 1.0), borderaxespad=0,
    )  # fmt: skip
    return _save(figure, path)


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    path: str | os.PathLike[str],
    *,
    x_label: str = "targets seen",
    y_label: str = "validation NDCG@10",
) -> Path:
    """Lines over training, one colour per method, one line per run of it.

    Args:
        curves: method -> its runs, each a list of points `(x, y)`.
        path: the PNG (or PDF, SVG) to write, atomically.
        x_label: under the axis.
        y_label: beside the axis.

    Returns:
        The path written.

    Raises:
        ValueError: no method, or one without a point.
    """
    for method, runs in curves.items():
        if not any(runs):
            raise ValueError(f"`curves[{method!r}]` has no point; leave the method out.")
    if not curves:
        raise ValueError("`curves` is empty; pass the runs of at least one method.")
    figure, axes = _figure(7.5, 4.4)
    for number, (method, runs) in enumerate(curves.items()):
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        style = FLOOR_STYLES[number // len(METHOD_COLOURS) - 1] if number >= len(METHOD_COLOURS) else "-"
        for place, run in enumerate(run for run in runs if run):
            x, y = zip(*run, strict=True)
            label = method if place == 0 else None
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.5, alpha=1.0 if place == 0 else 0.45,
                      marker="o", markersize=2.5, label=label)  # fmt: skip
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return _save(figure, path)


def _or(value: float | int | None, default: float) -> float:
    return default if value is None else float(value)


def _title(metric: str) -> str:
    name, at, k = metric.partition("@")
    return {"hit": "Hit", "ndcg": "NDCG", "mrr": "MRR"}.get(name, name.capitalize()) + at + k


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure with its own canvas, not pyplot: nothing global changes, and no display is needed.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes)
    return figure, axes


def _panels(n: int) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, rows = min(n, PANELS_IN_A_ROW), -(-n // PANELS_IN_A_ROW)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in grid[n:]:
        axes.remove()
    for axes in grid[:n]:
        _style(axes)
    return figure, grid[:n]


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1ab")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"`path` must end in .png, .pdf or .svg, got {str(path)!r}.")
    with whole_file(target) as partial:
        figure.savefig(partial, dpi=160, facecolor="white")
    return target
