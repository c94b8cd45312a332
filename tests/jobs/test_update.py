"""`vlm2rec embed --update`: what has not changed is not encoded again, and the table is that of a whole run."""

import numpy as np
import pytest

from vlm2rec_hf.catalogues.item_vectors import read_item_vectors
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.jobs.earlier import EarlierVectors, content_digests

from .small_jobs import N_ITEMS, QUARANTINED, png, run, small_job, table_of

CLICK = [{"user_id": "u", "item_id": "x", "timestamp": 1}]


@pytest.fixture
def grown(dataset):
    """The dataset with two changed items (one by its text, one by its image) and one new one."""
    items = [
        {"item_id": "i1", "title": "blue tent", "image": {"bytes": png(1)}},
        {"item_id": "i2", "title": "red tent 2", "image": {"bytes": png(99)}},
        {"item_id": "i4", "title": "red tent 4", "image": {"bytes": png(4)}},
        {"item_id": "new", "title": "a lamp", "image": {"bytes": png(50)}},
    ]
    return dataset.append(items=items)


def matrix(table, view):
    return np.array(table[view].to_pylist(), dtype=np.float32)


@pytest.mark.parametrize("before", ["before.parquet", "before"])
def test_only_what_is_new_or_changed_is_encoded(dataset, grown, loaded, tmp_path, monkeypatch, before):
    run(small_job(tmp_path / before, dataset, loaded))
    encoded = []
    model = loaded[0]
    plain = type(model).encode_items
    monkeypatch.setattr(type(model), "encode_items", lambda self, items, *a, **k: (
        encoded.extend(items), plain(self, items, *a, **k))[1])  # fmt: skip
    done = run(small_job(tmp_path / "after.parquet", grown, loaded, update=tmp_path / before, shard_size=7))
    assert len(encoded) == 3 and done.items == N_ITEMS + 1 and done.quarantined == QUARANTINED
    run(small_job(tmp_path / "whole.parquet", grown, loaded))
    assert len(encoded) > N_ITEMS
    after, whole = table_of(tmp_path / "after.parquet"), table_of(tmp_path / "whole.parquet")
    for name in ("item_id", "content", "has_text", "has_image"):
        assert after[name].to_pylist() == whole[name].to_pylist()
    for view in ("both", "text", "image"):
        np.testing.assert_allclose(matrix(after, view), matrix(whole, view), atol=1e-5)
    assert read_item_vectors(tmp_path / "after.parquet", ["new", "i1"]).item_ids == ["new", "i1"]


def test_vectors_made_otherwise_are_refused(dataset, loaded, tmp_path, monkeypatch):
    run(small_job(tmp_path / "before.parquet", dataset, loaded))
    other = small_job(tmp_path / "after.parquet", dataset, loaded, update=tmp_path / "before.parquet")
    object.__setattr__(other, "revision", "v2")
    with pytest.raises(ValueError, match=r"`--update`.*model.revision is 'v1' there and 'v2' here"):
        run(other)
    assert not (tmp_path / "after.parquet").exists() and not (tmp_path / "after.parquet.work").exists()
    with pytest.raises(ValueError, match="`--update`.*does not exist"):
        EarlierVectors(tmp_path / "nowhere.parquet")
    monkeypatch.setattr(loaded[1], "max_item_tokens", 3)
    with pytest.raises(ValueError, match="processor.max_item_tokens"):
        run(small_job(tmp_path / "after.parquet", dataset, loaded, update=tmp_path / "before.parquet"))


def test_a_table_that_does_not_say_what_its_items_were_is_refused(dataset, loaded, tmp_path):
    import pyarrow.parquet as pq

    run(small_job(tmp_path / "before.parquet", dataset, loaded))
    pq.write_table(table_of(tmp_path / "before.parquet").drop_columns("content"), tmp_path / "old.parquet")
    with pytest.raises(ValueError, match="`--update`.*leave it out"):
        EarlierVectors(tmp_path / "old.parquet")


@pytest.mark.parametrize("known", [{"image": png(1)}, {"image": None}, {}])
def test_other_features_are_a_change_beside_an_image_and_without_one(known):
    def digests(features, title="Mug"):
        items = [{"item_id": "x", "title": title, "image_features": features, **known}]
        return content_digests(RecDataset.from_tables(CLICK, items).catalogue_items())

    assert len({digests(features)[0] for features in ([[0.5, 1.0]], [[0.7, 1.0]], None)}) == 3
    assert digests([[0.5, 1.0]]) == digests([[0.5, 1.0]]) != digests([[0.5, 1.0]], "Cup")
