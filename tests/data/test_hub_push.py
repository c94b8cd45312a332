"""Datasets on the Hub: what is pushed comes back whole, is tagged only when checked, and fails in words."""

import json

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from huggingface_hub import HfApi

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.hub_files import CARD_FILE, INFO_FILE
from vlm2rec_hf.data.readers import load_recsys
from vlm2rec_hf.hub_cards import DatasetFacts, render_dataset_card
from vlm2rec_hf.hub_cards.publish import push

from .hub_shops import events, items, make, png, with_other_image

REPO = "org/shop"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def paths(hub, revision="main"):
    return sorted(hub.files(REPO, revision, "datasets"))


def info(hub, revision="main"):
    return json.loads(hub.files(REPO, revision, "datasets")[INFO_FILE])


def same(one, two):
    assert one.fingerprint == two.fingerprint
    two.verify()  # computed again, not taken over
    assert two.split_spec == one.split_spec and two.steps == one.steps
    assert two.name == one.name and two.timestamp_unit == one.timestamp_unit
    assert two.quarantine.to_list() == one.quarantine.to_list()
    assert two.coverage == one.coverage
    assert two.interactions.to_list() == one.interactions.to_list()
    assert two.items.to_list() == one.items.to_list()
    for name in ("user_ids", "offsets", "items", "split"):
        assert np.array_equal(getattr(two.sequences(), name), getattr(one.sequences(), name)), name


MADE = {
    "unsplit": lambda: make(),
    "leave_one_out": lambda: make().k_core(2).leave_one_out(),
    "temporal with cold items": lambda: make().temporal_split(quantiles=(0.6, 0.8)).hold_out_cold_items(0.4, seed=3),
    "without items": lambda: RecDataset.from_tables([e for e in events() if e["rating"] is not None]).leave_one_out(),
    "images checked": lambda: make([*items()[:4], {**items()[4], "image": {"bytes": b"no", "path": None}}])
    .check_images(),
}  # fmt: skip


@pytest.mark.parametrize("how", MADE)
def test_all_that_was_pushed_comes_back(hub, how):
    original = MADE[how]()
    pushed = original.push_to_hub(REPO, tag="v1.0")
    loaded = load_recsys(REPO, revision="v1.0")
    same(original, loaded)
    assert pushed.fingerprint == loaded.fingerprint and pushed.tag == "v1.0"
    assert loaded.source == {"repo_id": REPO, "revision": pushed.oid}
    assert pushed.oid == hub.history(REPO, "datasets")[0] and pushed.oid in pushed.url
    assert len(hub.history(REPO, "datasets")) == 2  # the initial commit and one of ours


def test_rare_column_types_survive(hub):
    table = pa.table(
        {
            "user_id": pa.array([1, 1, 2], pa.int16()),
            "item_id": ["a", "b", "a"],
            "timestamp": pa.array([3, 4, 5], pa.timestamp("s")),
            "rating": pa.array([0.5, None, float("nan")], pa.float32()),
            "flag": pa.array([True, None, False]),
            "day": pa.array([1, 2, None], pa.date32()),
            "small": pa.array([1, 2, 3], pa.uint8()),
            "nothing": pa.nulls(3),
            "long": pa.array(["x", None, "y"], pa.large_string()),
            "nested": pa.array([{"a": [1]}, None, {"a": []}], pa.struct([("a", pa.list_(pa.int8()))])),
        }
    )
    extra = pl.DataFrame({"item_id": ["a", "b"], "price": [1.5, None], "made": ["2020-01-01", None]})
    original = RecDataset.from_tables(table, extra.with_columns(pl.col("made").str.to_datetime("%Y-%m-%d")))
    original.push_to_hub(REPO)
    same_types = load_recsys(REPO)
    assert same_types.fingerprint == original.fingerprint
    assert same_types.interactions.features == original.interactions.features


# ---- what lies in the repo


def test_the_repo_reads_without_our_package(hub):
    original = make().leave_one_out()
    original.push_to_hub(REPO, license="cc-by-4.0")
    assert set(datasets.get_dataset_config_names(REPO)) == {"interactions", "items", "quarantine"}
    loaded = datasets.load_dataset(REPO, "interactions")
    counts = {name: len(rows) for name, rows in loaded.items()}
    assert counts == original.coverage.splits
    assert set(loaded["train"]["split"]) == {0} and set(loaded["test"]["split"]) == {2}
    rows = datasets.load_dataset(REPO, "items", split="train")
    assert isinstance(rows.features["image"], datasets.Image) and rows.features["image"].decode
    assert rows[0]["image"].tobytes() == original.item(0)["image"].tobytes()
    assert rows[1]["image"] is None
    # An image of which only the name is known: a reader who decodes must not be made to open that name.
    assert rows[3]["image"] is None and rows[3]["image_path"] == "/etc/hostname"
    assert len(datasets.load_dataset(REPO, "quarantine", split="train")) == len(original.quarantine) == 1
    card = HfApi().dataset_info(REPO).card_data
    assert card.license == "cc-by-4.0"
    assert [config["config_name"] for config in card.configs] == ["interactions", "items", "quarantine"]


def test_the_card_of_the_caller_keeps_its_text_and_gets_the_configs(hub):
    mine = "---\nlicense: mit\nconfigs:\n- config_name: items\n  data_files: wrong.csv\n---\n# Mine\n--- rule\n"
    make().push_to_hub(REPO, card=mine)
    text = hub.files(REPO, kind="datasets")[CARD_FILE].decode()
    assert text.endswith("---\n# Mine\n--- rule\n") and "wrong.csv" not in text and "license: mit" in text
    assert load_recsys(REPO).fingerprint == make().fingerprint
    make().push_to_hub(REPO, card="Only words.", readme="replace")
    assert hub.files(REPO, kind="datasets")[CARD_FILE].decode().endswith("---\nOnly words.")
    assert load_recsys(REPO).fingerprint == make().fingerprint
    again = hub.files(REPO, kind="datasets")[CARD_FILE].decode()
    make().push_to_hub(REPO, card=again)
    assert hub.files(REPO, kind="datasets")[CARD_FILE].decode() == again  # the right configs are left as written
    for bad, why in (("---\na: b\n", "never closes"), ("---\n[1\n---\n", "no YAML"), ("---\n- a\n---\n", "list")):
        with pytest.raises(ValueError, match=f"`card`.*{why}"):
            make().push_to_hub(REPO, card=bad)


def test_the_card_tells_the_numbers_and_how_to_load(hub):
    original = make(name="A\n# fake heading").leave_one_out()
    original.push_to_hub(REPO)
    text = hub.files(REPO, kind="datasets")[CARD_FILE].decode()
    assert [line for line in text.splitlines() if "fake heading" in line and line.startswith("# ")] == [
        "# A # fake heading"
    ]
    for name, count in original.coverage.to_dict().items():
        assert isinstance(count, dict) or f"| {name.replace('_', ' ')} | {count} |" in text
    scope = {}
    snippet = text.split("```python\n")[1].split("```")[0]
    exec(snippet, scope)
    assert scope["dataset"].n_items == 5


def test_the_card_is_the_one_of_the_command(hub, tmp_path):
    """By `push_to_hub`, by `push` of the saved folder, and as `render_dataset_card` makes it."""
    original = make().leave_one_out()
    original.push_to_hub(REPO, tag="v1.0", license="mit")
    text = hub.files(REPO, kind="datasets")[CARD_FILE].decode()
    assert text == render_dataset_card(DatasetFacts.from_dataset(original, REPO, "v1.0", "mit"))
    original.save(tmp_path / "prepared")
    done = push(tmp_path / "prepared", "org/other", tag="v1.0", license="mit")
    other = hub.files("org/other", kind="datasets")
    assert other[CARD_FILE].decode() == render_dataset_card(
        DatasetFacts.from_dataset(original, "org/other", "v1.0", "mit")
    )
    assert done.fingerprint == original.fingerprint and done.new
    assert str(done) == f"Published: {done.url} (commit {done.oid[:8]}, fingerprint {original.fingerprint[:16]})"
    again = push(tmp_path / "prepared", "org/other", tag="v1.0", license="mit")
    assert again == done and not again.new and str(again).startswith("Already published: ")


def test_push_refuses_what_it_cannot_publish(hub, tmp_path):
    make().save(tmp_path / "prepared")
    with pytest.raises(
        ValueError, match="`report_name` 'sft' names a model in a report, but `source` holds a dataset"
    ):
        push(tmp_path / "prepared", REPO, report_name="sft")
    with pytest.raises(ValueError, match="`card` must be one of"):
        push(tmp_path / "prepared", REPO, card="perhaps")
    with pytest.raises(ValueError, match="`source` '.*absent' is no folder"):
        push(tmp_path / "absent", REPO)
    assert hub.repos == {}


def test_the_same_data_under_another_tag_keeps_the_card_that_pins_the_first(hub):
    first = make().push_to_hub(REPO, tag="v1.0")
    assert 'revision="v1.0"' in hub.files(REPO, "v1.0", "datasets")[CARD_FILE].decode()
    second = make().push_to_hub(REPO, tag="v2.0")
    third = make().leave_one_out().push_to_hub(REPO, tag="v3.0")  # other data
    assert first.oid == second.oid != third.oid and (first.new, second.new, third.new) == (True, False, True)
    assert 'revision="v3.0"' in hub.files(REPO, "v3.0", "datasets")[CARD_FILE].decode()


def test_many_shards_and_then_fewer(hub):
    original = make([{**items()[0], "item_id": f"i{i}", "image": png(i, (40, 40))} for i in range(30)]).leave_one_out()
    HfApi().create_repo(REPO, repo_type="dataset")
    HfApi().upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=b"terms", path_in_repo="LICENSE")
    first = original.push_to_hub(REPO, max_shard_size="20kB")
    shards = [path for path in paths(hub) if path.startswith("items/")]
    assert len(shards) > 4 and shards[0] == f"items/train-00000-of-{len(shards):05d}.parquet"
    assert [str(path) for path in info(hub)["files"]] == [p for p in paths(hub) if p.endswith(".parquet")]
    same(original, load_recsys(REPO))
    second = make().leave_one_out()
    second.push_to_hub(REPO)
    assert [path for path in paths(hub) if path.startswith("items/")] == ["items/train-00000-of-00001.parquet"]
    assert "LICENSE" in paths(hub)
    same(second, load_recsys(REPO))
    same(original, load_recsys(REPO, revision=first.oid))
    with pytest.raises(ValueError, match="`max_shard_size`.*'much'"):
        original.push_to_hub(REPO, max_shard_size="much")
    with pytest.raises(ValueError, match="`max_shard_size`.*0"):
        original.push_to_hub(REPO, max_shard_size=0)


def test_the_quarantine_may_stay_at_home(hub):
    original = make()
    original.push_to_hub(REPO)
    assert any(path.startswith("quarantine/") for path in paths(hub))
    original.push_to_hub(REPO, quarantine=False)
    assert not any(path.startswith("quarantine/") for path in paths(hub))
    assert b"nowhere" not in b"".join(hub.files(REPO, kind="datasets").values())
    loaded = load_recsys(REPO)
    assert loaded.fingerprint == original.fingerprint and len(loaded.quarantine) == 0


def test_pushing_the_same_again_makes_no_commit(hub):
    one = make().push_to_hub(REPO, tag="v1")
    two = make().push_to_hub(REPO, tag="v2")
    assert one.oid == two.oid and len(hub.history(REPO, "datasets")) == 2
    assert hub.repo(REPO, "datasets").tags == {"v1": one.oid, "v2": one.oid}


def test_old_versions_stay_as_they_were(hub):
    first, second = make(), make().leave_one_out()
    first.push_to_hub(REPO, tag="v1.0")
    second.push_to_hub(REPO, tag="v2.0")
    same(first, load_recsys(REPO, revision="v1.0"))
    same(second, load_recsys(REPO, revision="v2.0"))
    same(second, load_recsys(REPO))


# ---- what goes wrong


@pytest.mark.parametrize("name", ["shop", "org/", "/shop", "org/a/b", "org/sh op", "org/-shop-", "org/a..b", ""])
def test_a_malformed_id_is_refused_before_anything_is_asked(hub, name):
    with pytest.raises(ValueError, match="`repo_id`"):
        make().push_to_hub(name)
    assert hub.requests == []


@pytest.mark.parametrize("tag", ["", "v 1", "-v", "a..b", "v1.lock", "v1/", "v~1", "main", "HEAD", "a" * 40])
def test_a_malformed_tag_is_refused_before_anything_is_asked(hub, tag):
    with pytest.raises(ValueError, match="`tag`"):
        make().push_to_hub(REPO, tag=tag)
    assert hub.requests == []


def test_the_same_tag_again_for_the_same_data_is_no_error(hub):
    first = make().push_to_hub(REPO, tag="v1.0")
    commits = hub.history(REPO, "datasets")
    assert make().push_to_hub(REPO, tag="v1.0") == first
    assert hub.history(REPO, "datasets") == commits


def test_the_same_tag_again_for_data_that_came_from_there_is_no_error(hub):
    first = make().push_to_hub(REPO, tag="v1.0", license="mit")
    commits = hub.history(REPO, "datasets")
    loaded = load_recsys(REPO, revision="v1.0")  # it has a source now, which `dataset.json` would tell
    assert loaded.push_to_hub(REPO, tag="v1.0") == first
    assert loaded.push_to_hub(REPO, tag="v1.0", license="mit") == first
    card = hub.files(REPO, kind="datasets")[CARD_FILE].decode()
    assert loaded.push_to_hub(REPO, tag="v1.0", card=card) == first
    assert hub.history(REPO, "datasets") == commits
    # What was asked for and is not there is not passed over in silence.
    for other in ({"license": "cc0-1.0"}, {"card": "Other words."}):
        with pytest.raises(ValueError, match="`tag` 'v1.0' already names commit"):
            loaded.push_to_hub(REPO, tag="v1.0", **other)
    assert hub.history(REPO, "datasets") == commits


@pytest.mark.parametrize("there", [None, b"[]", b"no json", b'{"fingerprint": 3}'])
def test_a_tag_of_something_else_is_taken(hub, there):
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    if there is not None:
        api.upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=there, path_in_repo=INFO_FILE)
    api.create_tag(REPO, tag="v1.0", repo_type="dataset")
    with pytest.raises(ValueError, match="`tag` 'v1.0' already names commit"):
        make().push_to_hub(REPO, tag="v1.0")


def test_the_licence_stays_until_another_is_given(hub):
    def licence():
        return HfApi().dataset_info(REPO).card_data.get("license")

    first = make().push_to_hub(REPO, license="other")
    assert make().push_to_hub(REPO).oid == first.oid and licence() == "other"
    load_recsys(REPO).leave_one_out().push_to_hub(REPO)
    assert licence() == "other"
    make().push_to_hub(REPO, license="mit")
    assert licence() == "mit"
    make().push_to_hub(REPO, card="Words of my own.", readme="replace")  # that card says what it says
    assert licence() is None
    make().push_to_hub(REPO, readme="replace")
    HfApi().upload_file(
        repo_id=REPO, repo_type="dataset", path_or_fileobj=b"---\nlicense: gpl\n---\nx", path_in_repo=CARD_FILE
    )
    make().push_to_hub(REPO, readme="replace")  # nor is a stranger's licence ours to give
    assert licence() == "unknown"


def test_a_token_in_a_card_is_not_published(hub):
    with pytest.raises(ValueError, match="`card` holds what looks like a Hub token") as caught:
        make().push_to_hub(REPO, card=f"Log in with hf_{'k' * 34}")
    assert "kkk" not in str(caught.value) and hub.repos == {}


def test_a_card_somebody_changed_is_kept(hub, tmp_path):
    from huggingface_hub import HfApi

    make().push_to_hub(REPO)
    make().leave_one_out().push_to_hub(REPO)  # ours over ours
    HfApi().upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=b"Mine.\n", path_in_repo="README.md")
    with pytest.raises(ValueError, match="`readme`: README.md of .* was written or changed by hand"):
        make().push_to_hub(REPO)
    make().save(tmp_path / "data")
    with pytest.raises(ValueError, match="`card`: README.md of"):
        push(tmp_path / "data", REPO)  # which knows it by another name
    kept = push(tmp_path / "data", REPO, card="keep", license="mit")
    assert kept.notes() == [f"`license` 'mit' changed nothing at {REPO}: its card is kept as it is."]
    assert make().push_to_hub(REPO, readme="keep").notes() == []
    assert hub.files(REPO, kind="datasets")["README.md"] == b"Mine.\n"
    with pytest.raises(ValueError, match="`card` is given, and `readme` 'keep'"):
        make().push_to_hub(REPO, card="Words.", readme="keep")
    make().push_to_hub(REPO, readme="replace", license="mit")
    assert b"license: mit" in hub.files(REPO, kind="datasets")["README.md"]
    make().push_to_hub(REPO, license="cc0-1.0")  # a card whose front matter was set is still ours
    with pytest.raises(ValueError, match="`readme` must be one of"):
        make().push_to_hub(REPO, readme="perhaps")


def test_a_taken_tag_is_refused_before_anything_is_uploaded(hub):
    first = make().push_to_hub(REPO, tag="v1.0")
    hub.requests.clear()
    with pytest.raises(ValueError, match=f"`tag` 'v1.0' already names commit {first.oid[:8]}"):
        make().leave_one_out().push_to_hub(REPO, tag="v1.0")
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}
    assert hub.repo(REPO, "datasets").tags == {"v1.0": first.oid}


def test_without_the_right_to_write_nothing_is_made(hub, monkeypatch):
    with pytest.raises(ValueError, match="`token` gives no right to write 'somebody/shop' .403."):
        make().push_to_hub("somebody/shop")
    make().push_to_hub(REPO)
    hub.read_only.add(REPO)
    with pytest.raises(ValueError, match="403") as caught:
        make().leave_one_out().push_to_hub(REPO)
    assert hub.token not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="401"):
        make().push_to_hub("org/other")
    with pytest.raises(ValueError, match="401|token"):
        make().push_to_hub("org/other", token="hf_wrong")
    assert list(hub.repos) == [("datasets", REPO)] and len(hub.history(REPO, "datasets")) == 2


def test_a_commit_of_somebody_else_is_not_undone(hub):
    make().push_to_hub(REPO, tag="v1")

    def interfere(method, path, status):
        if "/preupload/" in path:
            hub.after_request = None
            HfApi().upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=b"x", path_in_repo="x.txt")

    hub.after_request = interfere
    with pytest.raises(ValueError, match="nothing was published"):
        make().leave_one_out().push_to_hub(REPO, tag="v2")
    assert "x.txt" in paths(hub) and list(hub.repo(REPO, "datasets").tags) == ["v1"]
    assert load_recsys(REPO).fingerprint == make().fingerprint


@pytest.mark.parametrize("fault", [{"drop": "after"}, {"drop": "before"}, {"status": 503}])
def test_a_commit_whose_answer_is_lost_is_made_once(hub, no_waiting, fault):
    hub.fail("POST", "/commit/", **fault)
    pushed = make().push_to_hub(REPO, tag="v1")
    assert hub.history(REPO, "datasets")[0] == pushed.oid and len(hub.history(REPO, "datasets")) == 2
    same(make(), load_recsys(REPO, revision="v1"))


@pytest.mark.parametrize("request_", [("POST", "/info/lfs/"), ("PUT", "/lfs/"), ("POST", "/commit/")])
def test_a_hub_that_keeps_failing_leaves_nothing_half_done(hub, no_waiting, request_):
    make().push_to_hub(REPO, tag="v1")
    hub.fail(*request_, 500, times=1000)
    with pytest.raises(ConnectionError, match="again"):
        make().leave_one_out().push_to_hub(REPO, tag="v2")
    hub.faults.clear()
    assert len(hub.history(REPO, "datasets")) == 2 and list(hub.repo(REPO, "datasets").tags) == ["v1"]
    assert make().leave_one_out().push_to_hub(REPO, tag="v2").tag == "v2"  # and the next try is not in its way


def test_a_commit_that_does_not_come_back_equal_gets_no_tag(hub):
    def spoil(method, path, status):
        if "/commit/main" in path and method == "POST":
            commit = hub.repo(REPO, "datasets").resolve("main")
            name = "items/train-00000-of-00001.parquet"
            commit.files[name] = hub.store(with_other_image(hub.blobs[commit.files[name]]), large=True)
            found = json.loads(hub.blobs[commit.files[INFO_FILE]])
            found["files"][name] = len(hub.blobs[commit.files[name]])
            commit.files[INFO_FILE] = hub.store(json.dumps(found).encode())

    hub.after_request = spoil
    with pytest.raises(ValueError, match="no tag was made"):
        make().push_to_hub(REPO, tag="v1")
    assert hub.repo(REPO, "datasets").tags == {}
    assert make().push_to_hub("org/unchecked", tag="v1", verify=False).tag == "v1"
