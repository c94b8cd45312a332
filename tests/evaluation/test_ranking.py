import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm2rec_hf.data.sequences import make_examples
from vlm2rec_hf.evaluation.ranking import _even_rows, _VectorBlocks, rank_targets
from vlm2rec_hf.evaluation.scorers import BlockScorer, VectorScorer
from vlm2rec_hf.evaluation.seen import SeenItems
from vlm2rec_hf.evaluation.top_k import RunningTop, count_at_least_, group_maxima, top_columns

from .oracles import MatrixScorer, naive_ranks, naive_top, random_sequences


def problem(seed, n=23, n_items=150, dim=4, n_seen=9):
    """Vectors of small integers: scores are exact in float32, and ties are frequent."""
    rng = np.random.default_rng(seed)
    users = rng.integers(-2, 3, (n, dim)).astype(np.float32)
    items = rng.integers(-2, 3, (n_items, dim)).astype(np.float32)
    targets = rng.integers(0, n_items, n)
    seen = [rng.integers(0, n_items, rng.integers(0, n_seen)) for _ in range(n)]
    return users, items, targets, seen


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("n_items", "k"), [(10, 3), (10, 20), (64, 5), (200, 20), (331, 1)])
def test_equals_brute_force_whatever_the_blocks(n_items, k, exclude_seen):
    users, items, targets, seen = problem(n_items, n_items=n_items)
    scores = users @ items.T
    ranks = naive_ranks(scores, targets, seen, exclude_seen)
    top = naive_top(scores, targets, k, seen, exclude_seen)
    for block_users, block_items in ((None, 8192), (1, 64), (7, 100), (100, 128), (23, 1)):
        result = rank_targets(
            VectorScorer(users, items), targets, seen=seen, k=k, exclude_seen=exclude_seen,
            block_users=block_users, block_items=block_items,
        )  # fmt: skip
        np.testing.assert_array_equal(result.ranks, ranks)
        np.testing.assert_array_equal(result.top_items, top)
        expected = np.where(top >= 0, np.take_along_axis(scores, np.maximum(top, 0), axis=1), -np.inf)
        np.testing.assert_array_equal(result.top_scores, expected)
    for dtype in (np.float32, np.float64):
        result = rank_targets(
            MatrixScorer(scores.astype(dtype)), targets, seen=seen, k=k, exclude_seen=exclude_seen, block_users=5
        )
        np.testing.assert_array_equal(result.ranks, ranks)
        np.testing.assert_array_equal(result.top_items, top)


@given(st.integers(0, 10_000), st.integers(2, 90), st.integers(1, 25), st.integers(1, 12), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_invariants(seed, n_items, k, block_users, block_items):
    users, items, targets, seen = problem(seed, n=8, n_items=n_items, n_seen=min(9, n_items))
    scorer = VectorScorer(users, items)
    result = rank_targets(scorer, targets, seen=seen, k=k, block_users=block_users, block_items=block_items)
    np.testing.assert_array_equal(result.ranks, naive_ranks(users @ items.T, targets, seen))
    assert (result.ranks >= 1).all() and (result.ranks <= result.n_candidates).all()
    # Names do not matter: permuting the catalogue permutes lists' members but no rank.
    new_of_old = np.random.default_rng(seed).permutation(n_items)
    permuted = np.empty_like(items)
    permuted[new_of_old] = items
    again = rank_targets(
        VectorScorer(users, permuted), new_of_old[targets], seen=[new_of_old[row] for row in seen], k=k
    )
    np.testing.assert_array_equal(again.ranks, result.ranks)
    np.testing.assert_array_equal(again.n_candidates, result.n_candidates)
    np.testing.assert_array_equal(again.top_scores, result.top_scores)
    # Excluding items never makes a rank worse.
    kept = rank_targets(scorer, targets, k=k, exclude_seen=False)
    assert (result.ranks <= kept.ranks).all() and (kept.n_candidates == n_items).all()


def test_ties_count_against_the_target():
    scores = np.zeros((2, 7))
    scores[1, 3] = 1.0
    result = rank_targets(MatrixScorer(scores), np.array([3, 3]), exclude_seen=False, k=3)
    np.testing.assert_array_equal(result.ranks, [7, 1])
    np.testing.assert_array_equal(result.top_items, [[0, 1, 2], [3, 0, 1]])


def test_wrong_guesses_are_noticed_and_not_trusted_again(monkeypatch):
    rng = np.random.default_rng(2)
    users = rng.standard_normal((200, 24)).astype(np.float32)
    items = rng.standard_normal((900, 24)).astype(np.float32)
    items[::9] = items[0]
    targets, seen = rng.integers(0, 900, 200), [rng.integers(0, 900, 6) for _ in range(200)]
    asked = []

    def guess(self, own):
        asked.append(len(own))
        right = torch.mm(self.users, self.items[torch.as_tensor(own)].T).diagonal()[:, None]
        return right + torch.tensor([[1e-3]])

    options = {"seen": seen, "k": 9, "block_users": 50, "block_items": 128}
    before = rank_targets(VectorScorer(users, items), targets, **options)
    monkeypatch.setattr(_VectorBlocks, "guess", guess)
    after = rank_targets(VectorScorer(users, items), targets, **options)
    assert asked == [50]
    np.testing.assert_array_equal(after.ranks, before.ranks)
    np.testing.assert_array_equal(after.top_items, before.top_items)


def test_threads_change_nothing_and_are_given_back():
    users, items, targets, seen = problem(5, n=500, n_items=700)
    before = torch.get_num_threads()
    single = rank_targets(VectorScorer(users, items), targets, seen=seen, k=7)
    try:
        torch.set_num_threads(3)
        several = rank_targets(VectorScorer(users, items), targets, seen=seen, k=7, block_users=40, block_items=128)
        assert torch.get_num_threads() == 3
        targets[499] = 700
        with pytest.raises(ValueError, match="catalogue indices"):
            rank_targets(VectorScorer(users, items), targets, seen=seen)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(several.ranks, single.ranks)
    np.testing.assert_array_equal(several.top_items, single.top_items)
    np.testing.assert_array_equal(several.n_candidates, single.n_candidates)


@pytest.mark.parametrize("dim", [3, 33, 64])
@pytest.mark.parametrize("n_items", [333, 1000])
def test_an_item_with_the_targets_vector_always_ties_and_a_target_never_loses_to_itself(dim, n_items):
    rng = np.random.default_rng(dim)
    n = 60
    users = rng.standard_normal((n, dim)).astype(np.float32)
    items = rng.standard_normal((n_items, dim)).astype(np.float32)
    twins = rng.choice(n_items, 40, replace=False)
    items[twins] = items[twins[0]]
    targets = rng.choice(twins, n)
    exact = users.astype(np.float64) @ items.astype(np.float64).T
    apart = np.ones(n_items, dtype=bool)
    apart[twins] = False
    better = (exact[:, apart] > exact[np.arange(n), targets][:, None]).sum(axis=1)
    for block_users, block_items in ((None, 8192), (7, 64), (60, 256)):
        result = rank_targets(
            VectorScorer(users, items), targets, exclude_seen=False, block_users=block_users, block_items=block_items
        )
        np.testing.assert_array_equal(result.ranks, better + len(twins))


def test_seen_items_are_no_candidates_but_a_repeated_target_is():
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    result = rank_targets(MatrixScorer(scores), np.array([2, 2]), seen=[[0, 0, 1], [0, 2]], k=4)
    np.testing.assert_array_equal(result.ranks, [1, 2])
    np.testing.assert_array_equal(result.top_items, [[2, 3, -1, -1], [1, 2, 3, -1]])
    assert np.isneginf(result.top_scores[0, 2:]).all()
    np.testing.assert_array_equal(result.n_candidates, [2, 3])


def test_examples_exclude_the_whole_past_not_only_the_cut_history():
    sequences = random_sequences(1)
    examples = make_examples(sequences, "test", max_history=1)
    scores = np.random.default_rng(0).standard_normal((len(examples), sequences.n_items))
    seen = [examples.seen(i) for i in range(len(examples))]
    result = rank_targets(MatrixScorer(scores), examples, k=5)
    np.testing.assert_array_equal(result.ranks, naive_ranks(scores, examples.targets, seen))
    np.testing.assert_array_equal(result.top_items, naive_top(scores, examples.targets, 5, seen))
    short = rank_targets(MatrixScorer(scores), examples, seen=[examples.history(i) for i in range(len(examples))], k=5)
    assert (short.ranks != result.ranks).any()  # so the test would notice a cut


def test_a_scorers_own_memory_is_not_written_to():
    shared = np.arange(6.0)
    before = shared.copy()

    class Broadcast(MatrixScorer):
        def scores(self, rows):
            return np.broadcast_to(shared, (rows.stop - rows.start, 6))

    result = rank_targets(Broadcast(np.zeros((3, 6))), np.array([0, 5, 2]), seen=[[5], [1], [4, 5]], k=2)
    np.testing.assert_array_equal(result.ranks, [5, 1, 2])
    np.testing.assert_array_equal(shared, before)
    assert isinstance(Broadcast(np.zeros((3, 6))), BlockScorer)


class LargestTensor(TorchDispatchMode):
    """Watches every torch operation for the size of what it returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


def test_no_array_of_users_times_items_is_ever_made():
    n, n_items, dim = 300, 3000, 8
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((n, dim)), rng.standard_normal((n_items, dim))
    targets, seen = rng.integers(0, n_items, n), [rng.integers(0, n_items, 5) for _ in range(n)]
    scorer = VectorScorer(users, items)
    with LargestTensor() as watch:
        rank_targets(scorer, targets, seen=seen, block_users=n, block_items=n_items, k=5)
    assert watch.largest >= n * n_items  # one block on purpose: the watch sees it
    tracemalloc.start()
    with LargestTensor() as watch:
        rank_targets(scorer, targets, seen=seen, block_users=30, block_items=320, k=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    set_aside = 30 * (RunningTop.WAITING + 320 // 64) * 64 * 2  # groups of scores, and two indices to each
    assert watch.largest <= max(30 * 320, set_aside, n_items * dim) < n * n_items / 10
    assert peak < n * n_items  # not even one byte per pair on NumPy's side
    matrix = MatrixScorer(rng.standard_normal((n, n_items)))
    rank_targets(matrix, targets, seen=seen)
    assert max(rows.stop - rows.start for rows in matrix.asked) <= 2**22 // n_items
    assert [rows.start for rows in matrix.asked][1:] == [rows.stop for rows in matrix.asked][:-1]


def test_cosine_is_taken_of_the_vectors_as_given():
    users, items, targets, _ = problem(3)
    users, items = users + 0.25, items * np.arange(1, len(items) + 1)[:, None].astype(np.float32)
    items[5] = 0
    unit = [m / np.maximum(np.linalg.norm(m, axis=1, keepdims=True), 1e-30) for m in (users, items)]
    plain = VectorScorer(users, items).scores(slice(0, 23)).numpy()
    np.testing.assert_allclose(plain, users @ items.T, rtol=1e-4, atol=1e-3)
    cosine = VectorScorer(users, items, normalize=True).scores(slice(0, 23)).numpy()
    np.testing.assert_allclose(cosine, unit[0] @ unit[1].T, atol=1e-6)
    assert (cosine[:, 5] == 0).all()


def test_bad_vectors_are_refused():
    good = np.ones((3, 2), dtype=np.float32)
    bad = good.copy()
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match="`user_vectors`.*row 1"):
        VectorScorer(bad, good)
    bad[1, 0] = np.inf
    with pytest.raises(ValueError, match="`item_vectors`.*row 1"):
        VectorScorer(good, bad)
    with pytest.raises(ValueError, match="overflow"):
        VectorScorer(good * 3e19, good * 3e19)
    with pytest.raises(ValueError, match="agree in dim"):
        VectorScorer(good, np.ones((3, 4)))
    with pytest.raises(ValueError, match="`user_vectors` must be a matrix"):
        VectorScorer(good[0], good)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_row(value):
    scores = np.zeros((9, 5))
    scores[7, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite.*example 7"):
        rank_targets(MatrixScorer(scores), np.zeros(9, dtype=int), exclude_seen=False, block_users=2)


def test_bad_arguments_are_refused():
    scorer = MatrixScorer(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="`seen` is None"):
        rank_targets(scorer, np.array([0, 1]))
    with pytest.raises(ValueError, match="`seen` must have one row"):
        rank_targets(scorer, np.array([0, 1]), seen=[[1]])
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        rank_targets(scorer, np.array([0, 5]), exclude_seen=False)
    with pytest.raises(ValueError, match=r"`seen` must hold catalogue indices"):
        rank_targets(scorer, np.array([0, 1]), seen=[[5], []])
    with pytest.raises(ValueError, match="one row per example"):
        rank_targets(scorer, np.array([0]), exclude_seen=False)
    for name in ("k", "block_users", "block_items"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            rank_targets(scorer, np.array([0, 1]), exclude_seen=False, **{name: 0})
    with pytest.raises(ValueError, match="floating-point"):
        rank_targets(MatrixScorer(np.zeros((2, 5), dtype=int)), np.array([0, 1]), exclude_seen=False)
    with pytest.raises(ValueError, match="slices of `items`"):
        SeenItems(np.array([0]), np.array([4]), np.arange(3))


@pytest.mark.parametrize(
    ("n", "largest", "n_threads", "rows"), [(6040, 512, 1, 504), (6040, 512, 16, 378), (5, 512, 4, 2), (0, 512, 2, 1)]
)
def test_blocks_are_shared_out_evenly(n, largest, n_threads, rows):
    assert _even_rows(n, largest, n_threads) == rows <= largest


def test_no_examples_give_an_empty_ranking():
    result = rank_targets(MatrixScorer(np.zeros((0, 5))), np.zeros(0, dtype=int), exclude_seen=False, k=2)
    assert len(result) == 0 and result.top_items.shape == (0, 2)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_top_columns_and_counts_on_ties(seed, k, spread):
    rng = np.random.default_rng(seed)
    values = torch.as_tensor(rng.integers(-spread, spread + 1, (5, 64)).astype(np.float32))
    best, columns = top_columns(values, k)
    for row in range(5):
        order = sorted(range(64), key=lambda j, row=row: (-float(values[row, j]), j))[:k]
        assert columns[row].tolist() == order and best[row].tolist() == [float(values[row, j]) for j in order]
    threshold = values[:, :1]
    np.testing.assert_array_equal(count_at_least_(values.clone(), threshold), (values >= threshold).sum(1))
    wide = torch.as_tensor(rng.integers(-9, 10, (5, 640)).astype(np.float32))
    for limit in (-8.0, 8.0, 9.0, 10.0):  # from nearly every group to none
        limits = torch.full((5, 1), limit)
        counted = count_at_least_(wide.clone(), limits, group_maxima(wide))
        np.testing.assert_array_equal(counted, (wide >= limits).sum(1))
    double = values.double()
    np.testing.assert_array_equal(count_at_least_(double.clone(), double[:, 1:2]), (double >= double[:, 1:2]).sum(1))


def test_running_top_keeps_the_first_of_equal_items_across_blocks():
    top = RunningTop(1, 3, torch.float32, torch.device("cpu"))
    block = torch.zeros(1, 64)
    top.update(block, 0)
    later = torch.zeros(1, 64)
    later[0, 9] = 1.0
    top.update(later, 64)
    top.finish()
    assert top.items.tolist() == [[73, 0, 1]]
