"""Tables, tests and plots of a study from its folders alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.report import FLOOR_VIEW, floor_label
from ..evaluation.without_modality import WITHOUT
from ..files import whole_folder
from .paired_tests import TestRow, run_tests, tests_to_markdown
from .results import DataResults, read_results
from .study_file import Study

TABLES_FOLDER, TABLES_FILE, NUMBERS_FILE = "tables", "tables.md", "numbers.json"
METRICS = ("hit@10", "ndcg@10")
SLICES = {
    "rare_item": "fewer than 5 training interactions",
    "cold_item": "new: no training interaction",
    "no_image": "no image",
    "head_items": "head",
    "tail_items": "tail",
}
"""The slices of the tables; reports hold more."""


def write_tables(study: Study) -> Path:
    """Write `tables/` of a study: `tables.md`, `numbers.json` and plots; the same folders give the same files.

    Returns:
        The path of `tables.md`.

    Raises:
        ValueError: no finished run, or one that was made with another configuration.
    """
    from .figures import draw

    results = read_results(study)
    tests = run_tests(study, results)
    folder = study.output / TABLES_FOLDER
    with whole_folder(folder) as partial:
        parts = [f"# {study.name}\n"]
        for one in results:
            parts += [_section(one, tests, draw(one, partial))]
        parts.append(_footnote(results))
        (partial / TABLES_FILE).write_text("\n".join(parts), encoding="utf-8")
        numbers = {
            "tests": [row.to_dict() for row in tests],
            "data": {one.data.name: _numbers(one) for one in results},
        }
        (partial / NUMBERS_FILE).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return folder / TABLES_FILE


def _section(one: DataResults, tests: Sequence[TestRow], plots: Iterable[str]) -> str:
    protocol = one.first.protocol
    parts = [
        f"## {one.data.name}\n",
        f"{len(one.first):,} examples of the {protocol.split} split, {protocol.candidates} ranking, seen items "
        f"{'excluded' if protocol.exclude_seen else 'kept'}; mean ± standard deviation over seeds.\n",
        _main_table(one),
    ]
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots]
    if (removed := _removed_table(one)) is not None:
        parts += ["### One modality removed at test time, from every item and history\n", removed]
    if (sliced := _slice_table(one)) is not None:
        parts += ["### By kind of target (NDCG@10)\n", sliced]
    mine = [row for row in tests if row.data == one.data.name]
    if mine:
        parts += ["### Tests\n", tests_to_markdown(mine, len(tests))]
    return "\n".join(parts)


def _main_table(one: DataResults) -> str:
    rows = []
    for label in one.labels:
        minutes = one.minutes(label)
        for view in one.views(label):
            cells = [one.mean(label, view, metric) for metric in METRICS]
            spent = "–" if minutes is None else f"{minutes:.1f}"
            rows.append((label, view, *(cell.text() for cell in cells), str(cells[0].n), spent))
    for name in one.floors:
        cells = [one.mean(name, FLOOR_VIEW, metric) for metric in METRICS]
        rows.append((floor_label(name), "–", *(cell.text() for cell in cells), "–", "–"))
    return markdown(("method", "view", "Hit@10", "NDCG@10", "seeds", "minutes"), rows, left=2)


def _removed_table(one: DataResults) -> str | None:
    rows = []
    for label in one.labels:
        for modality in WITHOUT:
            for view in one.views(label, modality):
                whole = one.mean(label, view, "ndcg@10").mean if view in one.views(label) else 0.0
                cells = [one.mean(label, view, metric, without=modality) for metric in METRICS]
                lost = f"{1 - cells[1].mean / whole:.0%}" if whole else "–"
                rows.append((label, f"{modality}s", view, *(cell.text() for cell in cells), lost))
    header = ("method", "removed", "view", "Hit@10", "NDCG@10", "NDCG@10 lost")
    return markdown(header, rows, left=3) if rows else None


def _slice_table(one: DataResults) -> str | None:
    parts = {name: mask for name, mask in one.first.slices.items() if name in SLICES and mask.any()}
    if not parts:
        return None
    header = ("method", "view", *(f"{SLICES[name]} ({int(mask.sum()):,})" for name, mask in parts.items()))
    rows = []
    for label in one.labels:
        for view in one.views(label):
            cells = (one.mean(label, view, "ndcg@10", part=mask).text() for mask in parts.values())
            rows.append((label, view, *cells))
    for name in one.floors:
        cells = (one.mean(name, FLOOR_VIEW, "ndcg@10", part=mask).text() for mask in parts.values())
        rows.append((floor_label(name), "–", *cells))
    return markdown(header, rows, left=2)


def _footnote(results: Sequence[DataResults]) -> str:
    facts = [values for one in results for _, values in one.facts()]
    commits = sorted({str(values["code"]["commit"]) for values in facts})
    versions = sorted({str(values["code"]["vlm2rec_hf"]) for values in facts})
    hours = sum(value for values in facts for name, value in values["seconds"].items() if name in SPENT) / 3600
    return f"{len(facts)} runs, {hours:.1f} hours; vlm2rec-hf {', '.join(versions)}, commit {', '.join(commits)}.\n"


SPENT = ("training", "validation", "test")


def _numbers(one: DataResults) -> dict[str, Any]:
    """The means of the tables as plain data: method -> view -> metric."""

    def of(name: str, view: str, without: str | None = None) -> dict[str, Any]:
        means = {metric: one.mean(name, view, metric, without=without) for metric in METRICS}
        return {
            metric: {"mean": mean.mean, "sd": mean.deviation if mean.n > 1 else None, "n": mean.n}
            for metric, mean in means.items()
        }

    methods: dict[str, Any] = {}
    for label in one.labels:
        for without in (None, *WITHOUT):
            views = {view: of(label, view, without) for view in one.views(label, without)}
            if views:
                methods[label + WITHOUT.get(str(without), "")] = views
    return {"methods": methods, "floors": {name: of(name, FLOOR_VIEW) for name in one.floors}}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table.

    Args:
        header: of the columns.
        rows: of cells.
        left: columns that stand on the left; the others hold numbers.
    """
    rule = "|" + "---|" * left + "---:|" * (len(header) - left)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows), ""])
