import datetime as dt
import io
import json

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.images import ImagePath


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, format="PNG")
    return buffer.getvalue()


EVENTS = [
    {"user_id": "u2", "item_id": "b", "timestamp": 30, "rating": 1.0},
    {"user_id": "u1", "item_id": "a", "timestamp": 20, "rating": 2.0},
    {"user_id": "u1", "item_id": "c", "timestamp": 10, "rating": 3.0},
    {"user_id": "u2", "item_id": "a", "timestamp": 5, "rating": 4.0},
    {"user_id": "u1", "item_id": "b", "timestamp": 20, "rating": 5.0},
]
ITEMS = [
    {"item_id": "c", "title": "C", "text": "text of c", "image": {"bytes": png(), "path": None}},
    {"item_id": "a", "title": "A", "text": " ", "image": None},
    {"item_id": "b", "title": None, "text": None, "image": {"bytes": b"broken", "path": "b.png"}},
    {"item_id": "d", "title": "", "text": None, "image": {"bytes": None, "path": "/etc/passwd"}},
]


def frames(rows):
    table = pa.Table.from_pylist(rows)
    return {
        "list": rows,
        "arrow": table,
        "polars": pl.from_arrow(table),
        "lazy": pl.from_arrow(table).lazy(),
        "pandas": pd.DataFrame(rows),
        "datasets": datasets.Dataset(table),
        "selected": datasets.Dataset(pa.concat_tables([table, table])).select(range(len(rows))),
    }


def events_of(dataset):
    return [(r["user_id"], r["item_id"], r["timestamp"]) for r in dataset.interactions]


def test_every_kind_of_table_gives_the_same_dataset():
    made = {kind: RecDataset.from_tables(frames(EVENTS)[kind], frames(ITEMS)[kind]) for kind in frames(EVENTS)}
    for kind, dataset in made.items():
        assert events_of(dataset) == [
            ("u1", "c", 10),
            ("u1", "a", 20),
            ("u1", "b", 20),
            ("u2", "a", 5),
            ("u2", "b", 30),
        ], kind
        assert dataset.item_ids.tolist() == ["c", "a", "b", "d"], kind
        assert dataset.interactions["rating"][:] == [3.0, 2.0, 5.0, 4.0, 1.0], kind
    assert len({dataset.fingerprint for dataset in made.values()}) == 1


def test_sequences_point_into_the_catalogue():
    sequences = RecDataset.from_tables(EVENTS, ITEMS).sequences()
    assert sequences.user_ids.tolist() == ["u1", "u2"]
    assert sequences.offsets.tolist() == [0, 3, 5]
    assert sequences.item_ids[sequences.items].tolist() == ["c", "a", "b", "a", "b"]
    assert sequences.items.dtype == np.int32


def test_items_by_contract():
    dataset = RecDataset.from_tables(EVENTS, ITEMS)
    first = dataset.item(0)
    assert first["text"] == "text of c"
    assert first["image"].size == (6, 4)
    assert first["image"].getpixel((0, 0)) == (255, 0, 0)
    assert dataset.item(np.int64(1)) == {"text": "A", "image": None}
    assert dataset.image_problems == {}
    assert dataset.item(2) == {"text": None, "image": None}
    assert dataset.image_problems == {2: "not_an_image"}
    assert dataset.coverage.image_problems == {"not_an_image": 1}
    assert dataset.item(3) == {"text": None, "image": None}
    assert dataset.item_has_image.tolist() == [True, False, True, False]
    assert dataset.item_has_text.tolist() == [True, True, False, False]
    for index in (-1, 4):
        with pytest.raises(IndexError, match="`index`"):
            dataset.item(index)


def test_coverage_counts():
    coverage = RecDataset.from_tables(EVENTS, ITEMS).coverage
    assert (coverage.users, coverage.items, coverage.interactions) == (2, 4, 5)
    assert coverage.items_with_text == 2
    assert coverage.items_with_image == 2
    assert coverage.items_with_both == 1
    assert coverage.items_with_neither == 1
    assert coverage.items_image_path_only == 1
    assert coverage.items_without_interactions == 1
    assert coverage.interactions_with_image == 3
    assert coverage.noted["equal_timestamps"] == coverage.noted["ties_by_row_order"] == 1
    assert coverage.noted["out_of_order"] == 2
    assert any("items with both" in line and "1 (25.0%)" in line for line in coverage.table().splitlines())
    assert json.loads(json.dumps(coverage.to_dict()))["splits"] == {"train": 5, "validation": 0, "test": 0}


def test_check_images_moves_broken_images_to_the_quarantine():
    dataset = RecDataset.from_tables(EVENTS, ITEMS).check_images()
    assert dataset.item_has_image.tolist() == [True, False, False, False]
    (row,) = dataset.quarantine
    assert (row["reason"], row["number"]) == ("image:not_an_image", 2)
    assert json.loads(row["row"])["image"]["bytes"] == {"base64": "YnJva2Vu"}
    assert dataset.item(0)["image"] is not None
    assert dataset.n_interactions == 5


def test_header_check_misses_what_only_decoding_shows():
    items = [{"item_id": "a", "image": {"bytes": png()[:-30], "path": None}}]
    dataset = RecDataset.from_tables([{"user_id": 1, "item_id": "a", "timestamp": 0}], items)
    assert dataset.check_images(full=False).item_has_image.tolist() == [True]
    assert dataset.check_images().item_has_image.tolist() == [False]


@pytest.mark.parametrize("missing", ["user_id", "item_id", "timestamp"])
def test_missing_columns_are_named_with_the_remedy(missing):
    rows = [{k: v for k, v in row.items() if k != missing} for row in EVENTS]
    with pytest.raises(ValueError, match=f"`interactions` has no column `{missing}`.*column_mapping") as caught:
        RecDataset.from_tables(rows, ITEMS)
    assert "rating" in str(caught.value)
    with pytest.raises(ValueError, match="`items` has no column `item_id`"):
        RecDataset.from_tables(EVENTS, [{"title": "x"}])


def test_column_mapping():
    rows = [{"who": 1, "what": 2, "when": 3}]
    mapping = {"who": "user_id", "what": "item_id", "when": "timestamp"}
    dataset = RecDataset.from_tables(rows, column_mapping=mapping)
    assert events_of(dataset) == [("1", "2", 3)]
    items = [{"id": 2, "what": "a title"}]
    nested = {"interactions": mapping, "items": {"id": "item_id", "what": "title"}}
    assert RecDataset.from_tables(rows, items, column_mapping=nested).item(0)["text"] == "a title"
    with pytest.raises(ValueError, match="'wen'"):
        RecDataset.from_tables(rows, column_mapping={**mapping, "wen": "timestamp"})
    with pytest.raises(ValueError, match="two columns"):
        RecDataset.from_tables(rows, column_mapping={**mapping, "when": "item_id"})


def test_bad_rows_are_quarantined_with_one_reason_each():
    rows = [
        {"user_id": "u", "item_id": "a", "timestamp": "1"},
        {"user_id": None, "item_id": None, "timestamp": "2"},
        {"user_id": "", "item_id": "a", "timestamp": "2"},
        {"user_id": "u", "item_id": None, "timestamp": "3"},
        {"user_id": "u", "item_id": "a", "timestamp": "soon"},
        {"user_id": "u", "item_id": "zzz", "timestamp": "5"},
        {"user_id": "u", "item_id": "b", "timestamp": "6"},
    ]
    dataset = RecDataset.from_tables(rows, ITEMS)
    assert events_of(dataset) == [("u", "a", 1), ("u", "b", 6)]
    result = {(row["number"], row["reason"], row["column"]) for row in dataset.quarantine}
    assert result == {
        (1, "null_user_id", "user_id"),
        (2, "null_user_id", "user_id"),
        (3, "null_item_id", "item_id"),
        (4, "bad_timestamp", "timestamp"),
        (5, "unknown_item", "item_id"),
    }
    assert {row["number"]: json.loads(row["row"]) for row in dataset.quarantine}[4] == rows[4]
    assert dataset.coverage.quarantined["null_user_id"] == 2
    assert len(dataset.quarantine) + dataset.n_interactions == len(rows)


def test_many_quarantined_rows_read_like_few():
    rows = [{"user_id": f"u{i}", "item_id": "zzz" if i else "a", "timestamp": i} for i in range(1500)]
    many = RecDataset.from_tables(rows, ITEMS).quarantine
    few = RecDataset.from_tables(rows[:3], ITEMS).quarantine
    assert len(many) == 1499
    assert many[0]["row"] == few[0]["row"]
    assert json.loads(many[1498]["row"]) == rows[1499]


def test_unknown_items_can_join_the_catalogue():
    rows = [*EVENTS, {"user_id": "u1", "item_id": "new", "timestamp": 99}]
    dataset = RecDataset.from_tables(rows, ITEMS, unknown_items="keep")
    assert dataset.item_ids.tolist() == ["c", "a", "b", "d", "new"]
    assert dataset.item(4) == {"text": None, "image": None}
    assert len(dataset.quarantine) == 0


def test_duplicate_and_null_item_ids():
    items = [*ITEMS, {"item_id": "a", "title": "second"}, {"item_id": None, "title": "nobody"}]
    dataset = RecDataset.from_tables(EVENTS, items)
    assert dataset.item_ids.tolist() == ["c", "a", "b", "d"]
    assert dataset.item(1)["text"] == "A"
    reasons = {(row["table"], row["number"], row["reason"]) for row in dataset.quarantine}
    assert reasons == {("items", 4, "duplicate_item_id"), ("items", 5, "null_item_id")}


def test_duplicate_interactions_are_kept_and_counted_or_quarantined():
    rows = [*EVENTS, EVENTS[0], EVENTS[4], EVENTS[4]]
    kept = RecDataset.from_tables(rows, ITEMS)
    assert kept.n_interactions == 8
    assert kept.coverage.noted["duplicates"] == 3
    strict = RecDataset.from_tables(rows, ITEMS, duplicates="quarantine")
    assert strict.n_interactions == 5
    assert sorted(row["number"] for row in strict.quarantine) == [5, 6, 7]
    with pytest.raises(ValueError, match="`duplicates`"):
        RecDataset.from_tables(rows, ITEMS, duplicates="drop")


def test_position_settles_ties_and_tells_duplicates_apart():
    rows = [{"user_id": 1, "item_id": i, "timestamp": 7, "position": p} for i, p in (("x", 2), ("y", 0), ("x", 1))]
    dataset = RecDataset.from_tables(rows)
    assert dataset.interactions["item_id"][:] == ["y", "x", "x"]
    assert dataset.coverage.noted["duplicates"] == 0
    assert dataset.coverage.noted["equal_timestamps"] == 2
    assert dataset.coverage.noted["ties_by_row_order"] == 0
    without_time = RecDataset.from_tables([{k: v for k, v in r.items() if k != "timestamp"} for r in rows])
    assert without_time.interactions["item_id"][:] == ["y", "x", "x"]
    with pytest.raises(ValueError, match="positions only"):
        without_time.temporal_split(test_from=1)


def test_ties_without_position_keep_the_row_order():
    rows = [{"user_id": 1, "item_id": f"i{i}", "timestamp": 0} for i in (3, 1, 2, 0)]
    assert RecDataset.from_tables(rows).interactions["item_id"][:] == ["i3", "i1", "i2", "i0"]


def test_ids_become_strings():
    frame = pd.DataFrame({"user_id": [1.0, 2.0, None], "item_id": [7, 8, 9], "timestamp": [1, 2, 3]})
    dataset = RecDataset.from_tables(frame)
    assert dataset.interactions["user_id"][:] == ["1", "2"]
    assert dataset.item_ids.tolist() == ["7", "8", "9"]
    mixed = RecDataset.from_tables([{"user_id": 1, "item_id": x, "timestamp": 0} for x in (5, "b")])
    assert mixed.item_ids.tolist() == ["5", "b"]
    padded = RecDataset.from_tables([{"user_id": "007", "item_id": "7", "timestamp": 0}])
    assert padded.sequences().user_ids.tolist() == ["007"]


def test_timestamps_of_every_kind():
    moments = [dt.datetime(2024, 1, 2, 3, 4, 5), dt.datetime(2024, 1, 3)]
    millis = [1704164645000, 1704240000000]
    kinds = {
        "datetime": moments,
        "iso": ["2024-01-02T03:04:05", "2024-01-03"],
        "zulu": ["2024-01-02T03:04:05Z", "2024-01-03T00:00:00.000Z"],
        "offset": ["2024-01-02 05:34:05+02:30", "2024-01-02T22:00:00-0200"],
    }
    for kind, values in kinds.items():
        rows = [{"user_id": 1, "item_id": "a", "timestamp": value} for value in values]
        dataset = RecDataset.from_tables(rows)
        assert dataset.interactions["timestamp"][:] == millis, kind
        assert dataset.timestamp_unit == "ms", kind
    floats = RecDataset.from_tables([{"user_id": 1, "item_id": "a", "timestamp": x} for x in (2.5, float("nan"), 1.0)])
    assert floats.interactions["timestamp"][:] == [1.0, 2.5]
    assert floats.coverage.quarantined == {"bad_timestamp": 1}
    with pytest.raises(ValueError, match="`timestamp` must hold"):
        RecDataset.from_tables([{"user_id": 1, "item_id": "a", "timestamp": [1]}])


def test_images_given_as_objects(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png("blue"))
    values = [png(), Image.new("RGB", (2, 2), "green"), ImagePath(path), ImagePath(tmp_path / "gone.png"), None]
    items = [{"item_id": i, "image": value} for i, value in enumerate(values)]
    for table in (items, pd.DataFrame(items)):
        dataset = RecDataset.from_tables([{"user_id": 1, "item_id": 0, "timestamp": 0}], table)
        assert dataset.item_has_image.tolist() == [True, True, True, False, False]
        assert dataset.item(1)["image"].getpixel((0, 0)) == (0, 128, 0)
        assert dataset.item(2)["image"].getpixel((0, 0)) == (0, 0, 255)
        assert dataset.coverage.items_image_path_only == 1


@pytest.mark.parametrize("values", [["https://example.org/a.png", None], [b"x", "/etc/passwd"]])
def test_strings_as_images_are_refused(values):
    items = [{"item_id": i, "image": value} for i, value in enumerate(values)]
    with pytest.raises(ValueError, match="never opened or fetched"):
        RecDataset.from_tables([{"user_id": 1, "item_id": 0, "timestamp": 0}], items)


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="`interactions` must be a polars"):
        RecDataset.from_tables(42)
    with pytest.raises(ValueError, match="row 0 must be a dict"):
        RecDataset.from_tables([1])
    with pytest.raises(ValueError, match="`timestamp_unit`"):
        RecDataset.from_tables(EVENTS, timestamp_unit="days")
    with pytest.raises(ValueError, match="`title` of the items must hold text, numbers, dates or lists"):
        RecDataset.from_tables(EVENTS, [{"item_id": "a", "title": {"en": "A"}}])
    with pytest.raises(ValueError, match="`user_id` must hold strings or integers"):
        RecDataset.from_tables([{"user_id": [1], "item_id": "a", "timestamp": 0}])


@pytest.mark.parametrize("empty", [[], pa.schema([("user_id", pa.string()), ("item_id", pa.string())]).empty_table()])
def test_a_table_without_interactions_is_refused(empty):
    with pytest.raises(ValueError, match=r"`interactions` is empty: its columns are \[.*\], and it has no row"):
        RecDataset.from_tables(empty, ITEMS)


def test_an_existing_split_is_taken_over():
    rows = [
        {"user_id": 1, "item_id": "a", "timestamp": t, "split": s}
        for t, s in ((1, "train"), (2, "validation"), (3, "test"), (4, "nonsense"))
    ]
    dataset = RecDataset.from_tables(rows, split_column="split")
    assert dataset.interactions["split"][:] == [0, 1, 2]
    assert dataset.coverage.quarantined == {"bad_split": 1}
    assert len(dataset.examples("test")) == 1
    backwards = [{**row, "timestamp": -row["timestamp"]} for row in rows]
    with pytest.raises(ValueError, match="goes back in time"):
        RecDataset.from_tables(backwards, split_column="split")
