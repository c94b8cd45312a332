import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlm2rec_hf.evaluation.significance import bootstrap_interval, holm, paired_permutation_test


@pytest.mark.parametrize("few", [True, False])
def test_bootstrap_agrees_with_scipy_on_both_paths(few):
    rng = np.random.default_rng(0)
    values = rng.binomial(1, 0.2, 900).astype(float) if few else rng.gamma(2.0, size=900)
    result = bootstrap_interval(values, n=4000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2), batch=500
    ).confidence_interval
    width = theirs.high - theirs.low
    assert result.mean == pytest.approx(values.mean())
    assert result.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert result.high == pytest.approx(theirs.high, abs=0.06 * width)
    assert result == bootstrap_interval(values, n=4000, seed=1)
    narrow = bootstrap_interval(values, n=4000, seed=1, level=0.5)
    assert result.low < narrow.low < result.mean < narrow.high < result.high


def test_bootstrap_has_the_binomial_width():
    values = np.repeat([0.0, 1.0], [700, 300])
    result = bootstrap_interval(values, n=20_000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert (result.low, result.high) == (pytest.approx(0.3 - half, abs=0.002), pytest.approx(0.3 + half, abs=0.002))


def test_bootstrap_of_users_with_several_examples_is_wider_and_keeps_the_mean():
    rng = np.random.default_rng(0)
    per_user = rng.random(80)
    groups = np.repeat(np.arange(80), 10)
    values = per_user[groups]  # ten copies of one opinion are one opinion
    naive, honest = bootstrap_interval(values), bootstrap_interval(values, groups=groups)
    once = bootstrap_interval(per_user)
    assert naive.mean == honest.mean == pytest.approx(per_user.mean())
    assert honest.high - honest.low == pytest.approx(once.high - once.low, rel=0.1)
    assert honest.high - honest.low > 2.5 * (naive.high - naive.low)
    # A user with many examples weighs as many: the mean is over examples.
    uneven = bootstrap_interval(np.array([1.0, 0.0, 0.0, 0.0]), groups=np.array([0, 1, 1, 1]))
    assert uneven.mean == 0.25 and uneven.low == 0.0 and uneven.high == 1.0


def test_bootstrap_of_a_constant_and_of_nothing():
    assert tuple(bootstrap_interval(np.full(5, 0.25))) == (0.25, 0.25, 0.25)
    assert np.isnan(bootstrap_interval([])).all()


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=2, max_size=9))
@settings(max_examples=30, deadline=None)
def test_small_permutation_tests_enumerate_all_signs(difference):
    difference = np.array(difference)
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(difference))).reshape(len(difference), -1)
    sums = np.abs(difference @ signs)
    expected = (sums >= abs(difference.sum()) - 1e-9).mean()
    result = paired_permutation_test(difference, np.zeros_like(difference))
    assert result.exact and result.p_value == pytest.approx(expected)
    assert result.difference == pytest.approx(difference.mean())


def test_large_permutation_test_of_hits_is_mcnemars_exact_test():
    a = np.repeat([1.0, 0.0, 1.0, 0.0], [60, 35, 400, 500])
    b = np.repeat([0.0, 1.0, 1.0, 0.0], [60, 35, 400, 500])
    expected = stats.binomtest(60, 95).pvalue
    result = paired_permutation_test(a, b, n=40_000)
    assert not result.exact
    assert result.p_value == pytest.approx(expected, abs=4 * np.sqrt(expected / 40_000))
    assert result.difference == pytest.approx(25 / 995)


def test_large_permutation_test_agrees_with_scipy_on_any_values():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.15, 1, 150), rng.normal(0, 1, 150)
    result = paired_permutation_test(a, b, n=20_000)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=5_000,
        vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert result.p_value == pytest.approx(theirs.pvalue, abs=0.03)
    assert result == paired_permutation_test(a, b, n=20_000)


def test_permutation_test_never_claims_zero_and_sees_no_difference_in_equals():
    big = paired_permutation_test(np.ones(500), np.zeros(500), n=999)
    assert big.p_value == pytest.approx(1 / 1000)
    same = paired_permutation_test(np.ones(500), np.ones(500))
    assert same.p_value == 1.0 and same.difference == 0.0
    assert paired_permutation_test([1.0], [0.0]).p_value == 1.0


def test_permutation_test_flips_users_not_examples():
    # Three users with 100 examples each: eight sign patterns, so p cannot be below 2/8.
    groups = np.repeat([0, 1, 2], 100)
    result = paired_permutation_test(np.ones(300), np.zeros(300), groups=groups)
    assert result.exact and result.p_value == pytest.approx(0.25) and result.difference == 1.0


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(0)
    pvalues = [paired_permutation_test(*rng.normal(size=(2, 40)), n=400, seed=i).p_value for i in range(200)]
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01


def test_holm_on_a_known_example():
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    assert holm({"b": 0.04, "a": 0.01}) == {"b": 0.04, "a": 0.02}
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_lies_between_the_raw_and_bonferronis_values(pvalues):
    raw, adjusted = np.array(pvalues), holm(pvalues)
    assert (adjusted >= raw).all() and (adjusted <= np.minimum(raw * len(raw), 1) + 1e-12).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`per_user`"):
        bootstrap_interval([1.0, np.nan])
    with pytest.raises(ValueError, match="`level`"):
        bootstrap_interval([1.0], level=95)
    with pytest.raises(ValueError, match="`groups`"):
        bootstrap_interval([1.0, 2.0], groups=[1])
    with pytest.raises(ValueError, match="paired"):
        paired_permutation_test([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not empty"):
        paired_permutation_test([], [])
    with pytest.raises(ValueError, match="`n`"):
        paired_permutation_test([1.0], [1.0], n=0)
    with pytest.raises(ValueError, match="`pvalues`"):
        holm([1.5])
