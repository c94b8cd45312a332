"""Several saved reports as one, so that one table and one correction cover all of their methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .comparison import match_examples, require_one_protocol
from .report import FLOOR_VIEW, Report


def join_reports(reports: Mapping[str, Report], *, view: str = "both") -> Report:
    """One report with one row per method, floors included.

    Args:
        reports: label -> report. A report's only method is called by the label; of several each is called
            `"label method"`.
        view: which view of a method is taken; of a method without it, its only view. It is what all rows of the new
            report are called; `facts["views"]` says which each one was.

    Returns:
        A report over the examples of the first one, in its order and with its slices. Numbers and intervals are taken
        over as they stand; `max_history` is `None` where the reports differ in it. Models that were trained on
        different parts of the data (`facts["trained_on"]`) count popularity differently: slices that differ between
        them are left out (`facts["slices_left_out"]`), and floors that differ stand beside each other, each named by
        its report.

    Raises:
        ValueError: no report, protocols or examples that differ, slices or floors of one name that differ between
            models trained on the same part, or a method with several views of which none is `view`.
    """
    if not reports:
        raise ValueError("`reports` is empty; name at least one.")
    first_label, first = next(iter(reports.items()))
    protocol = first.protocol
    if any(report.protocol.max_history != protocol.max_history for report in reports.values()):
        protocol = replace(protocol, max_history=None)
    orders: dict[str, np.ndarray] = {}
    left_out: set[str] = set()
    for label, report in reports.items():
        require_one_protocol(first, report, (first_label, label))
        order = orders[label] = match_examples(first, report, (first_label, label))
        for name in set(first.slices) & set(report.slices):
            if not np.array_equal(first.slices[name], report.slices[name][order]):
                if _trained_on(first) == _trained_on(report):
                    raise ValueError(
                        f"`reports` {first_label!r} and {label!r} mean different examples by slice {name!r}."
                    )
                left_out.add(name)
    joined = Report(
        protocol,
        user_ids=first.user_ids,
        item_ids=first.item_ids,
        slices={name: mask for name, mask in first.slices.items() if name not in left_out},
        facts={"views": {}, "max_history": {label: report.protocol.max_history for label, report in reports.items()}},
        n_resamples=first.n_resamples,
    )
    if left_out:
        joined.facts["slices_left_out"] = sorted(left_out)
    for label, report in reports.items():
        for method in report.methods:
            name = label if len(report.methods) == 1 else f"{label} {method}"
            taken = _view_of(report, method, view, label)
            joined.take_over(report, method, taken, orders[label], name=name, view_name=view)
            joined.facts["views"][name] = taken
        for floor in report.floors:
            _add_floor(joined, reports, label, floor, orders)
    return joined


def _add_floor(
    joined: Report, reports: Mapping[str, Report], label: str, floor: str, orders: Mapping[str, np.ndarray]
) -> None:
    """Take over a floor of one report, unless an earlier one has the same."""
    report, ranks = reports[label], reports[label].ranks(floor, FLOOR_VIEW)[orders[label]]
    earlier = {name: reports[name] for name in list(reports)[: list(reports).index(label)]}
    earlier = {name: other for name, other in earlier.items() if floor in other.floors}
    same = {n: _like(other.ranks(floor, FLOOR_VIEW)[orders[n]], ranks, floor) for n, other in earlier.items()}
    for name, other in earlier.items():
        if not same[name] and _fitted(other, floor) == _fitted(report, floor):
            raise ValueError(f"`reports` {name!r} and {label!r} rank differently by the floor {floor!r}.")
    if any(same.values()):
        return
    named = f"{floor}, trained as {label}" if earlier else floor
    joined.take_over(report, floor, FLOOR_VIEW, orders[label], name=named)


def _like(ours: np.ndarray, theirs: np.ndarray, floor: str) -> bool:
    """Whether two rankings by a floor are one; EASE's inverse depends on the machine's library in its last digits."""
    return float((ours != theirs).mean()) <= (0.001 if floor == "ease" else 0.0)


def _fitted(report: Report, floor: str) -> tuple[object, object]:
    return _trained_on(report), report.facts.get("floors", {}).get(floor)


def _trained_on(report: Report) -> object:
    return report.facts.get("trained_on")


def _view_of(report: Report, method: str, view: str, label: str) -> str:
    views = report.views(method)
    if view in views:
        return view
    if len(views) == 1:
        return views[0]
    raise ValueError(f"`view` must be one of {views} for method {method!r} of {label!r}, got {view!r}.")
