"""Reading dataset repos: revisions, sources, streams, clones, foreign layouts, and repos that are not sound."""

import gzip
import json
import re
import shutil
import socket
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import HfApi, snapshot_download

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.hub_files import INFO_FILE
from vlm2rec_hf.data.images import decode_image
from vlm2rec_hf.data.readers import load_recsys, read_hub, stream_hub

from .hub_shops import events, items, make, png, with_other_image

REPO = "org/shop"
SHARD = "items/train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def put(**files):
    """Commit files to the repo; None deletes."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [
        CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
        for path, content in files.items()
    ]
    return HfApi().create_commit(REPO, operations, commit_message="change", repo_type="dataset").oid


# ---- where a dataset came from


def test_a_revision_is_resolved_to_a_commit(hub):
    first = make().push_to_hub(REPO, tag="v1.0").oid
    second = make().leave_one_out().push_to_hub(REPO).oid
    for revision, oid in (("v1.0", first), (first, first), ("main", second), (None, second), (first[:8], first)):
        assert load_recsys(REPO, revision=revision).source == {"repo_id": REPO, "revision": oid}
    assert make().source is None


def test_the_source_stays_with_what_is_made_of_it(hub, tmp_path):
    oid = make().push_to_hub(REPO).oid
    source = {"repo_id": REPO, "revision": oid}
    loaded = load_recsys(REPO)
    split = loaded.k_core(2).leave_one_out().hold_out_cold_items(0.4, seed=3).check_images().renamed("other")
    assert split.source == source and split.fingerprint != loaded.fingerprint
    split.save(tmp_path / "d")
    assert RecDataset.load(tmp_path / "d").source == source
    # Where it came from is no content: the same rows from elsewhere are the same dataset.
    assert loaded.fingerprint == make().fingerprint
    split.push_to_hub("org/split")
    again = load_recsys("org/split")
    assert again.source["repo_id"] == "org/split"
    assert json.loads(hub.files("org/split", kind="datasets")[INFO_FILE])["source"] == source


def test_a_folder_saved_before_there_were_sources_still_opens(tmp_path):
    make().save(tmp_path / "d")
    path = tmp_path / "d" / "rec_dataset.json"
    info = json.loads(path.read_text())
    assert info.pop("source") is None
    path.write_text(json.dumps(info))
    assert RecDataset.load(tmp_path / "d").source is None


def test_the_returned_source_is_a_copy(hub):
    make().push_to_hub(REPO)
    loaded = load_recsys(REPO)
    loaded.source["revision"] = "changed"
    assert loaded.source["revision"] != "changed"


# ---- streams


def test_streaming_with_datasets_alone_gives_the_rows_and_decoded_images(hub):
    original = make().leave_one_out()
    original.push_to_hub(REPO, tag="v1.0")
    rows = list(datasets.load_dataset(REPO, "items", split="train", streaming=True, revision="v1.0"))
    assert [row["item_id"] for row in rows] == list(original.item_ids)
    assert rows[2]["image"].tobytes() == original.item(2)["image"].tobytes()
    streamed = datasets.load_dataset(REPO, "interactions", streaming=True)
    assert sum(len(list(part)) for part in streamed.values()) == original.n_interactions


@pytest.mark.parametrize("shard", ["500MB", "2kB"])
def test_a_dataset_built_from_the_streams_has_the_same_fingerprint(hub, shard):
    original = make([*items()[:3], *items()[4:]]).leave_one_out()
    original.push_to_hub(REPO, tag="v1.0", max_shard_size=shard)
    make().push_to_hub(REPO)  # main moves on; the tag does not
    streams = load_recsys(REPO, revision="v1.0", streaming=True)
    assert set(streams) == {"interactions", "items"}
    assert all(isinstance(stream, datasets.IterableDataset) for stream in streams.values())
    first = next(iter(streams["items"]))
    assert decode_image(first["image"]["bytes"]).size == (6, 4)
    built = RecDataset.from_tables(streams["interactions"], streams["items"], split_column="split")
    assert built.fingerprint == original.fingerprint
    assert built.interactions.to_list() == original.interactions.to_list()


def test_a_decoding_stream_builds_the_same_dataset(hub):
    original = make([*items()[:3], *items()[4:]])
    original.push_to_hub(REPO)
    events_, items_ = (datasets.load_dataset(REPO, name, streaming=True, split="train") for name in
                       ("interactions", "items"))  # fmt: skip
    assert not isinstance(next(iter(items_))["image"], dict)
    built = RecDataset.from_tables(events_, items_)
    assert built.fingerprint == original.fingerprint
    with pytest.raises(ValueError, match="`interactions` is a stream whose rows differ in type"):
        RecDataset.from_tables(events_.remove_columns("split"), items_)


def test_streaming_reads_only_what_is_asked_for(hub):
    make([{**items()[0], "item_id": f"i{i}", "image": png(i, (60, 60))} for i in range(30)]).push_to_hub(
        REPO, max_shard_size="30kB"
    )
    streams = stream_hub(REPO)
    hub.requests.clear()
    next(iter(streams["items"]))
    read = {path.split("?")[0] for method, path, _ in hub.requests if method == "GET" and path.endswith(".parquet")}
    assert 0 < len(read) < 5
    assert not any("interactions" in path for path in read)


def test_streaming_of_something_else_is_refused(hub, tmp_path):
    make().save(tmp_path / "d")
    with pytest.raises(ValueError, match="`streaming` applies to dataset repos"):
        load_recsys(tmp_path / "d", streaming=True)
    with pytest.raises(ValueError, match="`repo_id` 'org/none'"):
        load_recsys("org/none", streaming=True)


# ---- clones and foreign repos


def test_a_clone_and_the_offline_cache_read_alike(hub, tmp_path, monkeypatch):
    original = make().leave_one_out()
    oid = original.push_to_hub(REPO, tag="v1.0").oid
    clone = snapshot_download(REPO, repo_type="dataset", local_dir=tmp_path / "clone")
    read = load_recsys(clone)
    assert read.fingerprint == original.fingerprint and read.split_spec == original.split_spec
    assert read.source is None and len(read.quarantine) == 1
    with pytest.raises(ValueError, match="`revision`.*local folder|local"):
        load_recsys(clone, revision="v1.0")
    load_recsys(REPO, revision="v1.0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    cached = load_recsys(REPO, revision="v1.0")
    assert cached.source == {"repo_id": REPO, "revision": oid} and hub.requests == []
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        load_recsys("org/never-seen")


def test_a_foreign_repo_comes_through_the_checks_and_has_a_source(hub):
    HfApi().create_repo(REPO, repo_type="dataset")
    table = datasets.Dataset(pa.Table.from_pylist(events()))
    table.push_to_hub(REPO, "interactions")
    images = datasets.Dataset(pa.Table.from_pylist(items()[:3])).cast_column("image", datasets.Image())
    images.push_to_hub(REPO, "items")
    loaded = load_recsys(REPO, unknown_items="keep")
    assert loaded.n_interactions == 61 and loaded.n_items == 5
    assert loaded.source == {"repo_id": REPO, "revision": hub.history(REPO, "datasets")[0]}
    assert loaded.name == "shop" and loaded.split_spec == {"kind": "none"}


def csv_repo(**more):
    HfApi().create_repo(REPO, repo_type="dataset")
    files = {
        "README.md": b"""---
configs:
- config_name: interactions
  sep: ';'
  data_files:
  - {split: train, path: 'data[[]1]/train*.csv'}
  - {split: test, path: 'data[[]1]/test.csv.gz'}
  features: [{name: user_id, dtype: string}, {name: item_id, dtype: string}, {name: timestamp, dtype: int64}]
- {config_name: items, data_files: items.jsonl}
- {config_name: images, data_files: 'https://127.0.0.1:9/x.tar'}
---
""",
        "data[1]/train-0.csv": b"user_id;item_id;timestamp\n007;a;1\n007;b;2\n",
        "data[1]/train-1.csv": b"user_id;item_id;timestamp\n8;a;3\n",
        "data[1]/test.csv.gz": gzip.compress(b"user_id;item_id;timestamp\n007;c;4\n"),
        "data1/train-0.csv": b"user_id;item_id;timestamp\nnobody;a;1\n",
        "items.jsonl": b'{"item_id": "a", "title": "A"}\n{"item_id": "b", "title": "B"}\n{"item_id": "c"}\n',
        **more,
    }
    return put(**files)


def test_a_repo_of_texts_keeps_its_types_and_splits(hub, tmp_path, monkeypatch):
    oid = csv_repo()
    loaded = load_recsys(REPO)
    rows = loaded.interactions.to_list()
    assert [(r["user_id"], r["item_id"], r["timestamp"]) for r in rows] == [
        ("007", "a", 1), ("007", "b", 2), ("007", "c", 4), ("8", "a", 3),
    ]  # fmt: skip
    assert loaded.source == {"repo_id": REPO, "revision": oid} and loaded.item(0)["text"] == "A"
    streams = load_recsys(REPO, streaming=True)
    assert RecDataset.from_tables(**streams).fingerprint == loaded.fingerprint
    clone = snapshot_download(REPO, repo_type="dataset", local_dir=tmp_path / "clone[1]")
    assert load_recsys(clone).fingerprint == loaded.fingerprint
    local = load_recsys(clone, streaming=True)
    assert RecDataset.from_tables(**local).fingerprint == loaded.fingerprint


def test_own_tables_read_once_are_read_again_without_a_hub(hub, monkeypatch):
    make().leave_one_out().push_to_hub(REPO)
    raw = load_recsys(REPO, split_column=None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        pytest.skip("this huggingface_hub does not remember what a commit holds")
    again = load_recsys(REPO, revision=raw.source["revision"], split_column=None)
    assert again.fingerprint == raw.fingerprint and hub.requests == []


def test_a_table_that_cannot_be_read_is_named(hub):
    csv_repo(**{"items.jsonl": b'{"item_id": '})
    with pytest.raises(ValueError, match="The table 'items' of 'org/shop' cannot be read as json: .*from_tables"):
        load_recsys(REPO)


def test_own_repo_read_with_options_goes_through_the_tables(hub):
    original = make().leave_one_out()
    original.push_to_hub(REPO)
    raw = load_recsys(REPO, split_column=None, name="raw")
    assert raw.split_spec == {"kind": "none"} and raw.n_interactions == original.n_interactions
    assert raw.leave_one_out().coverage.splits == original.coverage.splits
    assert raw.source["repo_id"] == REPO


# ---- what is not there or not sound


def test_absent_private_and_unknown_are_told_apart(hub, monkeypatch):
    make().push_to_hub(REPO, private=True)
    assert load_recsys(REPO).fingerprint == make().fingerprint
    with pytest.raises(ValueError, match="`revision` 'v9'.*no such branch, tag or commit"):
        load_recsys(REPO, revision="v9")
    with pytest.raises(ValueError, match="`repo_id` 'org/gone'.*no such dataset"):
        load_recsys("org/gone")
    with pytest.raises(ValueError, match="`repo_id` 'org/sh op'"):
        load_recsys("org/sh op")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="private"):
        load_recsys(REPO)
    assert load_recsys(REPO, token=hub.token).fingerprint == make().fingerprint
    hub.fail("GET", "/api/datasets/", 403)
    with pytest.raises(ValueError, match="403") as caught:
        load_recsys(REPO, token=hub.token)
    assert hub.token not in str(caught.value)


def test_a_listed_file_that_is_gone_is_named(hub):
    make().push_to_hub(REPO, tag="v1.0")
    put(**{SHARD: None})
    with pytest.raises(ValueError, match=f"incomplete: {SHARD} is missing"):
        load_recsys(REPO)
    assert load_recsys(REPO, revision="v1.0").fingerprint == make().fingerprint


def test_changed_images_are_noticed(hub):
    make().push_to_hub(REPO)
    shard = with_other_image(hub.files(REPO, kind="datasets")[SHARD])
    put(**{SHARD: shard})
    with pytest.raises(ValueError, match="incomplete.*bytes instead of"):
        load_recsys(REPO)
    info = json.loads(hub.files(REPO, kind="datasets")[INFO_FILE])
    info["files"][SHARD] = len(shard)
    put(**{INFO_FILE: json.dumps(info).encode()})
    with pytest.raises(ValueError, match="has fingerprint .* records .*changed after"):
        load_recsys(REPO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format 99"),
        ({"files": {"items/../../secret.parquet": 3, "interactions/x.parquet": 1}}, "is no data file"),
        ({"files": {"items/x.parquet": 1, "interactions/": 1, "/etc/passwd": 3}}, "is no data file"),
        ({"files": {"items/x.py": 3, "interactions/x.parquet": 1}}, "is no data file"),
        ({"files": {"items/*.parquet": 3, "interactions/x.parquet": 1}}, "is no data file"),
        ({"files": {}}, "lists no"),
        ({"files": {SHARD: "many"}}, "damaged"),
        ({"image_path_column": "absent"}, "image_path_column"),
    ],
)
def test_a_damaged_info_file_is_refused(hub, tmp_path, change, message):
    make().push_to_hub(REPO)
    clone = tmp_path / "clone"
    shutil.copytree(snapshot_download(REPO, repo_type="dataset"), clone)
    info = json.loads((clone / INFO_FILE).read_text())
    (clone / INFO_FILE).unlink()
    (clone / INFO_FILE).write_text(json.dumps({**info, **change}))
    with pytest.raises(ValueError, match=message):
        read_hub(clone)


def test_a_repo_without_the_config_is_refused(hub):
    HfApi().create_repo(REPO, repo_type="dataset")
    datasets.Dataset.from_dict({"a": [1]}).push_to_hub(REPO, "words")
    for call in (load_recsys, stream_hub):
        with pytest.raises(ValueError, match="has the configs .'words'.; it needs `interactions`"):
            call(REPO)


def test_a_hub_that_cannot_be_reached_is_a_connection_error(hub, no_waiting, monkeypatch):
    make().push_to_hub(REPO)

    def refuse(*args, **kwargs):
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    hub.fail("*", "/", drop="before", times=100)
    with pytest.raises(ConnectionError, match="again"):
        load_recsys("org/other")


def test_the_snippets_of_the_data_page_hold(hub, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "data.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python( hub)?\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in snippets].count(" hub") == 2
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for _, snippet in snippets:
        exec(compile(snippet, "data.md", "exec"), scope)
    assert scope["built"].fingerprint == scope["pushed"].fingerprint
