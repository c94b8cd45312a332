"""The README's figure: what one run of `vlm2rec quickstart` measured.

    vlm2rec quickstart --seed 0 --output runs/quickstart
    python benchmarks/quickstart_figure.py runs/quickstart/report.json

writes `docs/img/quickstart.json` (the figures, a part of the report) and `docs/img/quickstart.png`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "img"
METRICS = ("hit@10", "ndcg@10")
METHODS = {"zero_shot": "before training", "sft": "plain contrastive (SFT)", "vlm2rec": "VLM2Rec"}
COLOURS = {"zero_shot": "#b9c0ca", "sft": "#e08a2e", "vlm2rec": "#3b6fb6", "head": "#3c8d5a"}
LINES = {"transitions": ("--", "transitions (floor)"), "oracle": (":", "best score possible")}
INK, GRID = "#2b2f36", "#d9dde3"


def part_of(report: dict[str, Any]) -> dict[str, Any]:
    """What the figure and the docs need of a report: Hit@10 and NDCG@10 of methods by view and of floors."""
    return {
        "seed": report["facts"]["seed"],
        "n_users": report["n_examples"],
        "metrics": {
            method: {view: {name: summary[name] for name in METRICS} for view, summary in views.items()}
            for method, views in report["metrics"].items()
        },
        "floors": {floor: {name: summary[name] for name in METRICS} for floor, summary in report["floors"].items()},
    }


def draw(part: dict[str, Any], path: Path) -> None:
    """NDCG@10 by view and method with 95 % intervals, the head beside them, two lines to compare with."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    views = ("text", "image", "both")
    bars = [
        (place + (number - 1) * 0.27, 0.25, method, label, part["metrics"][method][view]["ndcg@10"])
        for number, (method, label) in enumerate(METHODS.items())
        for place, view in enumerate(views)
    ]
    bars.append((3, 0.25, "head", "SASRec over ids and VLM2Rec's vectors", part["metrics"]["head"]["both"]["ndcg@10"]))
    labelled = set()
    for x, width, method, label, found in bars:
        axes.bar(x, found["mean"], width, color=COLOURS[method], label=None if label in labelled else label, zorder=2)
        labelled.add(label)
        below, above = found["mean"] - found["low"], found["high"] - found["mean"]
        axes.errorbar(
            x, found["mean"], [[below], [above]], fmt="none", ecolor=INK, elinewidth=1, capsize=2.5, zorder=3
        )
        axes.annotate(
            f"{found['mean']:.3f}", (x, found["high"]), (0, 3), textcoords="offset points", ha="center", fontsize=8,
            color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
    for name, (style, label) in LINES.items():
        level = part["floors"][name]["ndcg@10"]["mean"]
        axes.axhline(level, color="#6b7280", linestyle=style, linewidth=1.3, label=label, zorder=1)
    axes.set_xticks([0, 1, 2, 3], ["text alone", "image alone", "text + image", "sequential head"], color=INK)
    axes.set_ylabel("NDCG@10", color=INK)
    axes.set_ylim(0, 0.36)
    axes.set_xlim(-0.6, 3.5)
    axes.set_title(
        f"vlm2rec quickstart, seed {part['seed']}: {part['n_users']:,} test users, full catalogue",
        loc="left", fontsize=11, color=INK,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1ab")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, 0.9), ncols=2)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def main() -> None:
    """Keep a report's part, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.json of a quickstart")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where quickstart.json and quickstart.png go")
    options = parser.parse_args()
    part = part_of(json.loads(options.report.read_text(encoding="utf-8")))
    (options.folder / "quickstart.json").write_text(json.dumps(part, indent=1) + "\n", encoding="utf-8")
    draw(part, options.folder / "quickstart.png")
    print(options.folder / "quickstart.png")


if __name__ == "__main__":
    main()
