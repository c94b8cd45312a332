"""New rows beside a saved dataset: what comes out is what all rows at once would have given, old ids in place."""

import datetime
import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm2rec_hf import RecDataset
from vlm2rec_hf.cli.main import main

EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 30)), min_size=4, max_size=25)
ITEMS = [{"item_id": f"i{n}", "title": f"Mug {n}"} for n in range(5)]


def rows(events):
    return [{"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": time} for user, item, time in events]


def of(dataset):
    return [(r["user_id"], r["item_id"], r["timestamp"], r["split"]) for r in dataset.interactions]


SPLITS = {
    "none": lambda dataset: dataset,
    "leave_one_out": lambda dataset: dataset.leave_one_out(),
    "moments": lambda dataset: dataset.temporal_split(validation_from=28, test_from=30),
    "shares": lambda dataset: dataset.temporal_split(quantiles=(0.8, 0.9)),
}


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(old=EVENTS, new=EVENTS)
def test_the_same_as_all_rows_at_once(split, old, new):
    """In every split: rows, order, fingerprint; wherever the cut between old and new lies."""
    start = [(0, 0, -1), (1, 1, -1)]  # train is never empty
    first = SPLITS[split](RecDataset.from_tables(rows(start + old), ITEMS))
    whole = SPLITS[split](RecDataset.from_tables(rows(start + old + new), ITEMS))
    grown = first.append(rows(new))
    assert of(grown) == of(whole) and grown.fingerprint == whole.fingerprint
    noted = [{**dataset.coverage.noted, "out_of_order": None} for dataset in (grown, whole)]
    assert noted[0] == noted[1] and grown.split_spec == whole.split_spec
    assert grown.steps[-1 if split == "none" else -2]["new_interactions"] == len(new)


def test_old_items_keep_their_places_and_changed_ones_change(tmp_path):
    first = RecDataset.from_tables(rows([(0, 0, 1), (0, 1, 2), (0, 2, 3)]), ITEMS[:3]).leave_one_out()
    first.save(tmp_path / "first")
    new = [{"item_id": "a", "title": "New", "colour": "red"}, {"item_id": "i1", "title": "Cup", "colour": None}]
    later = [{"user_id": "u0", "item_id": "a", "timestamp": 9}, {"user_id": "u9", "item_id": "zz", "timestamp": 9}]
    grown = RecDataset.load(tmp_path / "first").append(later, new)
    assert grown.item_ids.tolist() == ["i0", "i1", "i2", "a"]
    assert grown.item_texts() == ["Mug 0", "Cup", "Mug 2", "New"] and grown.items["colour"][3] == "red"
    assert grown.fingerprint != first.fingerprint
    assert {**grown.steps[-2]} == {"step": "append", "new_interactions": 1, "new_items": 1, "changed_items": 1}
    assert [row["reason"] for row in grown.quarantine] == ["unknown_item"]
    assert [split for *_, split in of(grown)] == [0, 0, 1, 2]
    grown.save(tmp_path / "grown")
    again = RecDataset.load(tmp_path / "grown")
    again.verify()
    only_items = again.append(items=[{"item_id": "b", "title": "Bowl"}])
    assert only_items.n_items == 5 and of(only_items) == of(again)
    assert again.append(items=[{"item_id": "i1", "title": "Cup"}]).steps[-2]["changed_items"] == 0


def test_page_source_of_new_items_is_cleaned_and_counted():
    first = RecDataset.from_tables(rows([(0, 0, 1)]), [{"item_id": "i0", "title": "<b>Mug</b><script>x</script>"}])
    grown = first.append(items=[{"item_id": "i1", "title": "<b>Cup</b><script>y</script>"}])
    assert grown.item_texts() == ["Mug", "Cup"]
    before = {name: count for name, count in first.coverage.noted.items() if "script" in name}
    assert before and {name: grown.coverage.noted[name] for name in before} == {n: 2 * c for n, c in before.items()}


def test_bare_ids_grow_at_the_end():
    first = RecDataset.from_tables(rows([(0, 3, 1), (0, 1, 2)]))
    assert first.append(rows([(0, 0, 3), (1, 2, 1)])).item_ids.tolist() == ["i1", "i3", "i0", "i2"]


def test_overlapping_exports_are_counted_once():
    first = RecDataset.from_tables(rows([(0, 0, 1), (0, 1, 2)]), ITEMS)
    grown = first.append(rows([(0, 1, 2), (0, 2, 3)]), duplicates="quarantine")
    assert grown.n_interactions == 3 and [row["reason"] for row in grown.quarantine] == ["duplicate"]
    with pytest.raises(ValueError, match="`duplicates` must be one of"):
        first.append(rows([(0, 1, 2)]), duplicates="drop")


@pytest.mark.parametrize("key", ["timestamp", "position"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(old=EVENTS, new=EVENTS)
def test_only_new_rows_that_were_there_before_are_taken_out(key, old, new):
    """Repeats among the old rows and among the new ones stay; what goes is kept aside as it came, with its place."""

    def table(events):
        return [{"user_id": row["user_id"], "item_id": row["item_id"], key: row["timestamp"]} for row in rows(events)]

    def seen(dataset):
        return sorted((row["user_id"], row["item_id"], row[key]) for row in dataset.interactions)

    old = [*old, (0, 0, 5), (0, 0, 5)]
    new = [*new, (0, 0, 5), (5, 4, 31), (5, 4, 31)]  # of a user who is new
    first = RecDataset.from_tables(table(old), ITEMS)
    grown = first.append(table(new), duplicates="quarantine")
    kept = [event for event in new if event not in old]
    assert seen(grown) == seen(RecDataset.from_tables(table(old + kept), ITEMS))
    assert grown.steps[-1]["new_interactions"] == len(kept)
    aside = {row["number"]: json.loads(row["row"]) for row in grown.quarantine}
    assert aside == {place: table([event])[0] for place, event in enumerate(new) if event in old}
    assert {row["reason"] for row in grown.quarantine} == {"duplicate"}


def test_overlaps_are_found_across_units_and_beside_bad_rows():
    second = 1_700_000_000
    first = RecDataset.from_tables(rows([(0, 0, second), (0, 1, second + 1)]), ITEMS, timestamp_unit="s")
    new = [*rows([(0, 99, 1), (0, 2, (second + 2) * 1000), (0, 1, (second + 1) * 1000)]), {**rows([(0, 0, None)])[0]}]
    grown = first.append(new, timestamp_unit="ms", duplicates="quarantine")
    assert [item for _, item, *_ in of(grown)] == ["i0", "i1", "i2"]
    assert {row["reason"]: row["number"] for row in grown.quarantine} == {
        "unknown_item": 0, "duplicate": 2, "bad_timestamp": 3,
    }  # fmt: skip


@pytest.mark.parametrize("split_column", [None, "split"])
def test_cold_items_stay_cold(split_column):
    """Also under a split that came with the rows."""

    def labelled(events, *names):
        named = zip(rows(events), itertools.cycle(names), strict=False)
        return [{**row, "split": name} if split_column else row for row, name in named]

    events = [(user, (user + step) % 5, step) for user in range(4) for step in range(5)]
    first = RecDataset.from_tables(labelled(events, *["train"] * 3, "validation", "test"), ITEMS)
    first = (first if split_column else first.leave_one_out()).hold_out_cold_items(0.4, seed=1)
    later = labelled([(user, item, 50 + item) for user in range(6, 9) for item in range(5)], "train")
    grown = first.append(later, split_column=split_column)
    cold = set(np.flatnonzero(first.popularity() == 0)) & set(first.sequences().items)
    assert cold and not grown.popularity()[sorted(cold)].any() and grown.split_spec == first.split_spec
    assert grown.coverage.quarantined["cold_hold_out"] > first.coverage.quarantined["cold_hold_out"]


def test_units_meet_or_are_refused():
    second = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    old = [{"user_id": "u", "item_id": "i0", "timestamp": int(second.timestamp()) + n} for n in range(3)]
    new = [{"user_id": "u", "item_id": "i1", "timestamp": second + datetime.timedelta(seconds=1.5)}]
    known = RecDataset.from_tables(old, ITEMS, timestamp_unit="s")
    grown = known.temporal_split(test_from=old[2]["timestamp"]).append(new)
    assert [item for _, item, *_ in of(grown)] == ["i0", "i0", "i1", "i0"]
    assert [split for *_, split in of(grown)] == [0, 0, 0, 2]
    unknown = RecDataset.from_tables(old, ITEMS)
    with pytest.raises(ValueError, match="`timestamp_unit`.*unknown unit"):
        unknown.append(new)
    for rows_and_unit, match in (
        ((new, "s"), "`timestamp_unit` 's' .* dates and times.*leave it out"),
        ((old, "minutes"), "`timestamp_unit` must be one of .* got 'minutes'"),
        ((None, "minutes"), "`timestamp_unit` must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            known.append(rows_and_unit[0], ITEMS[:1], timestamp_unit=rows_and_unit[1])
    milliseconds = [{**row, "timestamp": row["timestamp"] * 1000} for row in old]
    for dataset in (known, unknown):
        assert dataset.append(old).n_interactions == 6
        with pytest.raises(ValueError, match="one unit"):
            dataset.append(milliseconds)
    twice = known.append(milliseconds, timestamp_unit="ms", duplicates="quarantine")
    assert twice.n_interactions == 3 and twice.timestamp_unit == "ms"


def test_what_cannot_stand_beside_the_old_rows_is_refused():
    first = RecDataset.from_tables([{**row, "note": "x"} for row in rows([(0, 0, 1), (0, 1, 2)])], ITEMS)
    for match, arguments in (
        ("both None", {}),
        ("ordered by", {"interactions": [{"user_id": "u0", "item_id": "i1", "position": 4}]}),
        ("another type", {"interactions": [{**rows([(0, 1, 2)])[0], "note": [1]}]}),
        ("none of the 1 rows", {"interactions": rows([(0, 99, 2)])}),
        ("continue", {"interactions": rows([(0, 1, 2)]), "split_column": "timestamp"}),
    ):
        with pytest.raises(ValueError, match=match):
            first.append(**arguments)
    given_split = [{**row, "split": "train"} for row in rows([(0, 0, 1), (0, 1, 2)])]
    dataset = RecDataset.from_tables(given_split, ITEMS, split_column="split")
    with pytest.raises(ValueError, match="`split_column`"):
        dataset.append(rows([(0, 2, 3)]))
    grown = dataset.append([{**rows([(0, 2, 3)])[0], "fold": "test"}], split_column="fold")
    assert [split for *_, split in of(grown)] == [0, 0, 2]


BIG = 2**53 + 1  # no double


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        ([10, 20, None], [12.5], [10.0, 20.0, None, 12.5]),
        ([10, 20, None], [12.0], [10, 20, None, 12]),
        ([10.5, 20.0, None], [12], [10.5, 20.0, None, 12.0]),
        ([42, None, 44], ["XL"], ["42", None, "44", "XL"]),
        ([42, 43, 44], ["042"], ["42", "43", "44", "042"]),
        ([42, 43, 44], ["45"], [42, 43, 44, 45]),
        (["S", "M", None], [42.0], ["S", "M", None, "42"]),
        ([1.5, 2.0, None], ["L"], ["1.5", "2", None, "L"]),
        ([None, None, None], ["red"], [None, None, None, "red"]),
        ([None, None, None], [2.5], [None, None, None, 2.5]),
        (["red", None, "blue"], [None], ["red", None, "blue", None]),
        ([1, BIG, 2], [0.5], ["1", str(BIG), "2", "0.5"]),
        ([True, False, None], [2], ["True", "False", None, "2"]),
        ([datetime.date(2024, 5, 1), None, None], ["soon"], ["2024-05-01", None, None, "soon"]),
        ([[1], [2], None], [[2.5]], [[1.0], [2.0], None, [2.5]]),
        ([["a"], ["b"], None], ["c"], "another type"),
        ([b"a", b"b", None], [1], "another type"),
    ],
)
def test_columns_take_what_later_files_hold(old, new, both):
    """Of items and of interactions: types are guessed from each file, and what a file happens to hold is no error."""
    events = [{**row, "extra": value} for row, value in zip(rows([(0, n, n) for n in range(3)]), old, strict=True)]
    items = [{**row, "extra": value} for row, value in zip(ITEMS[:3], old, strict=True)]
    first = RecDataset.from_tables(events, items)
    more = {"interactions": [{**rows([(0, 2, 9)])[0], "extra": new[0]}], "items": [{**ITEMS[3], "extra": new[0]}]}
    for table in more:
        if both == "another type":
            with pytest.raises(ValueError, match=f"`{table}` column 'extra' holds .*another type.*cast it"):
                first.append(**{table: more[table]})
            continue
        grown = getattr(first.append(**{table: more[table]}), table)["extra"][:]
        assert grown == both and list(map(type, grown)) == list(map(type, both))


def test_a_column_in_another_type_is_no_change_by_itself():
    items = [{**row, "price": 10} for row in ITEMS]
    first = RecDataset.from_tables(rows([(0, 0, 1)]), items)
    grown = first.append(items=[{"item_id": "i1", "price": 12.5}, {"item_id": "i3", "price": 10}])
    assert grown.items["price"][:] == [10, 12.5, 10, 10, 10] and grown.steps[-1]["changed_items"] == 1


def test_the_command_appends_files(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,a,1\nu,b,2\nu,a,3\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,Mug\nb,Cup\n")
    files = ["--interactions", str(tmp_path / "log.csv"), "--items", str(tmp_path / "items.csv")]
    assert main(["prepare", *files, "--output", str(tmp_path / "one")]) == 0
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,3\nu,A,4\n")
    (tmp_path / "items.csv").write_text("item_id,title\nA,Bowl\n")
    more = ["prepare", "--append", str(tmp_path / "one"), *files, "--output", str(tmp_path / "two")]
    assert main([*more, "--k_core", "2"]) == 2
    assert "`--k_core` is as the dataset of `--append` has it" in capsys.readouterr().err
    assert main(more) == 0
    grown = RecDataset.load(tmp_path / "two")
    assert grown.item_ids.tolist() == ["a", "b", "A"] and grown.item_texts() == ["Mug", "Cup", "Bowl"]
    assert [split for *_, split in of(grown)] == [0, 0, 0, 1, 2]  # an event that came twice is there twice
    assert grown.steps[-3]["new_interactions"] == 1
    assert main(["prepare", "--append", str(tmp_path), *files, "--output", str(tmp_path / "three")]) == 2
    assert "`--append`" in capsys.readouterr().err
