"""The comparison of two reports: the same examples, method against method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import rank_metric
from .report import Report
from .significance import bootstrap_interval, holm, paired_permutation_test


@dataclass(frozen=True)
class Comparison:
    """One metric of one view, method `a` against method `b` on the same examples."""

    a: str
    b: str
    view: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    n: int


def compare(
    report_a: Report,
    report_b: Report,
    *,
    methods: Iterable[tuple[str, str]] | None = None,
    metrics: Iterable[str] | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Test methods of two reports against each other, example by example, with Holm's correction over all the tests.

    Args:
        report_a: one report.
        report_b: the other; the same protocol and the same examples.
        methods: pairs `(method of a, method of b)`; default: methods with the same name, or the only one of each.
        metrics: e.g. `["ndcg@10"]`; default: Hit and NDCG at each cut-off of the protocol.
        n: permutations (and bootstrap resamples of the difference's interval).
        seed: of both.

    Returns:
        One `Comparison` per pair, shared view and metric.

    Raises:
        ValueError: protocols or examples that differ (the message says in what), unknown methods, nothing in common.
    """
    require_one_protocol(report_a, report_b)
    order = match_examples(report_a, report_b)
    if methods is None:
        shared = [method for method in report_a.methods if method in report_b.methods]
        if not shared and len(report_a.methods) == len(report_b.methods) == 1:
            methods = [(report_a.methods[0], report_b.methods[0])]
        else:
            methods = [(method, method) for method in shared]
    pairs = list(methods)
    triples = [(a, b, view) for a, b in pairs for view in report_a.views(a) if view in report_b.views(b)]
    if not triples:
        raise ValueError(
            f"`methods` gives nothing to compare: {report_a.methods} against {report_b.methods}; "
            "name pairs, as methods=[('wpcl', 'sft')]."
        )
    names = list(metrics) if metrics is not None else default_metrics(report_a.protocol.k)
    rows = []
    for a, b, view in triples:
        ranks_a, ranks_b = report_a.ranks(a, view), report_b.ranks(b, view)[order]
        rows += [_test_pair(a, b, view, name, ranks_a, ranks_b, report_a.user_ids, n, seed) for name in names]
    adjusted = np.asarray(holm([row.p_value for row in rows]))
    return [Comparison(**{**vars(row), "p_holm": float(p)}) for row, p in zip(rows, adjusted, strict=True)]


def compare_methods(report: Report, methods: Iterable[str] | None = None, **options: object) -> list[Comparison]:
    """All pairs of a report's methods against each other; `options` as in `compare` (`metrics`, `n`, `seed`)."""
    names = list(report.methods if methods is None else methods)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return compare(report, report, methods=pairs, **options)  # type: ignore[arg-type]


def default_metrics(cut_offs: Iterable[int]) -> list[str]:
    """Hit and NDCG at each cut-off."""
    return [f"{name}@{k}" for k in cut_offs for name in ("hit", "ndcg")]


def require_one_protocol(
    report_a: Report, report_b: Report, names: tuple[str, str] = ("report_a", "report_b")
) -> None:
    """Refuse reports that answer different questions.

    Raises:
        ValueError: protocols that differ; the message says in what.
    """
    if report_a.protocol.fingerprint != report_b.protocol.fingerprint:
        differing = report_a.protocol.differences(report_b.protocol)
        listed = "; ".join(f"{name}: {ours!r} against {theirs!r}" for name, (ours, theirs) in differing.items())
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` answer different questions ({listed}); evaluate both under one protocol."
        )


def match_examples(
    report_a: Report, report_b: Report, names: tuple[str, str] = ("report_a", "report_b")
) -> np.ndarray:
    """Rows of `report_b` in the order of `report_a`'s examples: `(n,)` int64.

    Raises:
        ValueError: other users or targets.
    """
    ours = list(zip(report_a.user_ids.tolist(), report_a.item_ids.tolist(), strict=True))
    theirs = list(zip(report_b.user_ids.tolist(), report_b.item_ids.tolist(), strict=True))
    if ours == theirs:
        return np.arange(len(ours))
    sort_ours = sorted(range(len(ours)), key=ours.__getitem__)
    sort_theirs = sorted(range(len(theirs)), key=theirs.__getitem__)
    if [ours[i] for i in sort_ours] != [theirs[i] for i in sort_theirs]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` hold different examples ({len(ours)} and {len(theirs)}, "
            f"{len(set(ours) & set(theirs))} in common); evaluate both on the same users and targets."
        )
    order = np.empty(len(ours), dtype=np.int64)
    order[sort_ours] = sort_theirs
    return order


def _test_pair(
    a: str,
    b: str,
    view: str,
    name: str,
    ranks_a: np.ndarray,
    ranks_b: np.ndarray,
    users: np.ndarray,
    n: int,
    seed: int,
) -> Comparison:
    values_a, values_b = rank_metric(name, ranks_a), rank_metric(name, ranks_b)
    test = paired_permutation_test(values_a, values_b, n=n, seed=seed, groups=users)
    interval = bootstrap_interval(values_a - values_b, n=n, seed=seed, groups=users)
    mean_a, mean_b = float(values_a.mean()), float(values_b.mean())
    p = test.p_value
    return Comparison(
        a, b, view, name, mean_a, mean_b, test.difference, interval.low, interval.high, p, p, len(values_a)
    )


def comparisons_to_markdown(tests: Sequence[Comparison]) -> str:
    """Differences, their 95 % intervals and Holm-corrected p-values as Markdown."""
    lines = ["| method | against | metric | difference | p (Holm) |", "|---|---|---|---:|---:|"]
    for row in tests:
        change = f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
        lines.append(f"| {row.a} | {row.b} | {row.metric} | {change} | {row.p_holm:.4f} |")
    return "\n".join(lines) + f"\n\nPaired permutation tests, {len(tests)} in all, Holm's correction over them.\n"
