import numpy as np
import pytest

from vlm2rec_hf.evaluation.comparison import compare, compare_methods
from vlm2rec_hf.evaluation.metrics import ndcg_at_k
from vlm2rec_hf.evaluation.protocol import Protocol
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.evaluation.significance import holm, paired_permutation_test

from .report_builders import N, make_report


def test_compare_pairs_by_user_whatever_the_order_of_the_reports():
    ours = make_report()
    shuffled = make_report(seed=3, order=np.random.default_rng(0).permutation(N))
    straight = make_report(seed=3)
    result = compare(ours, shuffled, n=500)
    assert result == compare(ours, straight, n=500)
    assert {(row.a, row.b) for row in result} == {("sft", "sft"), ("wpcl", "wpcl")}
    assert len(result) == 2 * 3 * 4  # methods, views, hit and ndcg at 10 and 20
    row = next(row for row in result if (row.a, row.view, row.metric) == ("wpcl", "image", "ndcg@10"))
    a, b = ndcg_at_k(ours.ranks("wpcl", "image"), 10), ndcg_at_k(straight.ranks("wpcl", "image"), 10)
    test = paired_permutation_test(a, b, n=500)
    assert row.p_value == test.p_value and row.difference == pytest.approx((a - b).mean())
    assert (row.mean_a, row.mean_b, row.n) == (a.mean(), b.mean(), N)
    assert row.low < row.difference < row.high
    np.testing.assert_allclose([row.p_holm for row in result], holm([row.p_value for row in result]))


def test_compare_methods_takes_all_pairs_of_one_report():
    report = make_report(("a", "b", "c"), views=("text",))
    result = compare_methods(report, metrics=["hit@10"], n=300)
    assert [(row.a, row.b) for row in result] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert result[1].difference < 0 and result[1].p_value < 0.05


def test_the_only_methods_of_two_reports_are_compared_whatever_their_names():
    result = compare(make_report(("old",)), make_report(("new",), seed=10), metrics=["ndcg@10"], n=200)
    assert {(row.a, row.b) for row in result} == {("old", "new")}


@pytest.mark.parametrize(
    ("protocol", "difference"),
    [
        (Protocol("abd"), "dataset: 'abc' against 'abd'"),
        (Protocol("abc", split="validation"), "split: 'test' against 'validation'"),
        (Protocol("abc", k=(10,)), r"k: \[10, 20\] against \[10\]"),
        (Protocol("abc", targets="last"), "targets: 'all' against 'last'"),
    ],
)
def test_compare_refuses_other_protocols_and_says_why(protocol, difference):
    with pytest.raises(ValueError, match=difference):
        compare(make_report(), make_report(protocol=protocol))


def test_compare_allows_another_history_length():
    result = compare(
        make_report(("embedder",)), make_report(("head",), protocol=Protocol("abc", max_history=200)), n=100
    )
    assert len(result) == 12


def test_compare_refuses_other_examples_or_nothing_in_common():
    ours, theirs = make_report(), make_report()
    theirs.item_ids = np.array(["other", *theirs.item_ids[1:]])
    with pytest.raises(ValueError, match="different examples.*119 in common|different examples"):
        compare(ours, theirs)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(make_report(("a", "b")), make_report(("c",)))
    with pytest.raises(ValueError, match="`method`"):
        compare(ours, ours, methods=[("sft", "nope")])
    assert isinstance(ours, Report)
