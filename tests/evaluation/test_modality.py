import numpy as np
import pytest
import torch
from scipy.stats import entropy

from vlm2rec_hf.data.sequences import make_examples
from vlm2rec_hf.evaluation.modality import effective_rank, evaluate_views, margins, modality_gap, weak_modality_share

from .oracles import naive_ranks, random_sequences


@pytest.mark.parametrize("shape", [(200, 12), (12, 200), (40, 40)])
def test_effective_rank_is_the_entropy_of_singular_values(shape):
    matrix = np.random.default_rng(0).standard_normal(shape) * np.linspace(0.1, 3, shape[1])
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert effective_rank(matrix) == pytest.approx(np.exp(entropy(singular / singular.sum())), rel=1e-6)
    singular = np.linalg.svd(matrix - matrix.mean(axis=0), compute_uv=False)
    assert effective_rank(matrix, center=True) == pytest.approx(np.exp(entropy(singular)), rel=1e-4)


def test_effective_rank_in_closed_form():
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.outer(np.arange(1, 20), [1.0, -2.0, 3.0])) == pytest.approx(1)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(np.exp(entropy([3, 1])))
    with_absent = np.vstack([np.eye(4), np.zeros((9, 4))])
    assert effective_rank(with_absent) == pytest.approx(4)
    assert effective_rank(torch.eye(5, dtype=torch.bfloat16)) == pytest.approx(5)
    assert effective_rank(np.eye(4) * 1e200) == pytest.approx(4)
    assert np.isnan(effective_rank(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="`vectors`.*row 1"):
        effective_rank(np.array([[1.0, 2.0], [np.nan, 1.0]]))


def test_modality_gap_is_the_distance_of_centroids_of_rows_that_have_both():
    text = np.array([[3.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    image = np.array([[0.0, 5.0], [0.0, 0.0], [1.0, 0.0]])
    assert modality_gap(text, image) == pytest.approx(np.sqrt(2))
    assert modality_gap(text[:2], -text[:2]) == pytest.approx(2)
    assert modality_gap(text, text) == 0
    assert np.isnan(modality_gap(text[2:], image[2:]))
    with pytest.raises(ValueError, match="one shape"):
        modality_gap(text, image[:2])


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_margins_equal_the_naive_mean_over_candidates(exclude_seen):
    sequences = random_sequences(2)
    examples = make_examples(sequences, "test", 10)
    rng = np.random.default_rng(0)
    users = rng.standard_normal((len(examples), 5))
    items = rng.standard_normal((sequences.n_items, 5)) + 0.3
    users[3], items[7], items[int(examples.targets[5])] = 0, 0, 0
    result = margins(users, items, examples, exclude_seen=exclude_seen)

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    n_known = 0
    for i, target in enumerate(examples.targets):
        out = set(examples.seen(i).tolist()) if exclude_seen else set()
        rivals = [j for j in range(len(items)) if j != target and j not in out and items[j].any()]
        if not users[i].any() or not items[target].any():
            assert np.isnan(result[i])
            continue
        n_known += 1
        mean = np.mean([cosine(users[i], items[j]) for j in rivals])
        assert result[i] == pytest.approx(cosine(users[i], items[target]) - mean, abs=1e-9)
    assert n_known > 20 and np.isnan(result[3]) and np.isnan(result[5])


def test_weak_modality_share():
    nan = np.nan
    share = weak_modality_share([0.1, 0.5, 0.3, nan, 0.2], [0.2, 0.1, 0.4, 0.1, 0.2])
    assert share == {"text": 0.5, "image": 0.25, "n": 4}
    assert weak_modality_share([nan], [1.0])["n"] == 0
    with pytest.raises(ValueError, match="must match"):
        weak_modality_share([1.0], [1.0, 2.0])


def test_views_are_ranked_apart_and_pay_for_what_they_lack():
    sequences = random_sequences(4)
    examples = make_examples(sequences, "test", 10)
    n, m = len(examples), sequences.n_items
    rng = np.random.default_rng(0)
    user_text, item_text = rng.integers(-2, 3, (n, 4)).astype(float), rng.integers(-2, 3, (m, 4)).astype(float)
    user_image, item_image = rng.integers(-2, 3, (n, 4)).astype(float), rng.integers(-2, 3, (m, 4)).astype(float)
    user_image[2], item_image[::5] = 0, 0
    users = {"text": user_text, "image": torch.as_tensor(user_image), "both": user_text + user_image}
    items = {"text": item_text, "image": torch.as_tensor(item_image), "both": item_text + item_image}
    result = evaluate_views(users, items, examples, k=5, normalize=False)
    assert list(result) == ["text", "image", "both"]
    seen = [examples.seen(i) for i in range(n)]
    for view, ranking in result.items():
        scores = np.asarray(users[view]) @ np.asarray(items[view]).T
        np.testing.assert_array_equal(ranking.ranks, naive_ranks(scores, examples.targets, seen))
    # A user without images ties with everything, so its target ranks last of all candidates.
    assert result["image"].ranks[2] == result["image"].n_candidates[2] > 1
    with pytest.raises(ValueError, match="same views"):
        evaluate_views(users, {"text": item_text}, examples)


def test_views_are_normalised_by_default():
    users = {"both": np.array([[1.0, 1.0]])}
    items = {"both": np.array([[1.0, 1.0], [50.0, 0.0]])}  # the long vector wins by inner product only
    ranks = [
        evaluate_views(users, items, np.array([0]), exclude_seen=False, normalize=switch)["both"].ranks[0]
        for switch in (True, False)
    ]
    assert ranks == [1, 2]
