"""Item-kNN and EASE against naive dense float64, and within bounded memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data.readers import load_recsys
from vlm2rec_hf.data.sequences import TRAIN, Sequences, make_examples
from vlm2rec_hf.data.training_part import with_validation_trained
from vlm2rec_hf.evaluation import ease, item_knn
from vlm2rec_hf.evaluation.ease import EASEScorer, choose_lambda, items_within
from vlm2rec_hf.evaluation.item_knn import ItemKNNScorer
from vlm2rec_hf.evaluation.metrics import ranking_metrics
from vlm2rec_hf.evaluation.ranking import rank_targets

from .oracles import make_sequences, random_sequences

FLOORS = (ItemKNNScorer, EASEScorer)


def dense_training(sequences):
    matrix = np.zeros((sequences.n_users, sequences.n_items))
    for user in range(sequences.n_users):
        for place in range(sequences.offsets[user], sequences.offsets[user + 1]):
            if sequences.split[place] == TRAIN:
                matrix[user, sequences.items[place]] = 1.0
    return matrix


def dense_histories(examples):
    matrix = np.zeros((len(examples), examples.sequences.n_items))
    for row in range(len(examples)):
        matrix[row, examples.seen(row)] = 1.0
    return matrix


def naive_item_knn(sequences, k, shrinkage):
    users, counts = dense_training(sequences), sequences.train_counts()
    n = sequences.n_items
    similarities = np.zeros((n, n))
    for i in range(n):
        near = []
        for j in range(n):
            both = float(users[:, i] @ users[:, j])
            if i != j and both:
                near.append((both / (np.sqrt(users[:, i].sum() * users[:, j].sum()) + shrinkage), j))
        near.sort(key=lambda pair: (-pair[0], -int(users[:, pair[1]].sum()), pair[1]))
        for similarity, j in near[:k]:
            similarities[i, j] = similarity
    assert counts.sum() >= users.sum()
    return similarities


def naive_ease(users, lambda_):
    inverse = np.linalg.inv(users.T @ users + lambda_ * np.eye(users.shape[1]))
    weights = np.eye(len(inverse)) - inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def by_hand(examples, weights):
    counts = examples.sequences.train_counts()
    return np.round(dense_histories(examples) @ weights, 9) + counts / (counts.max(initial=0) + 1.0) * 1e-9


def in_two_blocks(scorer):
    half = len(scorer) // 2
    return np.concatenate([scorer.scores(slice(0, half)), scorer.scores(slice(half, len(scorer)))])


lists = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=8), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(lists, st.integers(1, 8), st.sampled_from([0.0, 1.0, 7.5]), st.integers(1, 3))
def test_item_knn_is_the_naive_sum_of_cosines_whatever_the_blocks(lists, k, shrinkage, rows):
    sequences = make_sequences(lists, n_items=7)
    examples = make_examples(sequences, "test", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_knn, "BLOCK_PAIRS", 7 * rows)
        scorer = ItemKNNScorer(examples, k=k, shrinkage=shrinkage)
    expected = naive_item_knn(sequences, k, shrinkage)
    np.testing.assert_allclose(scorer.similarities.toarray(), expected, rtol=1e-12)
    np.testing.assert_allclose(in_two_blocks(scorer), by_hand(examples, expected), rtol=0, atol=2e-9)
    assert scorer.settings == {"k": k, "shrinkage": shrinkage}


@settings(max_examples=25, deadline=None)
@given(lists, st.sampled_from([0.5, 3.0, 50.0]), st.integers(1, 3))
def test_ease_is_the_closed_form_whatever_the_blocks(lists, lambda_, rows):
    sequences = make_sequences(lists, n_items=7)
    examples = make_examples(sequences, "test", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ease, "BLOCK_PAIRS", 7 * rows)
        scorer = EASEScorer(examples, lambda_=lambda_)
    expected = naive_ease(dense_training(sequences), lambda_)
    np.testing.assert_allclose(scorer.weights, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(in_two_blocks(scorer), by_hand(examples, expected), rtol=0, atol=2e-9)
    assert scorer.settings == {"lambda": lambda_, "items": 7, "of": 7}


def test_ease_minimises_its_own_objective():
    users = dense_training(random_sequences(3, n_items=8))
    best = naive_ease(users, 2.0)
    sequences = random_sequences(3, n_items=8)
    weights = EASEScorer(make_examples(sequences, "test"), lambda_=2.0).weights

    def loss(b):
        return ((users - users @ b) ** 2).sum() + 2.0 * (b**2).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.standard_normal(best.shape) * 1e-3
        np.fill_diagonal(step, 0.0)
        assert loss(weights) < loss(weights + step)


def test_a_catalogue_beyond_the_memory_is_ease_over_its_most_popular_items():
    sequences = random_sequences(5, n_items=25)
    examples = make_examples(sequences, "test", 10)
    users = dense_training(sequences)
    memory = 8 * 10 * 10 + 7
    scorer = EASEScorer(examples, lambda_=4.0, memory=memory)
    chosen = np.sort(np.argsort(-users.sum(axis=0), kind="stable")[:10])
    expected = np.zeros((25, 25))
    expected[np.ix_(chosen, chosen)] = naive_ease(users[:, chosen], 4.0)
    assert items_within(memory) == 10 and scorer.settings == {"lambda": 4.0, "items": 10, "of": 25}
    np.testing.assert_allclose(in_two_blocks(scorer), by_hand(examples, expected), rtol=0, atol=2e-9)


@pytest.mark.parametrize("make", FLOORS)
def test_the_whole_history_counts_once_and_the_validation_item_is_input_only(make):
    # 0 goes with 1, 2 goes with 3; the last two of each user are held out.
    together = [[0, 1, 0, 0]] * 3 + [[2, 3, 2, 2]] * 3
    sequences = make_sequences([*together, [4, 0, 5, 2, 4], [4, 0, 0, 0, 2, 5]], n_items=6)
    examples = make_examples(sequences, "test", 1)
    options = {"lambda_": 1.0} if make is EASEScorer else {"shrinkage": 0.0}
    scores = make(examples, **options).scores(slice(6, 8))
    assert scores[0, 3] > 0.1  # 2 is the validation item of user 6: it is in the history ...
    assert scores[0, 1] > 0.1  # ... and so is 0, four clicks ago although `max_history` is 1
    once = make_examples(make_sequences([*together, [4, 0, 5, 2, 4], [4, 0, 2, 5]], n_items=6), "test", 1)
    np.testing.assert_allclose(scores[1], make(once, **options).scores(slice(7, 8))[0], rtol=0, atol=2e-9)
    validation = make_examples(sequences, "validation", 1)
    assert make(validation).scores(slice(6, 7))[0, 3] < 0.1  # before the validation item there was no 2


@pytest.mark.parametrize("make", FLOORS)
def test_without_a_history_popularity_decides(make):
    sequences = make_sequences([[0, 1, 2, 1], [2, 1, 2, 0], [3, 0, 0, 0]], n_items=5)
    examples = make_examples(sequences, "train", 5, min_history=0)
    first = np.flatnonzero(examples.position == sequences.offsets[examples.user])
    scores = make(examples.take(first)).scores(slice(0, 3))
    counts = sequences.train_counts()
    assert np.argsort(-scores[0], kind="stable").tolist() == np.argsort(-counts, kind="stable").tolist()
    assert 0 <= scores.min() and scores.max() < 1e-9


@pytest.mark.parametrize("make", FLOORS)
def test_one_fit_scores_other_examples_of_the_same_training_data(make):
    sequences = random_sequences(9)
    test, validation = make_examples(sequences, "test"), make_examples(sequences, "validation")
    again = make(test).on(validation)
    np.testing.assert_array_equal(again.scores(slice(0, 30)), make(validation).scores(slice(0, 30)))
    more = make_examples(with_validation_trained(sequences, [0]), "test")
    with pytest.raises(ValueError, match="`examples` must be of the data that this scorer was fitted on"):
        again.on(more)
    assert (make(more).scores(slice(0, 30)) != make(test).scores(slice(0, 30))).any()  # `trained` is what counts


def test_memory_stays_bounded_for_a_large_catalogue():
    rng = np.random.default_rng(0)
    n_users, n_items, length = 800, 12_000, 20
    sequences = Sequences(
        np.arange(n_users).astype(str), np.arange(n_items).astype(str), np.arange(n_users + 1) * length,
        (n_items * rng.random(n_users * length) ** 3).astype(np.int32),
        np.tile([TRAIN] * (length - 2) + [1, 2], n_users).astype(np.int8),
    )  # fmt: skip
    examples = make_examples(sequences, "test")
    tracemalloc.start()
    knn, linear = ItemKNNScorer(examples, k=5), EASEScorer(examples, memory=2**20)
    knn.scores(slice(0, 50)), linear.scores(slice(0, 50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert knn.similarities.nnz <= 5 * n_items and linear.settings["items"] == 362
    assert peak < 250e6  # all pairs of items would be 1.2 GB


def test_the_penalty_is_chosen_by_the_validation_split():
    examples = make_examples(random_sequences(2, n_users=60), "validation")
    best, found = choose_lambda(examples, (0.1, 10, 1000), metric="mrr@10")
    for value, mean in found.items():
        ranks = rank_targets(EASEScorer(examples, lambda_=value), examples).ranks
        assert mean == pytest.approx(ranking_metrics(ranks, (10,))["mrr@10"])
    assert found[best] == max(found.values()) and list(found) == [0.1, 10.0, 1000.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: ItemKNNScorer(e, k=0), "`k` must be at least 1, got 0"),
        (lambda e: ItemKNNScorer(e, shrinkage=-1.0), "`shrinkage` must be at least 0, got -1"),
        (lambda e: EASEScorer(e, lambda_=0.0), "`lambda_` must be above 0 and finite, got 0"),
        (lambda e: EASEScorer(e, lambda_=float("nan")), "`lambda_` must be above 0"),
        (lambda e: EASEScorer(e, lambda_=1e-300), "`lambda_` must be at least 2e-09 for items with up to 2 users"),
        (lambda e: EASEScorer(e, memory=7), "`memory` must be at least 8 bytes, got 7"),
        (lambda e: choose_lambda(e, ()), "`lambdas` must hold at least one value"),
        (lambda e: choose_lambda(e.take(np.arange(0))), "`examples` must hold at least one example"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make(make_examples(make_sequences([[0, 1, 2, 2], [0, 1, 2, 2]], n_items=3), "test"))


def test_fashion_figures_are_those_of_the_data_folder(real_data):
    """Item-kNN with all neighbours .1052 / .0629; EASE takes longer, see the slow test below."""
    examples = load_recsys(real_data("hm-week-mm")).leave_one_out().examples("test").spread(3000)
    metrics = ranking_metrics(rank_targets(ItemKNNScorer(examples, k=10**6, shrinkage=0.0), examples).ranks, (10,))
    assert metrics["hit@10"] == pytest.approx(0.1052, abs=0.012)
    assert metrics["ndcg@10"] == pytest.approx(0.0629, abs=0.008)


@pytest.mark.slow
def test_fashion_figures_are_those_of_the_data_folder_to_the_digit(real_data):
    examples = load_recsys(real_data("hm-week-mm")).leave_one_out().examples("test")
    for scorer, hit, ndcg in (
        (ItemKNNScorer(examples, k=10**6, shrinkage=0.0), 0.1052, 0.0629),
        (EASEScorer(examples, lambda_=50.0), 0.1513, 0.0944),
    ):
        metrics = ranking_metrics(rank_targets(scorer, examples).ranks, (10,))
        assert (round(metrics["hit@10"], 4), round(metrics["ndcg@10"], 4)) == (hit, pytest.approx(ndcg, abs=1e-4))
