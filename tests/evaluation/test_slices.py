import numpy as np
import pytest

from vlm2rec_hf.data.sequences import make_examples
from vlm2rec_hf.evaluation.slices import head_items, make_slices, popularity_buckets

from .oracles import make_sequences, random_sequences


def test_buckets_hold_equal_mass_and_never_separate_equal_items():
    counts = np.array([10, 0, 10, 8, 8, 1, 1, 1, 1])
    # Of 40 interactions, more popular items have 0 before the tens, 20 before the eights (half: third fifth), 36
    # before the ones (0.9: last fifth). The item without interactions is in the last fifth too.
    np.testing.assert_array_equal(popularity_buckets(counts, 5), [0, 4, 0, 2, 2, 4, 4, 4, 4])
    np.testing.assert_array_equal(popularity_buckets(np.full(10, 3), 5), np.zeros(10))
    np.testing.assert_array_equal(popularity_buckets(np.zeros(4, dtype=int), 5), np.full(4, 4))
    many = popularity_buckets(np.arange(1, 2001), 5)
    mass = np.bincount(many, weights=np.arange(1, 2001))
    np.testing.assert_allclose(mass / mass.sum(), 0.2, atol=0.002)
    assert (np.diff(many) <= 0).all()


def test_masks_on_a_hand_filled_case():
    sequences = make_sequences([[0, 0, 1, 2], [0, 1, 0, 1, 0, 1, 3]], n_items=4)
    examples = make_examples(sequences, "test", max_history=2)
    slices = make_slices(examples, has_image=np.array([True, True, False, True]), history_edges=(1, 5, 10))
    assert {name: mask.tolist() for name, mask in slices.items() if not name.startswith("popularity")} == {
        "head_items": [False, False],
        "tail_items": [True, True],
        "cold_item": [True, True],
        "rare_item": [True, True],
        "no_image": [True, False],
        "history_1-4": [True, False],
        "history_5-9": [False, True],  # six interactions, though max_history cuts to two
        "history_10+": [False, False],
    }
    assert slices["popularity_q5"].all()
    assert "no_image" not in make_slices(examples)


def test_head_items_are_the_most_popular_fifth_with_ties():
    counts = np.array([5, 0, 9, 1, 1, 5, 0, 0, 3, 2])
    assert np.flatnonzero(head_items(counts)).tolist() == [0, 2, 5]  # the second and third are equal
    assert np.flatnonzero(head_items(counts, 0.1)).tolist() == [2]
    assert not head_items(np.zeros(4)).any()
    with pytest.raises(ValueError, match="`share`"):
        head_items(counts, 1.0)


def test_popularity_slices_and_history_slices_each_cover_every_example_once():
    examples = make_examples(random_sequences(3), "test", 10)
    slices = make_slices(examples)
    for prefix in ("popularity_", "history_"):
        parts = np.stack([mask for name, mask in slices.items() if name.startswith(prefix)])
        np.testing.assert_array_equal(parts.sum(axis=0), 1)
    assert list(make_slices(examples, history_edges=(1, 2)))[-2:] == ["history_1", "history_2+"]


def test_bad_arguments_are_refused():
    examples = make_examples(random_sequences(3), "test", 10)
    with pytest.raises(ValueError, match="`has_image`"):
        make_slices(examples, has_image=np.ones(25))
    with pytest.raises(ValueError, match="`train_counts`"):
        make_slices(examples, train_counts=np.ones(3))
    with pytest.raises(ValueError, match="`history_edges`"):
        make_slices(examples, history_edges=(5, 5))
    with pytest.raises(ValueError, match="`n_buckets`"):
        popularity_buckets(np.ones(3), 0)
    with pytest.raises(ValueError, match="`train_counts`"):
        popularity_buckets(np.array([-1, 2]))
