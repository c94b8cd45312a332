"""The results of a study, read from the folders of its finished runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..columns import SCORED
from ..evaluation.comparison import match_examples, require_one_protocol
from ..evaluation.metrics import rank_metric
from ..evaluation.report import FLOOR_VIEW, Report
from ..evaluation.without_modality import WITHOUT
from .runs import REPORT_FOLDER, RESULT_FILE, Run, check_configs, read_json, runs_of
from .study_file import Method, Study, StudyData


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation over seeds; the deviation is NaN for one seed."""

    mean: float
    deviation: float
    n: int

    def text(self, digits: int = 4) -> str:
        """`0.0603 ± 0.0012`."""
        deviation = "" if np.isnan(self.deviation) else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{deviation}"


def mean_of(values: list[float]) -> Mean:
    """Mean and sample standard deviation of one value per seed."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Mean(float(np.mean(values)), deviation, len(values))


class DataResults:
    """The finished runs on one data set.

    Args:
        data: the data set.
        runs: finished runs on it.

    Raises:
        ValueError: reports of other examples or under another protocol.
    """

    def __init__(self, data: StudyData, runs: list[Run]) -> None:
        self.data, self.runs = data, runs
        self.reports = {run.key: Report.load(run.folder / REPORT_FOLDER) for run in runs}
        self._orders: dict[str, np.ndarray] = {}
        first = next(key for key, report in self.reports.items() if report is self.first)
        for key, report in self.reports.items():
            require_one_protocol(self.first, report, (first, key))
            self._orders[key] = match_examples(self.first, report, (first, key))

    @cached_property
    def first(self) -> Report:
        """The report whose order of examples, and whose slices, count.

        One of a model that was trained on more (heads may be, on validation items) counts training interactions
        otherwise, so such a report comes last.
        """
        return min(self.reports.values(), key=lambda report: "trained_on" in report.facts)

    @cached_property
    def methods(self) -> list[Method]:
        """Methods with a finished run, in the order of the study."""
        done = {run.method.name for run in self.runs}
        return [method for method in self.runs[0].study.methods if method.name in done]

    @cached_property
    def floors(self) -> dict[str, Report]:
        """Floor -> the first report that has it; reports of models that were trained on more come last."""
        found: dict[str, Report] = {}
        for report in sorted(self.reports.values(), key=lambda report: "trained_on" in report.facts):
            for name in report.floors:
                found.setdefault(name, report)
        return found

    @cached_property
    def labels(self) -> dict[str, Method]:
        """Rows of the reports -> the method whose runs hold them: the method itself and what was mixed with it."""
        found: dict[str, Method] = {}
        for method in self.methods:
            rows = dict.fromkeys(name for run in self.runs_on(method.name) for name in self.reports[run.key].methods)
            found |= {name: method for name in rows if not name.endswith(tuple(WITHOUT.values()))}
        return found

    def runs_on(self, label: str) -> list[Run]:
        """Finished runs of a method, or of the method that a row of the reports belongs to, by seed."""
        owner = next((method.name for method in self.methods if label == method.name), None)
        if owner is None:
            owner = self.labels[label].name if label in self.labels else None
        return [run for run in self.runs if run.method.name == owner]

    def views(self, label: str, without: str | None = None) -> list[str]:
        """Views of a row that all of its reports have, and `scored` where one has it.

        A seed for which validation chose the bare cosine has no `scored` of its own: it is its `both`.
        """
        reports = [self.reports[run.key] for run in self.runs_on(label)]
        name = label + WITHOUT.get(str(without), "")
        if not reports or any(name not in report.methods for report in reports):
            return []
        found = list(dict.fromkeys(view for report in reports for view in report.views(name)))
        return [view for view in found if all(_view_there(report, name, view) for report in reports)]

    def ranks(self, name: str, view: str, without: str | None = None) -> list[np.ndarray]:
        """Ranks by seed, each `(n,)` in the order of `first`; of a floor with `view` `floor`."""
        if view == FLOOR_VIEW:
            report = self.floors[name]
            key = next(key for key, other in self.reports.items() if other is report)
            return [report.ranks(name, view)[self._orders[key]]]
        name_there = name + WITHOUT.get(str(without), "")
        found = []
        for run in self.runs_on(name):
            report = self.reports[run.key]
            there = _view_there(report, name_there, view) or view
            found.append(report.ranks(name_there, there)[self._orders[run.key]])
        return found

    def values(self, name: str, view: str, metric: str, without: str | None = None) -> np.ndarray:
        """A metric of every example, averaged over seeds: `(n,)`."""
        return np.mean([rank_metric(metric, ranks) for ranks in self.ranks(name, view, without)], axis=0)

    def mean(
        self, name: str, view: str, metric: str, *, without: str | None = None, part: np.ndarray | None = None
    ) -> Mean:
        """A metric's mean over examples (of a part of them), and its spread over seeds."""
        rows = slice(None) if part is None else part
        ranked = self.ranks(name, view, without)
        return mean_of([float(rank_metric(metric, ranks[rows]).mean()) for ranks in ranked])

    def minutes(self, label: str) -> float | None:
        """Minutes of training of a run on average; `None` for what is not trained."""
        facts = [read_json(run.folder / RESULT_FILE) for run in self.runs_on(label)]
        seconds = [each["seconds"]["training"] for each in facts if "training" in each["seconds"]]
        return float(np.mean(seconds)) / 60 if seconds else None

    def facts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and `result.json` of every run."""
        for run in self.runs:
            yield run.key, read_json(run.folder / RESULT_FILE)


def _view_there(report: Report, name: str, view: str) -> str | None:
    """The view of a report that holds a row's view; `None` where there is none."""
    views = report.views(name)
    if view in views:
        return view
    return "both" if view == SCORED and "both" in views else None


def read_results(study: Study) -> list[DataResults]:
    """The results of every data set with finished runs.

    Raises:
        ValueError: none is finished, or one was made with another configuration than the study's file says now.
    """
    runs = runs_of(study)
    check_configs(runs)
    done = [run for run in runs if run.is_done]
    if not done:
        raise ValueError(f"`study`: no run in {study.output} is done; make some with `vlm2rec study` first.")
    found = [DataResults(data, mine) for data in study.data if (mine := [run for run in done if run.data == data])]
    return found
