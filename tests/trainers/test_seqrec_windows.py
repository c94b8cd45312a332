"""Which interactions are trained on, how they are cut into rows and put into batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data.sequences import Sequences, make_examples
from vlm2rec_hf.data.training_part import choose_users, with_validation_trained
from vlm2rec_hf.evaluation.floors import count_transitions
from vlm2rec_hf.modeling.modeling_seqrec import PADDING
from vlm2rec_hf.trainers.seqrec_windows import EpochLoader, LengthBatches, Windows


def sequences_of(lengths, n_items=50, seed=0):
    """Random users; the last interaction is test, the one before validation (where there are three)."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    split = np.zeros(offsets[-1], dtype=np.int8)
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        if stop - start >= 3:
            split[stop - 1], split[stop - 2] = 2, 1
    return Sequences(
        np.arange(len(lengths)).astype(str), np.arange(n_items).astype(str), offsets,
        rng.integers(0, n_items, offsets[-1]).astype(np.int32), split,
    )  # fmt: skip


LENGTHS = [3, 12, 1, 7, 2, 30, 4, 9]


def naive_rows(sequences, trained, max_length, which, shifted):
    found = []
    for user, n in enumerate(trained):
        items = sequences.items[sequences.offsets[user] :][:n].tolist()
        if n < 2:
            continue
        inputs, labels = (items[:-1], items[1:]) if shifted else (items, items)
        while inputs:
            if shifted or len(inputs) > 1:
                found.append((inputs[-max_length:], labels[-max_length:]))
            inputs, labels = inputs[:-max_length], labels[:-max_length]
            if which == "last":
                break
    return sorted(found)


@pytest.mark.parametrize("which", ["last", "all"])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("held_out", [None, [1, 5]])
def test_rows_equal_a_naive_cut(which, shifted, held_out):
    sequences = sequences_of(LENGTHS, n_items=9)  # so few that none is cold
    if held_out is not None:
        sequences = with_validation_trained(sequences, held_out)
    # without test; without validation where it is held out
    trained = [n if n < 3 else n - 1 - (held_out is None or u in held_out) for u, n in enumerate(LENGTHS)]
    assert np.diff(sequences.training_part()[1]).tolist() == trained
    windows = Windows(sequences, 5, which, shifted)
    found = []
    for row in range(len(windows)):
        batch = windows.__getitems__([row])
        labels = batch.get("labels", batch["input_ids"])
        found.append((batch["input_ids"][0].tolist(), labels[0].tolist()))
    assert sorted(found) == naive_rows(sequences, trained, 5, which, shifted)


def test_a_batch_is_its_rows_filled_up_on_the_right():
    windows = Windows(sequences_of(LENGTHS), 6)
    rows = list(range(len(windows)))
    batch = windows.__getitems__(rows)
    for row in rows:
        n = windows.lengths[row]
        alone = windows.__getitems__([row])
        for name in ("input_ids", "labels"):
            assert torch.equal(batch[name][row, :n], alone[name][0])
            assert (batch[name][row, n:] == PADDING).all()


def test_no_held_out_interaction_is_ever_read():
    sequences = sequences_of(LENGTHS)
    marked = sequences.items.copy()
    marked[sequences.split > 0] = 49
    marked[sequences.split == 0] %= 49
    clean = Sequences(sequences.user_ids, sequences.item_ids, sequences.offsets, marked, sequences.split)
    for shifted in (True, False):
        windows = Windows(clean, 5, "all", shifted)
        for batch in EpochLoader(windows, LengthBatches(windows.lengths, 3)):
            assert all((values != 49).all() for values in batch.values())


@st.composite
def split_sequences(draw):
    """Users with any rising split, several validation items among them, and items that only validation or test has."""
    codes = st.lists(st.integers(0, 2), max_size=7).map(sorted)
    rows = draw(st.lists(st.tuples(codes, st.randoms(use_true_random=False)), min_size=1, max_size=6))
    items = [random.randrange(12) for row, random in rows for _ in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row, _ in rows])]).astype(np.int64)
    split = np.array([code for row, _ in rows for code in row], dtype=np.int8)
    return Sequences(
        np.arange(len(rows)).astype(str), np.arange(12).astype(str), offsets, np.array(items, dtype=np.int32), split
    )


@settings(max_examples=60, deadline=None)
@given(split_sequences(), st.sets(st.integers(0, 5)), st.sampled_from(["last", "all"]), st.booleans())
def test_what_is_trained_on_is_one_thing_to_rows_counts_and_transitions(sequences, held_out, which, shifted):
    held_out = {user for user in held_out if user < sequences.n_users}
    marked = with_validation_trained(sequences, held_out)
    warm = set(sequences.items[sequences.split == 0].tolist())
    expected, pairs = np.zeros(12, dtype=int), np.zeros((12, 12), dtype=int)
    lengths = []
    for user in range(sequences.n_users):
        own = range(sequences.offsets[user], sequences.offsets[user + 1])
        kept = [
            int(sequences.items[i]) for i in own
            if sequences.split[i] == 0
            or (sequences.split[i] == 1 and user not in held_out and int(sequences.items[i]) in warm)
        ]  # fmt: skip
        lengths.append(len(kept))
        np.add.at(expected, kept, 1)
        for before, after in zip(kept[:-1], kept[1:], strict=True):
            pairs[before, after] += 1
    assert marked.train_counts().tolist() == expected.tolist()
    assert set(np.flatnonzero(expected)) == warm  # cold is cold to every model
    assert np.array_equal(count_transitions(marked).toarray(), pairs)
    if max(lengths) < 2:
        return
    windows = Windows(marked, 100, which, shifted)
    seen = np.zeros(12, dtype=int)
    for row in range(len(windows)):
        batch = windows.__getitems__([row])
        read = batch["input_ids"][0].tolist() + (batch["labels"][0, -1:].tolist() if shifted else [])
        np.add.at(seen, read, 1)
    assert len(windows) == sum(n >= 2 for n in lengths)
    alone = expected - seen  # users with a single interaction make no row
    assert (alone >= 0).all() and alone.sum() == sum(n == 1 for n in lengths)


@pytest.mark.parametrize("bucketed", [True, False])
@pytest.mark.parametrize("n_rows, per_batch", [(100, 8), (5, 2), (3, 10), (257, 1)])
def test_every_row_comes_once_per_epoch(bucketed, n_rows, per_batch):
    lengths = np.random.default_rng(0).integers(1, 40, n_rows)
    batches = LengthBatches(lengths, per_batch, bucketed=bucketed)
    epochs = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) and all(found)
        assert sorted(row for batch in found for row in batch) == list(range(n_rows))
        epochs.append(found)
    batches.set_epoch(0)
    assert list(batches) == epochs[0]
    if n_rows > 50:
        assert epochs[0] != epochs[1]


def test_batches_of_similar_length_waste_little_and_weigh_alike():
    lengths = np.random.default_rng(0).integers(1, 200, 2000)

    def padded(bucketed):
        found = list(LengthBatches(lengths, 32, bucketed=bucketed))
        area = sum(len(batch) * lengths[batch].max() for batch in found)
        return area / lengths.sum(), [lengths[batch].sum() for batch in found]

    (ours, sizes), (plain, _) = padded(True), padded(False)
    assert ours < 1.1 < 1.5 < plain
    assert max(sizes) < 1.2 * min(sizes)


def test_one_giant_row_leaves_no_batch_empty():
    found = list(LengthBatches(np.array([1000, 1, 1, 1, 1, 1]), 2))
    assert len(found) == 3 and sorted(row for batch in found for row in batch) == list(range(6))


def test_processes_share_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 40, 101)
    shares = [list(LengthBatches(lengths, 8, process=p, n_processes=3)) for p in range(3)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(101))


def test_the_loader_leaves_the_global_random_stream_alone():
    windows = Windows(sequences_of(LENGTHS), 6)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(EpochLoader(windows, LengthBatches(windows.lengths, 2)))
    assert torch.equal(torch.rand(3), expected)


def test_validation_users_are_drawn_once_and_for_all():
    examples = make_examples(sequences_of(LENGTHS), "validation")
    chosen = choose_users(examples, 3, seed=1)
    assert len(chosen) == 3 and set(chosen.user) <= set(examples.user)
    assert np.array_equal(chosen.user, choose_users(examples, 3, seed=1).user)
    assert choose_users(examples, None, seed=1) is examples
    with pytest.raises(ValueError, match="`validation_users`.*6.*7"):
        choose_users(examples, 7, seed=1)


def test_bad_options_are_named():
    sequences = sequences_of(LENGTHS)
    with pytest.raises(ValueError, match="`windows`.*'first'"):
        Windows(sequences, 5, "first")
    with pytest.raises(ValueError, match="`train_dataset`"):
        Windows(sequences_of([1, 1]), 5)
    with pytest.raises(ValueError, match="2 rows.*3 processes"):
        LengthBatches(np.array([1, 2]), 1, n_processes=3)
