"""The comparisons that a study was made for: paired permutation tests, Holm's correction over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..evaluation.report import FLOOR_VIEW
from ..evaluation.significance import bootstrap_interval, holm, paired_permutation_test
from ..evaluation.without_modality import WITHOUT
from .results import DataResults
from .study_file import PairedTest, Study


@dataclass(frozen=True)
class TestRow:
    """One comparison on one data set.

    Every example's metric is averaged over the seeds of each method first; the pairs are the examples, and all
    examples of one user flip together. So the p-value speaks of these trained models on other users: it does not count
    how other seeds would differ, which the deviations in the tables show.
    """

    __test__ = False  # not one of pytest's

    data: str
    a: str
    b: str
    view_a: str
    view_b: str
    metric: str
    slice: str | None
    without: str | None
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    n: int
    seeds_a: int
    seeds_b: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def run_tests(study: Study, results: Sequence[DataResults], *, n: int = 10_000, seed: int = 0) -> list[TestRow]:
    """The study's tests on every data set where both sides have finished runs.

    Args:
        study: the study.
        results: of its data sets.
        n: permutations, and resamples of the difference's interval.
        seed: of both.
    """
    made = [_test(one, test, n, seed) for one in results for test in study.tests]
    rows = [row for row in made if row is not None]
    adjusted: Any = holm([row.p_value for row in rows]) if rows else []
    return [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def tests_to_markdown(rows: Sequence[TestRow], n_tests: int) -> str:
    """Tests of one data set as a Markdown table.

    Args:
        rows: the tests.
        n_tests: over how many tests Holm's correction went.
    """
    lines = [
        "| method | against | metric | means | difference [95 %] | relative | p (Holm) |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        where = [row.metric, *([row.slice] if row.slice else [])]
        where += [WITHOUT[row.without].strip()] if row.without else []
        change = f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
        relative = f"{row.difference / row.mean_b:+.1%}" if row.mean_b else "–"
        lines.append(
            f"| {row.a} ({row.view_a}) | {row.b} ({row.view_b}) | {', '.join(where)} | "
            f"{row.mean_a:.4f}, {row.mean_b:.4f} | {change} | {relative} | {row.p_holm:.4f} |"
        )
    return "\n".join(lines) + (
        f"\n\nPaired permutation tests on examples, averaged over seeds first; Holm's correction over the study's "
        f"{n_tests} tests.\n"
    )


def _test(one: DataResults, test: PairedTest, n: int, seed: int) -> TestRow | None:
    """One comparison; `None` where a side has no finished run here, or no example is in the slice."""
    views = [_view(one, name, test) for name in (test.a, test.b)]
    part = np.ones(len(one.first), dtype=bool)
    if test.slice is not None:
        if test.slice not in one.first.slices:
            raise ValueError(f"`tests` names the slice {test.slice!r}; reports have {', '.join(one.first.slices)}.")
        part = one.first.slices[test.slice]
    if None in views or not part.any():
        return None
    view_a, view_b = (str(view) for view in views)
    without_b = None if view_b == FLOOR_VIEW else test.without
    a = one.values(test.a, view_a, test.metric, test.without)[part]
    b = one.values(test.b, view_b, test.metric, without_b)[part]
    users = one.first.user_ids[part]
    result = paired_permutation_test(a, b, n=n, seed=seed, groups=users)
    interval = bootstrap_interval(a - b, n=n, seed=seed, groups=users)
    return TestRow(
        data=one.data.name,
        a=test.a,
        b=test.b,
        view_a=view_a,
        view_b=view_b,
        metric=test.metric,
        slice=test.slice,
        without=test.without,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=result.difference,
        low=interval.low,
        high=interval.high,
        p_value=result.p_value,
        p_holm=result.p_value,
        n=len(a),
        seeds_a=len(one.ranks(test.a, view_a)),
        seeds_b=len(one.ranks(test.b, view_b)),
    )


def _view(one: DataResults, name: str, test: PairedTest) -> str | None:
    """The view of a method that a test compares; `None` where the method has no finished run."""
    if name in one.floors and not one.runs_on(name):
        return FLOOR_VIEW
    there = one.views(name, test.without)
    if not there:
        return None
    if test.view in there:
        return str(test.view)
    own = one.labels[name].view
    return own if own in there else there[0]
