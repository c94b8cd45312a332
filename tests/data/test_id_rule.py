"""One rule for ids, whatever container or file they come in."""

import decimal
import json
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data import validation
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.interaction_log import k_core_rows
from vlm2rec_hf.data.readers import load_recsys, read_delimited

quick = settings(max_examples=60, deadline=None)
WRITTEN = [1, 1.0, "1", "1.0", np.int64(1), np.float32(1), np.float64(1), decimal.Decimal("1.00"), np.str_("1")]


def users_of(dataset):
    return dataset.sequences().user_ids.tolist()


def events(ids, column="user_id"):
    other = {"user_id": "item_id", "item_id": "user_id"}[column]
    return [{column: i, other: "x", "timestamp": n} for n, i in enumerate(ids)]


def containers(rows):
    frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]})
    objects = {name: pl.Series(name, [row[name] for row in rows], dtype=pl.Object) for name in ("user_id", "item_id")}
    categories = frame.assign(user_id=frame["user_id"].astype("category"), item_id=frame["item_id"].astype("category"))
    polars = pl.DataFrame({**objects, "timestamp": [row["timestamp"] for row in rows]})
    return {"list": rows, "object": frame, "categories": categories, "polars": polars}


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_one_number_is_one_id_however_it_is_written(column):
    for kind, table in containers(events([*WRITTEN, "007", "a"], column)).items():
        dataset = RecDataset.from_tables(table)
        found = users_of(dataset) if column == "user_id" else dataset.item_ids.tolist()
        assert sorted(found) == ["007", "1", "a"], kind
        assert dataset.n_interactions == len(WRITTEN) + 2, kind


ids = st.integers(-(10**6), 10**6)


@quick
@given(
    st.lists(st.tuples(ids, st.sampled_from([int, float, str, lambda i: f"{i}.0", np.int32])), min_size=1, max_size=6)
)
def test_numbers_in_any_mixture_are_their_digits(pairs):
    expected = sorted({str(number) for number, _ in pairs})
    rows = events([write(number) for number, write in pairs])
    assert users_of(RecDataset.from_tables(rows)) == expected


def test_missing_ids_in_mixed_columns_are_missing():
    values = [1, 2.0, "a", float("nan"), None, pd.NA, pd.NaT, np.nan, "", [1], True]
    rows = events(values)
    for kind, table in {"list": rows, "object": pd.DataFrame(rows)}.items():
        dataset = RecDataset.from_tables(table)
        assert users_of(dataset) == ["1", "2", "a"], kind
        assert dataset.coverage.quarantined == {"null_user_id": len(values) - 3}, kind
    columns = {"float": [1.0, None, 10.0], "decimal": [decimal.Decimal("1.00"), None, decimal.Decimal(10)]}
    for name, column in columns.items():
        table = pa.table({"user_id": column, "item_id": ["x"] * 3, "timestamp": [1, 2, 3]})
        assert users_of(RecDataset.from_tables(table)) == ["1", "10"], name


def test_files_that_write_ids_differently_meet(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n1.0,10.0,1\n1,20.0,2\n007,10,3\n")
    (tmp_path / "items.csv").write_text("item_id,title\n10,Ten\n20.00,Twenty\n")
    dataset = load_recsys(tmp_path)
    assert dataset.item_ids.tolist() == ["10", "20"] and users_of(dataset) == ["007", "1"]
    lines = [
        {"user_id": u, "item_id": i, "timestamp": n} for n, (u, i) in enumerate([(1, 10.0), ("1", "20"), ("007", 10)])
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert users_of(read_delimited(tmp_path / "log.jsonl", tmp_path / "items.csv")) == ["007", "1"]


def test_parquet_shards_of_several_types_are_one_table(tmp_path):
    (tmp_path / "interactions").mkdir()
    for n, user in enumerate([[1, 2], [1.0, None], ["1", "007"]]):
        table = pa.table({"user_id": user, "item_id": ["a", "b"], "timestamp": [n, n], "note": user})
        pq.write_table(table, tmp_path / "interactions" / f"{n}.parquet")
    dataset = load_recsys(tmp_path)
    assert users_of(dataset) == ["007", "1", "2"] and dataset.coverage.quarantined == {"null_user_id": 1}
    assert dataset.interactions["note"][:] == ["007", "1", "1", "1", "2"]


def test_digits_that_were_lost_are_warned_of():
    with pytest.warns(UserWarning, match="`user_id` holds 1 numbers above 2\\*\\*53 as floats"):
        dataset = RecDataset.from_tables(events([float(2**60), 1.0]))
    assert users_of(dataset) == ["1", str(2**60)]
    single = pa.table({"user_id": np.array([2**24, 2**24 + 1, 1], np.float32), "item_id": ["x"] * 3})
    with pytest.warns(UserWarning, match="`user_id` holds 1 numbers above 2\\*\\*24 as floats"):
        RecDataset.from_tables(single.append_column("timestamp", pa.array([1, 2, 3])))
    assert users_of(RecDataset.from_tables(events([2**60, 2**60 + 1, 2**70]))) == [
        str(2**60),
        str(2**60 + 1),
        str(2**70),
    ]


def test_stored_ids_are_taken_as_they_are(tmp_path, monkeypatch):
    # What an earlier version saved, which did not take "1.0" for "1".
    as_then = {
        "encode_ids": lambda column, name: __import__("vlm2rec_hf.data.ids", fromlist=["x"]).encode_stored_ids(column)
    }
    for name, function in as_then.items():
        monkeypatch.setattr(validation, name, function)
    old = RecDataset.from_tables(events(["1.0", "1"]))
    old.save(tmp_path / "old")
    monkeypatch.undo()
    loaded = RecDataset.load(tmp_path / "old")
    loaded.verify()
    assert users_of(loaded) == ["1", "1.0"]


def test_odd_ids_neither_merge_nor_blow_memory_up():
    odd = ["a", "a\0", "a\0\0", " a", "b" * 20_000, "b" * 19_999]
    dataset = RecDataset.from_tables([{"user_id": u, "item_id": u, "timestamp": n} for n in range(3) for u in odd])
    assert users_of(dataset) == sorted(odd) and dataset.n_items == len(odd)


# ---- nothing left, and headers that are none


def test_no_interaction_left_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"No interaction is left.*unknown_item 2.*look like \['a1', 'a2'\]"):
        RecDataset.from_tables(events(["1", "2"], "item_id"), [{"item_id": "a1"}, {"item_id": "a2"}])
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n1,2,3,4\n")
    with pytest.raises(ValueError, match=r"No interaction is left.*bad_line 1.*1,2,3,4"):
        load_recsys(tmp_path)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(ValueError, match=r"`interactions` is empty: its columns are \['user_id', 'item_id'"):
        load_recsys(tmp_path)
    (tmp_path / "interactions.csv").unlink()
    (tmp_path / "interactions.jsonl").write_bytes(b'{"user_id": "\xe9"}\n{}"\n')
    with pytest.raises(ValueError, match=r"No interaction is left.*2 lines went to the quarantine \(bad_line 2\)"):
        load_recsys(tmp_path)


def test_a_header_that_is_data_is_named(tmp_path):
    (tmp_path / "interactions.csv").write_text("1,10,978300760\n1,20,978300761\n")
    with pytest.raises(
        ValueError, match=r"no column `user_id`.*\['1', '10', '978300760'\] look like data.*user_id,item_id"
    ):
        load_recsys(tmp_path)
    with pytest.raises(ValueError, match="look like data"):
        load_recsys(tmp_path, column_mapping={"user": "user_id"})
    with pytest.raises(ValueError, match="`items` has no column.*'300' look like data|look like data"):
        RecDataset.from_tables(events(["a"]), pd.DataFrame([["a", 300]]))
    (tmp_path / "interactions.csv").write_text("5,5,978300760\n1,20,978300761\n")
    with pytest.raises(ValueError, match="two columns named.*look like data"):
        load_recsys(tmp_path)
    with pytest.raises(ValueError) as caught:
        RecDataset.from_tables([{"who": 1, "what": 2, "when": 3}])
    assert "look like data" not in str(caught.value)


# ---- filters


def naive_core(pairs, k):
    while True:
        users, items = [u for u, _ in pairs], [i for _, i in pairs]
        kept = [(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k]
        if len(kept) == len(pairs):
            return kept
        pairs = kept


@quick
@given(st.integers(3, 40), st.integers(2, 3), st.integers(0, 1000))
def test_chains_unravel_as_they_should(n, k, seed):
    rng = np.random.default_rng(seed)
    pairs = sorted({(u, u + d) for u in range(n) for d in range(k)} - {(int(rng.integers(n)), int(rng.integers(n)))})
    user, item = (np.array(side) for side in zip(*pairs, strict=True))
    rows = k_core_rows(user, item, n, n + k, k)
    assert list(zip(user[rows].tolist(), item[rows].tolist(), strict=True)) == naive_core(pairs, k)


def test_a_chain_of_many_users_takes_no_longer_than_reading_it():
    n = 60_000
    user = np.repeat(np.arange(n, dtype=np.int32), 2)
    start = time.perf_counter()
    rows = k_core_rows(user, user + np.tile([0, 1], n), n, n + 1, 2)
    assert not rows.any() and time.perf_counter() - start < 10  # whole passes: minutes


def test_counts_after_a_filter_are_of_what_is_left():
    rows = [{"user_id": u, "item_id": i, "timestamp": 5} for u in "abc" for i in "xyz"]
    rows += [{"user_id": "d", "item_id": "w", "timestamp": t} for t in (7, 7, 6)]
    dataset = RecDataset.from_tables(rows, [{"item_id": i, "title": "<b>t</b>"} for i in "wxyz"])
    before = {
        "out_of_order": 1, "duplicates": 1, "equal_timestamps": 7, "ties_by_row_order": 7, "texts_with_markup": 4
    }  # fmt: skip
    assert dataset.coverage.noted == before
    everybody = {"duplicates": 1, "equal_timestamps": 7, "ties_by_row_order": 7}
    core = dataset.k_core(3)  # user d has three events, too
    assert core.coverage.noted == everybody and core.steps[0]["noted_before"] == before
    core = RecDataset.from_tables(rows[:-1], [{"item_id": i} for i in "wxyz"]).k_core(3)
    assert core.coverage.noted == {"duplicates": 0, "equal_timestamps": 6, "ties_by_row_order": 6}
    assert core.steps[0]["noted_before"]["duplicates"] == 1
