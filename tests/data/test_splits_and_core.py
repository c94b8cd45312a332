import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf import make_demo_shop
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.interaction_log import sort_order
from vlm2rec_hf.data.splits import cold_choice

events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 40)),
    min_size=1,
    max_size=60,
)
quick = settings(max_examples=60, deadline=None)


def build(rows, **kwargs):
    table = [{"user_id": f"u{u}", "item_id": f"i{i}", "timestamp": t} for u, i, t in rows]
    items = [{"item_id": f"i{i}", "title": f"item {i}"} for i in range(8)]
    return RecDataset.from_tables(table, items, **kwargs)


def random_rows(n, seed, users=30, items=8, times=1000):
    rng = np.random.default_rng(seed)
    return [
        (int(u), int(i), int(t))
        for u, i, t in zip(
            rng.integers(0, users, n), rng.integers(0, items, n), rng.permutation(max(n, times))[:n], strict=True
        )
    ]


def examples_of(dataset, split):
    examples = dataset.examples(split, max_history=5)
    ids = dataset.item_ids
    return [
        (user, tuple(ids[h] for h in history), ids[target])
        for user, history, target in zip(examples.user_ids, examples.histories(), examples.targets, strict=True)
    ]


def naive_core(rows, k):
    rows = list(rows)
    while True:
        users = [u for u, _, _ in rows]
        items = [i for _, i, _ in rows]
        kept = [r for r in rows if users.count(r[0]) >= k and items.count(r[1]) >= k]
        if len(kept) == len(rows):
            return kept
        rows = kept


@quick
@given(events, st.integers(1, 4))
def test_k_core_equals_the_naive_one(rows, k):
    expected = naive_core(rows, k)
    dataset = build(rows)
    if not expected:
        with pytest.raises(ValueError, match="leaves no interaction"):
            dataset.k_core(k)
        return
    core = dataset.k_core(k)
    result = sorted((r["user_id"], r["item_id"], r["timestamp"]) for r in core.interactions)
    assert result == sorted((f"u{u}", f"i{i}", t) for u, i, t in expected)
    assert set(core.item_ids) == {f"i{i}" for _, i, _ in expected}
    # The catalogue and the texts stay aligned with the codes.
    for code, item_id in enumerate(core.item_ids):
        assert core.item(code)["text"] == f"item {item_id[1:]}"
    assert core.steps[0]["removed_interactions"] == len(rows) - len(expected)


def test_k_core_refusals():
    dataset = build(random_rows(50, 0))
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        dataset.k_core(0)
    with pytest.raises(ValueError, match="before the split"):
        dataset.leave_one_out().k_core(2)


@quick
@given(events)
def test_leave_one_out(rows):
    dataset = build(rows).leave_one_out()
    sequences = dataset.sequences()
    for user in range(sequences.n_users):
        codes = sequences.split[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
        assert codes == ([0] * (len(codes) - 2) + [1, 2] if len(codes) >= 3 else [0] * len(codes))


@quick
@given(events, st.integers(0, 40), st.integers(0, 40))
def test_temporal_split_follows_the_clock_alone(rows, one, two):
    first, last = sorted((one, two))
    dataset = build(rows)
    times = np.array(dataset.interactions["timestamp"])
    if not np.any(times < first):
        with pytest.raises(ValueError, match="train would be empty"):
            dataset.temporal_split(validation_from=first, test_from=last)
        return
    codes = np.array(dataset.temporal_split(validation_from=first, test_from=last).interactions["split"])
    assert np.array_equal(codes, (times >= first).astype(int) + (times >= last))


@quick
@given(events, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(41, 80)), max_size=20))
def test_later_events_change_nothing_earlier(rows, later):
    """Add events after the test period: histories, targets, splits and the cold choice of the past stay."""
    if not any(t < 20 for _, _, t in rows):
        return
    before = build(rows).temporal_split(validation_from=20, test_from=30)
    after = build(rows + later).temporal_split(validation_from=20, test_from=30)
    assert examples_of(before, "train") == examples_of(after, "train")
    assert examples_of(before, "validation") == examples_of(after, "validation")
    old = {t for t in examples_of(before, "test")}
    assert old <= set(examples_of(after, "test"))
    assert before.popularity().tolist() == after.popularity().tolist()
    assert np.array_equal(cold_choice(before.item_ids, 0.3, 1), cold_choice(after.item_ids, 0.3, 1))


@quick
@given(events, st.integers(1, 40))
def test_removing_what_follows_a_target_keeps_its_example(rows, cut):
    whole = build(rows)
    early = [row for row in rows if row[2] < cut]
    if not early:
        return
    part = build(early)
    # All of the shorter data's training examples occur unchanged, and in order, at the head of each user.
    for user in set(part.sequences().user_ids):
        mine = [x for x in examples_of(part, "train") if x[0] == user]
        theirs = [x for x in examples_of(whole, "train") if x[0] == user]
        assert theirs[: len(mine)] == mine


def test_quantiles_cut_at_shares_of_all_events():
    dataset = build([(u, 0, u * 10 + t) for u in range(10) for t in range(10)])
    split = dataset.temporal_split(quantiles=(0.8, 0.9))
    assert split.coverage.splits == {"train": 80, "validation": 10, "test": 10}
    assert split.split_spec == {"kind": "temporal", "validation_from": 80, "test_from": 90, "quantiles": [0.8, 0.9]}


def test_calendar_cutoffs_need_a_unit():
    rows = [(0, 0, 1_600_000_000), (0, 1, 1_700_000_000)]
    with pytest.raises(ValueError, match="`timestamp_unit='s'`"):
        build(rows).temporal_split(test_from="2022-01-01")
    for moment in ("2022-01-01", dt.date(2022, 1, 1), dt.datetime(2022, 1, 1, tzinfo=dt.UTC)):
        split = build(rows, timestamp_unit="s").temporal_split(test_from=moment)
        assert split.split_spec["test_from"] == 1_640_995_200
        assert split.interactions["split"][:] == [0, 2]
        assert split.split_spec["validation_from"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either"),
        ({"test_from": 3, "quantiles": (0.5, 0.6)}, "Give either"),
        ({"quantiles": (0.9, 0.5)}, "`quantiles` must"),
        ({"test_from": 3, "validation_from": 4}, "must not lie after"),
        ({"test_from": "soon"}, "`test_from` must be a number or ISO"),
        ({"test_from": float("nan")}, "`test_from` must be finite"),
        ({"test_from": -1}, "train would be empty"),
    ],
)
def test_temporal_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        build([(0, 0, 1), (0, 1, 5)]).temporal_split(**options)


def test_cold_items_lose_train_and_keep_targets():
    dataset = build(random_rows(400, 2)).leave_one_out()
    cold = dataset.hold_out_cold_items(0.3, seed=3)
    chosen = cold_choice(dataset.item_ids, 0.3, 3)
    assert 0 < chosen.sum() < 8
    assert cold.popularity()[chosen].tolist() == [0] * int(chosen.sum())
    assert cold.popularity()[~chosen].tolist() == dataset.popularity()[~chosen].tolist()
    targets = {split: [(u, t) for u, _, t in examples_of(dataset, split)] for split in ("validation", "test")}
    for split, expected in targets.items():
        # A user may lose all of the history, then there is no example; the interactions themselves all stay.
        assert {(u, t) for u, _, t in examples_of(cold, split)} <= set(expected)
        assert cold.coverage.splits[split] == dataset.coverage.splits[split]
    assert cold.coverage.quarantined == {"cold_hold_out": dataset.n_interactions - cold.n_interactions}
    assert cold.coverage.items_cold == chosen.sum()
    assert cold.n_items == dataset.n_items
    again = dataset.hold_out_cold_items(0.3, seed=3)
    assert again.fingerprint == cold.fingerprint != dataset.hold_out_cold_items(0.3, seed=4).fingerprint


def test_the_cold_choice_depends_on_the_item_alone():
    ids = [f"item-{i}" for i in range(20_000)]
    chosen = cold_choice(ids, 0.1, 0)
    assert 0.09 < chosen.mean() < 0.11
    assert np.array_equal(cold_choice(ids[::-1], 0.1, 0)[::-1], chosen)
    assert np.array_equal(cold_choice(ids[500:700], 0.1, 0), chosen[500:700])
    # A larger share contains the smaller one.
    assert np.all(cold_choice(ids, 0.2, 0)[chosen])


def test_cold_refusals():
    dataset = build(random_rows(100, 1))
    with pytest.raises(ValueError, match="Split first"):
        dataset.hold_out_cold_items(0.2)
    with pytest.raises(ValueError, match="`fraction`"):
        dataset.leave_one_out().hold_out_cold_items(1.0)
    with pytest.raises(ValueError, match="train empty"):
        dataset.leave_one_out().hold_out_cold_items(0.999999)
    with pytest.raises(ValueError, match="Cold items were held out"):
        dataset.leave_one_out().hold_out_cold_items(0.3, seed=3).leave_one_out()


def test_examples_need_a_split():
    dataset = build(random_rows(100, 1))
    assert len(dataset.examples("train")) == 100 - dataset.n_users
    with pytest.raises(ValueError, match="not split yet"):
        dataset.examples("test")
    with pytest.raises(ValueError, match="`split` must be one of"):
        dataset.examples("dev")


def test_derived_datasets_leave_the_source_alone():
    dataset = build(random_rows(300, 5))
    before = dataset.fingerprint
    split = dataset.k_core(3).leave_one_out()
    split.hold_out_cold_items(0.3, seed=3)
    fresh = build(random_rows(300, 5))
    assert dataset.fingerprint == fresh.fingerprint == before
    assert dataset.sequences().split.max() == 0
    assert [step["step"] for step in split.steps] == ["k_core", "split"]
    assert "leave_one_out" in repr(split)
    assert "items with text" in split.describe()
    assert split.fingerprint in split.describe()


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(-(2**62), 2**62) | st.integers(0, 3), st.integers(0, 2)), max_size=40
    )
)
def test_sort_order_is_the_stable_order(rows):
    keys = [np.array([row[c] for row in rows], dtype=np.int64) for c in range(3)]
    order = sort_order(keys[0], keys[1:])
    expected = sorted(range(len(rows)), key=lambda i: rows[i])
    assert (list(range(len(rows))) if order is None else order.tolist()) == expected


def test_spread_examples_hold_both_ends_and_no_row_twice():
    examples = make_demo_shop(60, n_users=30).dataset().examples("test")
    everyone = examples.user.tolist()
    for count in (2, 7, 29):
        users = examples.spread(count).user.tolist()
        assert len(users) == len(set(users)) == count
        assert (users[0], users[-1]) == (everyone[0], everyone[-1]) and users == sorted(users)
        places = np.array([everyone.index(user) for user in users])
        assert np.ptp(np.diff(places)) <= 1
    assert examples.spread(None) is examples and examples.spread(31) is examples
