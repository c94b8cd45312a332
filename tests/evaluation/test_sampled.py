import numpy as np
import pytest

from vlm2rec_hf.data.sequences import make_examples
from vlm2rec_hf.evaluation.ranking import rank_targets
from vlm2rec_hf.evaluation.sampled import draw_negatives, rank_sampled
from vlm2rec_hf.evaluation.scorers import VectorScorer

from .oracles import MatrixScorer, random_sequences


def setup(n_items=120):
    examples = make_examples(random_sequences(5, n_users=40, n_items=n_items), "test", 10)
    rng = np.random.default_rng(0)
    users = rng.integers(-2, 3, (len(examples), 4)).astype(np.float32)
    items = rng.integers(-2, 3, (n_items, 4)).astype(np.float32)
    return examples, users, items


def test_ranks_are_the_targets_place_among_its_own_negatives():
    examples, users, items = setup()
    result = rank_sampled(VectorScorer(users, items), examples, n_negatives=30)
    scores = users @ items.T
    for i, target in enumerate(examples.targets):
        negatives = result.negatives[i]
        assert len(set(negatives.tolist())) == 30
        assert target not in negatives
        assert not set(negatives.tolist()) & set(examples.seen(i).tolist())
        assert result.ranks[i] == 1 + (scores[i, negatives] >= scores[i, target]).sum()
    assert result.candidates == "sampled" and result.n_negatives == 30


def test_negatives_depend_on_seed_user_and_target_only():
    examples, users, items = setup()
    scorer = VectorScorer(users, items)
    first = rank_sampled(scorer, examples, n_negatives=20, seed=3)
    other_model = rank_sampled(MatrixScorer(users @ items.T), examples, n_negatives=20, seed=3, block_users=7)
    np.testing.assert_array_equal(first.negatives, other_model.negatives)
    np.testing.assert_array_equal(first.ranks, other_model.ranks)
    assert (rank_sampled(scorer, examples, n_negatives=20, seed=4).negatives != first.negatives).any()
    rows = np.array([30, 2, 11])
    part = rank_sampled(VectorScorer(users[rows], items), examples.take(rows), n_negatives=20, seed=3)
    np.testing.assert_array_equal(part.negatives, first.negatives[rows])


def test_all_unseen_items_as_negatives_is_full_ranking_over_them():
    n, n_items = 6, 40
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((n, n_items))
    targets = rng.integers(0, n_items, n)
    seen = [rng.choice(np.delete(np.arange(n_items), t), 9, replace=False) for t in targets]
    sampled = rank_sampled(MatrixScorer(scores), targets, seen=seen, n_negatives=30)
    full = rank_targets(MatrixScorer(scores), targets, seen=seen)
    np.testing.assert_array_equal(sampled.ranks, full.ranks)


def test_draws_are_uniform_over_the_allowed_items():
    forbidden = np.array([0, 3, 4, 9])
    counts = np.zeros(10)
    generator = np.random.default_rng(0)
    for _ in range(3000):
        counts[draw_negatives(forbidden, 10, 2, generator)] += 1
    assert (counts[forbidden] == 0).all()
    allowed = np.delete(counts, forbidden)
    assert (abs(allowed - 1000) < 5 * np.sqrt(1000)).all()


def test_ties_count_against_the_target():
    result = rank_sampled(MatrixScorer(np.zeros((1, 9))), np.array([4]), seen=[[]], n_negatives=8)
    assert result.ranks.tolist() == [9]


def test_bad_arguments_are_refused():
    scorer = MatrixScorer(np.zeros((1, 9)))
    with pytest.raises(ValueError, match="only 7 unseen items of 9"):
        rank_sampled(scorer, np.array([4]), seen=[[1]], n_negatives=8)
    with pytest.raises(ValueError, match="`seen` is None"):
        rank_sampled(scorer, np.array([4]), n_negatives=3)
    with pytest.raises(ValueError, match="`n_negatives`"):
        rank_sampled(scorer, np.array([4]), seen=[[]], n_negatives=0)
    with pytest.raises(ValueError, match="`seed`"):
        rank_sampled(scorer, np.array([4]), seen=[[]], seed=-1)
    with pytest.raises(ValueError, match="`user_index`"):
        rank_sampled(scorer, np.array([4]), seen=[[]], n_negatives=3, user_index=[1, 2])
    with pytest.raises(ValueError, match="NaN"):
        rank_sampled(MatrixScorer(np.full((1, 9), np.nan)), np.array([4]), seen=[[]], n_negatives=3)
