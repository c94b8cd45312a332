import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.storage import INFO_FILE


def rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    times = rng.permutation(n)
    return [
        {
            "user_id": f"u{rng.integers(9)}",
            "item_id": f"i{min(rng.integers(12, size=2))}",
            "timestamp": int(t),
            "rating": float(t % 5),
        }
        for t in times
    ]


def items():
    return [
        {
            "item_id": f"i{i}",
            "title": f"title {i}",
            "tags": ["a"] * (i % 3),
            "image": {"bytes": bytes([i]) * 9, "path": None},
        }
        for i in range(12)
    ]


def make(events=None, catalogue=None):
    return RecDataset.from_tables(
        pa.Table.from_pylist(rows() if events is None else events),
        pa.Table.from_pylist(items() if catalogue is None else catalogue),
        name="toy",
    )


def test_layout_and_input_order_do_not_matter():
    expected = make().fingerprint
    shuffled = rows()
    np.random.default_rng(4).shuffle(shuffled)
    assert make(shuffled).fingerprint == expected
    table, catalogue = pa.Table.from_pylist(rows()), pa.Table.from_pylist(items())
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 100), table.slice(107)])
    item_pieces = pa.concat_tables([catalogue.slice(i, 1) for i in range(12)])
    assert pieces["user_id"].num_chunks == 3
    assert RecDataset.from_tables(pieces, item_pieces).fingerprint == expected
    coded = pieces.set_column(0, "user_id", pieces["user_id"].dictionary_encode())
    large = catalogue.set_column(1, "title", catalogue["title"].cast(pa.large_string()))
    assert RecDataset.from_tables(coded, large, name="another name").fingerprint == expected
    assert (
        RecDataset.from_tables(table.select(["rating", "timestamp", "item_id", "user_id"]), large).fingerprint
        == expected
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda e, i: e.pop(),
        lambda e, i: e[3].update(timestamp=10_000),
        lambda e, i: e[3].update(rating=9.0),
        lambda e, i: e[3].update(rating=None),
        lambda e, i: e[3].update(item_id="i11" if e[3]["item_id"] != "i11" else "i10"),
        lambda e, i: [r.update(user_id="x" + r["user_id"]) for r in e],
        lambda e, i: i[5].update(title="other"),
        lambda e, i: i[5].update(title=None),
        lambda e, i: i[5].update(title=""),
        lambda e, i: i[5]["image"].update(bytes=b"other"),
        lambda e, i: i[5].update(image=None),
        lambda e, i: i[5].update(tags=["b"]),
        lambda e, i: i.reverse(),
        lambda e, i: (i[4].update(title="title 4t"), i[5].update(title="itle 5")),
    ],
)
def test_every_change_of_content_shows(change):
    events, catalogue = rows(), items()
    change(events, catalogue)
    assert make(events, catalogue).fingerprint != make().fingerprint


def test_the_split_is_content():
    result = {make().fingerprint, make().leave_one_out().fingerprint, make().temporal_split(test_from=100).fingerprint}
    assert len(result) == 3


def test_a_subset_by_k_core_equals_the_same_rows_built_directly():
    core = make().k_core(10)
    assert 0 < core.n_items < 12
    kept = [{k: v for k, v in row.items() if k != "split"} for row in core.interactions]
    direct = make(kept, [item for item in items() if item["item_id"] in set(core.item_ids)])
    assert core.fingerprint == direct.fingerprint


def test_save_and_load(tmp_path):
    bad = [*rows(), {"user_id": "u1", "item_id": "nope", "timestamp": 1, "rating": 0.0}]
    dataset = make(bad).k_core(2).leave_one_out().hold_out_cold_items(0.3, seed=1)
    dataset.save(tmp_path / "deep" / "d")
    loaded = RecDataset.load(tmp_path / "deep" / "d")
    assert loaded.fingerprint == dataset.fingerprint
    loaded.verify()
    assert repr(loaded) == repr(dataset)
    assert loaded.coverage == dataset.coverage
    assert loaded.steps == dataset.steps
    assert loaded.split_spec == dataset.split_spec
    assert loaded.quarantine.to_list() == dataset.quarantine.to_list()
    assert {"unknown_item", "cold_hold_out"} == set(loaded.coverage.quarantined)
    assert loaded.interactions.cache_files and loaded.items.cache_files  # memory-mapped, not read
    one, two = dataset.sequences(), loaded.sequences()
    for name in ("user_ids", "item_ids", "offsets", "items", "split"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
        assert getattr(one, name).dtype == getattr(two, name).dtype, name
    assert loaded.item(2) == dataset.item(2)
    info = json.loads((tmp_path / "deep" / "d" / INFO_FILE).read_text())
    assert info["coverage"]["interactions"] == dataset.n_interactions
    assert info["split"]["cold_items"]["seed"] == 1


def test_a_loaded_dataset_can_be_worked_on(tmp_path):
    make().save(tmp_path / "d")
    loaded = RecDataset.load(tmp_path / "d")
    assert loaded.k_core(10).leave_one_out().fingerprint == make().k_core(10).leave_one_out().fingerprint
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy.examples("train").targets.tolist() == make().examples("train").targets.tolist()


def test_saving_never_destroys(tmp_path):
    target = tmp_path / "d"
    make().save(target)
    with pytest.raises(ValueError, match="overwrite=True"):
        make().leave_one_out().save(target)
    assert RecDataset.load(target).fingerprint == make().fingerprint
    make().leave_one_out().save(target, overwrite=True)
    assert RecDataset.load(target).fingerprint == make().leave_one_out().fingerprint
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("words")
    with pytest.raises(ValueError, match="something else"):
        make().save(other, overwrite=True)
    assert (other / "chapter.txt").read_text() == "words"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "thesis"]
    for name in ("notes.md", "report/figure.png", "items/words.txt"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("words")
        with pytest.raises(ValueError, match=f"`folder` .* holds '{name}' beside its dataset.*move"):
            make().save(target, overwrite=True)
        assert (target / name).read_text() == "words"
        (target / name).unlink()
    RecDataset.load(target).items.map(lambda row: {"length": len(row["item_id"])})  # leaves a cache in the folder
    assert list((target / "items").glob("cache-*"))
    make().save(target, overwrite=True)
    assert RecDataset.load(target).fingerprint == make().fingerprint


def test_a_dataset_can_replace_the_folder_it_was_loaded_from(tmp_path):
    make().save(tmp_path / "d")
    RecDataset.load(tmp_path / "d").leave_one_out().save(tmp_path / "d", overwrite=True)
    assert RecDataset.load(tmp_path / "d").split_spec == {"kind": "leave_one_out"}


def test_an_interrupted_save_leaves_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "d"
    make().save(target)

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pyarrow.parquet.write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        make().leave_one_out().save(target, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        make().save(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert RecDataset.load(target).fingerprint == make().fingerprint


def test_half_written_folders_fail_clearly(tmp_path):
    make().save(tmp_path / "d")
    names = [str(p.relative_to(tmp_path / "d")) for p in sorted((tmp_path / "d").rglob("*")) if p.is_file()]
    assert len(names) >= 8
    for number, name in enumerate(names):
        copy = tmp_path / f"c{number}"
        shutil.copytree(tmp_path / "d", copy)
        (copy / name).unlink()
        with pytest.raises(ValueError, match="incomplete|holds no"):
            RecDataset.load(copy)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "d", cut)
    arrow = next((cut / "interactions").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-100])
    with pytest.raises(ValueError, match="bytes instead of"):
        RecDataset.load(cut)
    (cut / INFO_FILE).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        RecDataset.load(cut)
    with pytest.raises(ValueError, match="is not a folder"):
        RecDataset.load(tmp_path / "nowhere")


def test_newer_formats_and_changed_content_are_noticed(tmp_path):
    make().save(tmp_path / "d")
    path = tmp_path / "d" / INFO_FILE
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "format_version": 99}))
    with pytest.raises(ValueError, match="format 99"):
        RecDataset.load(tmp_path / "d")
    path.write_text(json.dumps({**info, "fingerprint": "0" * 32}))
    with pytest.raises(ValueError, match="recorded is 0000"):
        RecDataset.load(tmp_path / "d").verify()
