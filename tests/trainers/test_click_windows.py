"""Windows: every item but a user's first is a target once per epoch, whatever the sequences look like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data.sequences import TEST, TRAIN, VALIDATION, Sequences
from vlm2rec_hf.trainers.click_windows import ClickWindows, WindowBatches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1)


def make(lengths, held_out=2):
    """Users with `lengths` training items and two held-out ones; an item's number tells its place."""
    total = [length + held_out for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(total)])
    split = np.concatenate([[TRAIN] * length + [VALIDATION, TEST][:held_out] for length in lengths]).astype(np.int8)
    items = np.arange(offsets[-1], dtype=np.int32)
    return Sequences(np.arange(len(lengths)).astype(str), items.astype(str), offsets, items, split)


def trained(windows, epoch):
    """All (history, target) pairs of an epoch's windows: what was seen in the row, and before it."""
    pairs = []
    cut = windows.cut(epoch)
    for row in range(len(cut)):
        window = windows[cut.key(row)]
        first = len(window["items"]) - len(window["targets"])
        assert len(window["items"]) <= windows.max_history
        assert cut.targets[row] == (window["targets"] >= 0).sum() > 0
        for click, target in enumerate(window["targets"], first):
            if target >= 0:
                pairs.append((int(target), window["items"][: click + 1].tolist(), window["past"].tolist()))
    return pairs


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 3), st.integers(0, 5))
def test_every_item_but_the_first_is_a_target_exactly_once(lengths, max_history, epoch, seed):
    sequences = make(lengths)
    windows = ClickWindows(sequences, max_history, seed=seed)
    pairs = trained(windows, epoch)
    starts = np.flatnonzero(sequences.split == TRAIN)[np.concatenate([[0], np.cumsum(lengths)])[:-1]]
    expected = [start + place for start, length in zip(starts, lengths, strict=True) for place in range(1, length)]
    assert sorted(target for target, _, _ in pairs) == expected
    for target, history, past in pairs:
        user = np.searchsorted(sequences.offsets, target, side="right") - 1
        assert past + history == list(range(sequences.offsets[user], target))  # everything before it, in order
    assert sorted(pairs) == sorted(trained(ClickWindows(sequences, max_history, seed=seed), epoch))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 12))
def test_last_has_the_same_targets_each_with_the_longest_history(lengths, max_history):
    sequences = make(lengths)
    pairs = trained(ClickWindows(sequences, max_history, "last"), 0)
    assert sorted(t for t, _, _ in pairs) == sorted(t for t, _, _ in trained(ClickWindows(sequences, max_history), 3))
    for _, history, past in pairs:
        assert len(history) == max_history or not past


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 8), st.data())
def test_items_without_content_are_no_targets_and_no_history(lengths, max_history, data):
    sequences = make(lengths)
    empty = np.array(data.draw(st.lists(st.booleans(), min_size=sequences.n_items, max_size=sequences.n_items)))
    windows = ClickWindows(sequences, max_history, empty=empty)
    for target, history, _ in trained(windows, 1):
        assert not empty[target] and not empty[history].all()
    starts = [windows[windows.cut(1).key(row)]["items"][0] for row in range(len(windows.cut(1)))]
    assert len(set(starts)) == len(starts)


def test_cuts_differ_between_epochs_and_seeds_and_not_otherwise():
    sequences = make([60] * 8)
    cuts = {(seed, epoch): ClickWindows(sequences, 7, seed=seed).cut(epoch).start.tolist()
            for seed in (0, 1) for epoch in (0, 1)}  # fmt: skip
    assert len({tuple(cut) for cut in cuts.values()}) == 4
    assert cuts[0, 1] == ClickWindows(sequences, 7, seed=0).cut(1).start.tolist()
    windows = ClickWindows(sequences, 7)
    assert len(windows) == pytest.approx(np.mean([len(windows.cut(epoch)) for epoch in range(200)]), rel=0.01)


def batches(windows, epoch, **options):
    sampler = WindowBatches(windows, 4, seed=1, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_batches_hold_all_windows_once_and_about_equally_many_targets():
    windows = ClickWindows(make(np.random.default_rng(0).integers(2, 60, 80).tolist()), 10)
    found = batches(windows, 2)
    keys = sorted(key for batch in found for key in batch)
    assert keys == sorted(windows.cut(2).key(row) for row in range(len(windows.cut(2))))
    targets = [sum(stop - start - 1 for _, start, stop in batch) for batch in found]
    assert max(targets) < 1.5 * np.mean(targets)
    assert len({tuple(batch) for batch in batches(windows, 3)} & {tuple(batch) for batch in found}) == 0


@pytest.mark.parametrize("per_batch", [2, 4, 8])
def test_where_most_windows_have_no_target_no_batch_is_empty(per_batch):
    empty = np.random.default_rng(0).random(1000) < 0.8
    windows = ClickWindows(make([3] * 200), 10, empty=empty)
    assert len(windows) == len(windows.cut(0)) < 100
    batches = WindowBatches(windows, per_batch)
    for epoch in range(3):
        batches.set_epoch(epoch)
        rows = list(batches)
        assert len(rows) == len(batches) and all(rows)
        assert sorted(key for keys in rows for key in keys) == sorted(map(windows.cut(epoch).key, range(len(windows))))


def test_two_processes_share_an_epoch():
    """Each step of theirs holds the windows of one process with twice the batch."""
    windows = ClickWindows(make([25] * 30 + [3] * 9), 6)
    parts = [batches(windows, 1, process=process, n_processes=2) for process in range(2)]
    whole = WindowBatches(windows, 8, seed=1)
    whole.set_epoch(1)
    for one, other, together in zip(*parts, whole, strict=True):
        assert one and other and sorted(one + other) == sorted(together)
    assert sum(map(len, whole)) == len(windows.cut(1))


def test_every_process_has_a_row_of_every_batch():
    windows = ClickWindows(make([40] * 3 + [2] * 30), 40)
    parts = [batches(windows, 0, process=process, n_processes=3) for process in range(3)]
    assert all(batch for part in parts for batch in part)
    keys = sorted(key for part in parts for batch in part for key in batch)
    assert keys == sorted(windows.cut(0).key(row) for row in range(len(windows.cut(0))))


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="`targets_per_row` must be one of"):
        ClickWindows(make([3]), 5, "some")
    with pytest.raises(ValueError, match="`max_history` must be at least 1, got 0"):
        ClickWindows(make([3]), 0)
