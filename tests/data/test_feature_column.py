"""The item column `image_features`: what may stand in it, and that it counts as an image wherever one is meant."""

import numpy as np
import pyarrow as pa
import pytest

from vlm2rec_hf import RecDataset
from vlm2rec_hf.data.feature_column import FEATURES_TYPE, normalise_features

EVENTS = [{"user_id": "u", "item_id": name, "timestamp": i} for i, name in enumerate("abc")]


def dataset(features, **columns):
    items = [
        {"item_id": name, "title": name, "image_features": one, **{k: v[i] for k, v in columns.items()}}
        for i, (name, one) in enumerate(zip("abc", features, strict=True))
    ]
    return RecDataset.from_tables(EVENTS, items)


def test_one_vector_or_several_or_none(tmp_path):
    made = dataset([[[1.0, 2.0], [3.0, 4.0]], None, [[5.0, 6.0]]])
    assert [None if one is None else one.tolist() for one in (made.item(i)["image_features"] for i in range(3))] == [
        [[1, 2], [3, 4]], None, [[5, 6]],
    ]  # fmt: skip
    assert made.item(0)["image_features"].dtype == np.float32 and "image" not in made.item(0)
    assert made.item_has_image.tolist() == [True, False, True]
    assert made.coverage.items_with_image == 2 and made.coverage.items_with_both == 2
    made.save(tmp_path / "saved")
    loaded = RecDataset.load(tmp_path / "saved")
    loaded.verify()
    assert loaded.item(2)["image_features"].tolist() == [[5, 6]]
    assert dataset([[1, 2], None, [5, 6]]).item(0)["image_features"].tolist() == [[1, 2]]
    other = dataset([[[1.0, 2.0], [3.0, 4.5]], None, [[5.0, 6.0]]])
    assert other.fingerprint != made.fingerprint


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2), pa.list_(pa.int64())]
)
def test_all_kinds_of_lists_become_one(kind):
    cells = [[1, 2], [3, 4]]
    if pa.types.is_float16(kind.value_type):
        cells = [np.array(cell, dtype=np.float16) for cell in cells]
    column = pa.array([*cells, None], kind)
    table = pa.table({"item_id": ["a", "b", "c"], "image_features": column})
    made = normalise_features(table)["image_features"]
    assert made.type == FEATURES_TYPE and made.to_pylist() == [[[1, 2]], [[3, 4]], None]
    assert normalise_features(table.slice(1))["image_features"].to_pylist() == [[[3, 4]], None]
    nothing = table.set_column(1, "image_features", pa.nulls(3))
    assert normalise_features(nothing)["image_features"].to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([[1.0, 2.0], [1.0], None], "item 'b' has a vector of 1 numbers where others have 2"),
        ([[[1.0, 2.0]], None, [[1.0, 2.0], [1.0]]], "item 'c' has a vector of 1"),
        ([None, [1.0, float("nan")], None], "item 'b' holds (nan|None)"),
        ([[1.0, float("inf")], None, None], "item 'a' holds inf"),
        ([[1.0, 1e300], None, None], "item 'a' holds 1e\\+300"),
        ([[1.0, None], None, None], "item 'a' holds None"),
        ([[1.0], [], None], "item 'b' is an empty list"),
        ([["x"], None, None], "must hold list<float>"),
        ([1.0, None, None], "must hold list<float>"),
    ],
)
def test_anything_else_names_the_item_and_the_remedy(features, says):
    with pytest.raises(ValueError, match=says) as raised:
        dataset(features)
    assert "`image_features`" in str(raised.value) and "null" in str(raised.value)


def test_appended_features_have_the_width_of_the_old(tmp_path):
    made = dataset([[1.0, 2.0], None, None])
    grown = made.append(items=[{"item_id": "d", "title": "d", "image_features": [3.0, 4.0]}])
    assert grown.item(3)["image_features"].tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="item 'd' has a vector of 1"):
        made.append(items=[{"item_id": "d", "title": "d", "image_features": [3.0]}])


def test_items_kept_by_a_filter_keep_their_features():
    events = [{"user_id": f"u{i}", "item_id": name, "timestamp": i} for i, name in enumerate("acac")]
    items = [{"item_id": name, "image_features": [float(i), 0.0]} for i, name in enumerate("abc")]
    kept = RecDataset.from_tables(events + [{**e, "timestamp": 9} for e in events], items).k_core(2)
    assert kept.item_ids.tolist() == ["a", "c"] and kept.item(1)["image_features"].tolist() == [[2, 0]]
