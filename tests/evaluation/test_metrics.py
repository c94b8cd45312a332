import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.evaluation.metrics import (
    coverage_at_k,
    hit_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    rank_metric,
    recall_at_k,
)

from .oracles import naive_metric, ranx_means

FUNCTIONS = {"hit": hit_at_k, "ndcg": ndcg_at_k, "mrr": mrr_at_k}


def test_a_hand_filled_table():
    ranks = np.array([1, 2, 3, 10, 11])
    np.testing.assert_array_equal(hit_at_k(ranks, 3), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(ndcg_at_k(ranks, 10), [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0])
    np.testing.assert_allclose(mrr_at_k(ranks, 10), [1, 0.5, 1 / 3, 0.1, 0])
    np.testing.assert_array_equal(recall_at_k(ranks, 10), hit_at_k(ranks, 10))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_equals_the_naive_definition(ranks, k):
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(function(ranks, k), [naive_metric(name, rank, k) for rank in ranks])
        np.testing.assert_array_equal(rank_metric(f"{name}@{k}", np.array(ranks)), function(ranks, k))


def test_no_example_gives_no_value():
    assert ndcg_at_k(np.array([], dtype=np.int64), 10).shape == (0,)


@pytest.mark.parametrize(
    ("ranks", "k", "message"),
    [
        ([0, 1], 10, "1-based"),
        ([1.0, 2.0], 10, "integers"),
        ([[1]], 10, "one-dimensional"),
        ([1], 0, "`k`"),
        ([1], 2.5, "`k`"),
        ([1], True, "`k`"),
    ],
)
def test_refuses_what_is_no_rank_or_cut_off(ranks, k, message):
    with pytest.raises(ValueError, match=message):
        hit_at_k(np.array(ranks), k)


@pytest.mark.parametrize("name", ["ndcg", "ndcg@", "ndcg@0.5", "f1@10", "ndcg@-1"])
def test_refuses_unknown_metric_names(name):
    with pytest.raises(ValueError, match="`name`"):
        rank_metric(name, np.array([1]))


def test_coverage_counts_each_item_once_and_no_padding():
    top = np.array([[0, 1, 2], [1, 0, -1]])
    assert coverage_at_k(top, 10) == pytest.approx(0.3)
    assert coverage_at_k(top, 10, 1) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="`top_items`"):
        coverage_at_k(top, 2)
    with pytest.raises(ValueError, match="larger k"):
        coverage_at_k(top, 10, 4)


def test_novelty_is_mean_self_information():
    counts = np.array([7, 3, 0, 2])  # smoothed: 8, 4, 1, 3 of 16
    top = np.array([[0, 1], [2, -1], [-1, -1]])
    novelty = novelty_at_k(top, counts)
    np.testing.assert_allclose(novelty[:2], [(1 + 2) / 2, 4.0])
    assert np.isnan(novelty[2])
    np.testing.assert_allclose(novelty_at_k(top, counts, 1)[0], 1.0)
    # Without interactions every item is equally surprising: log2 of the catalogue's size.
    np.testing.assert_allclose(novelty_at_k(np.array([[0, 3]]), np.zeros(8)), 3.0)


def test_equals_ranx():
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(15) for _ in range(12)])
    targets = rng.integers(0, 15, 12)
    ranks = 1 + np.argmax(lists == targets[:, None], axis=1)
    names = {"hit_rate@5": "hit@5", "recall@5": "recall@5", "ndcg@5": "ndcg@5", "mrr@5": "mrr@5"}
    result = ranx_means(lists, targets, names)
    for theirs, ours in names.items():
        assert rank_metric(ours, ranks).mean() == pytest.approx(result[theirs], abs=1e-9)
    assert 0 < result["ndcg@5"] < result["hit_rate@5"] < 1


def test_the_metrics_file_imports_only_numpy_and_the_package_stays_cheap():
    import vlm2rec_hf.evaluation.metrics as metrics

    code = (
        "import sys, importlib.util as u;"
        f"s = u.spec_from_file_location('m', {metrics.__file__!r}); m = u.module_from_spec(s);"
        "s.loader.exec_module(m);"
        "assert m.hit_at_k([1], 1)[0] == 1.0;"
        "bad = [x for x in ('torch', 'scipy', 'vlm2rec_hf', 'matplotlib') if x in sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_exports_are_all_there():
    import vlm2rec_hf.evaluation as evaluation

    assert len(evaluation.__all__) > 40 and list(evaluation.__all__) == sorted(evaluation.__all__)
    for name in evaluation.__all__:
        assert callable(getattr(evaluation, name)) or name == "FLOORS"
    with pytest.raises(AttributeError, match="nonsense"):
        evaluation.nonsense  # noqa: B018
