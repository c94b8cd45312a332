"""Draw what a card shows, as PNG files beside the report. Matplotlib is imported on use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_folder import EVALUATION, REPORT_FILE, read_json, section

_PANELS = (
    ("Margin (cosine)", "margin_{}", ("text", "image")),
    ("Weaker modality (share of users)", "weak_{}_share", ("text", "image")),
    ("Effective rank", "effective_rank_{}", ("text", "image", "both")),
)
"""Title, name of the diagnostic by view, views."""


def write_figures(model_folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the figures of a model's card from its `evaluation/report.json`, atomically, over earlier ones.

    - `evaluation/views.png`: NDCG at the smallest cut-off by view, with intervals, beside the floors.
    - `evaluation/modality.png`: the modality diagnostics, where the report holds any.
    - `evaluation/margins.png`: margins over training, where the folder holds a `trainer_state.json` with some.

    One of an earlier report or training that has nothing to draw now goes, so that no card shows it.

    Args:
        model_folder: holds `evaluation/` as `Report.save` wrote it.

    Returns:
        The files written.

    Raises:
        ValueError: no report there, or a damaged one.
    """
    from ..evaluation.plots import plot_margins, plot_views
    from ..evaluation.report import Report

    folder = Path(model_folder) / EVALUATION
    report = Report.load(folder)
    written = [plot_views(report, folder / "views.png", f"ndcg@{report.protocol.k[0]}")]
    diagnostics = section(report.facts, "modality", REPORT_FILE)
    if any(_known(values) for values in diagnostics.values()):
        written.append(plot_modality(diagnostics, folder / "modality.png"))
    else:
        (folder / "modality.png").unlink(missing_ok=True)
    state = read_json(Path(model_folder) / "trainer_state.json")
    history = [] if state is None else state.get("log_history", [])
    log = [record for record in history if "margin_text" in record or "margin_image" in record]
    if log:
        written.append(plot_margins({"training": log}, folder / "margins.png"))
    elif state is not None:  # of a training that told no margins; without the file nobody knows, and it may be drawn
        (folder / "margins.png").unlink(missing_ok=True)
    return written


def plot_modality(diagnostics: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str]) -> Path:
    """Bars of the modality diagnostics: margins, weaker modality, effective ranks; one group per method.

    Args:
        diagnostics: method -> diagnostic -> value, as under `facts["modality"]` of a report; None is left out.
        path: the PNG to write, atomically.

    Raises:
        ValueError: nothing to draw, or another ending than .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..evaluation.plots import GRID, INK, VIEW_COLOURS
    from ..files import whole_file

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`path` must end in .png, got {str(path)!r}.")
    methods = [method for method, values in diagnostics.items() if _known(values)]
    if not methods:
        raise ValueError(f"`diagnostics` holds none of the values drawn here, got {dict(diagnostics)}.")
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, pattern, views) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        width = 0.8 / len(views)
        for place, view in enumerate(views):
            heights = {at: diagnostics[method].get(pattern.format(view)) for at, method in enumerate(methods)}
            shown = {at + (place - (len(views) - 1) / 2) * width: v for at, v in heights.items() if v is not None}
            bars = axes.bar(list(shown), list(shown.values()), width * 0.92, color=VIEW_COLOURS[view], label=view)
            axes.bar_label(bars, fmt="%.2f", fontsize=7.5, color=INK, padding=2)
        axes.set_xticks(range(len(methods)), methods)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.axhline(0.0, color="#6b7280", linewidth=0.8)
        axes.margins(y=0.15)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8.5)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=160, facecolor="white")
    return path


def _known(values: Mapping[str, Any]) -> bool:
    return any(values.get(pattern.format(view)) is not None for _, pattern, views in _PANELS for view in views)
