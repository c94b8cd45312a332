"""Jobs in one process: what they write, go on with, refuse and clear up."""

import json
import warnings

import pyarrow.parquet as pq
import pytest

from vlm2rec_hf.catalogues.vector_files import read_manifest
from vlm2rec_hf.jobs.run_local import run_here

from .small_jobs import N_ITEMS, QUARANTINED, leftovers, run, small_dataset, small_job, small_model, table_of


def failing_after(count):
    """An engine whose process fails after `count` shards."""

    def engine(job, shards):
        for number, done in enumerate(run_here(job, shards)):
            yield done
            if number + 1 == count:
                raise RuntimeError("the power is out")

    return engine


def begun(job, count=2):
    from vlm2rec_hf.jobs.embed import run_embed_job

    with pytest.raises(RuntimeError, match="the power is out"):
        run_embed_job(job, failing_after(count), progress=False)
    return job


def times(job):
    return {path.name: path.stat().st_mtime_ns for path in (job.folder.path / "shards").iterdir()}


@pytest.mark.parametrize("name", ["items.parquet", "items"])
def test_the_table_has_every_item_once_and_says_what_was_bad(dataset, loaded, tmp_path, name):
    job = small_job(tmp_path / "new" / name, dataset, loaded)
    result = run(job)
    assert table_of(job.output)["item_id"].to_pylist() == [f"i{i}" for i in range(N_ITEMS)]
    assert (result.items, result.dimensions, result.missing, result.shards) == (N_ITEMS, 32, 0, 6)
    assert result.quarantined == QUARANTINED
    bad = pq.read_table(result.quarantine)
    assert bad.num_rows == sum(QUARANTINED.values()) and len(set(bad["number"].to_pylist())) == 4
    assert leftovers(job.output) == []
    if job.makes_file:
        facts = {key.decode(): value.decode() for key, value in pq.read_schema(job.output).metadata.items()}
        assert json.loads(facts["quarantined"]) == QUARANTINED
        assert (facts["dataset_fingerprint"], facts["model"], facts["revision"]) == (
            dataset.fingerprint,
            "model",
            "v1",
        )
        assert pq.ParquetFile(job.output).num_row_groups == 6  # put together shard by shard
    else:
        manifest = read_manifest(job.folder.manifest)
        assert manifest["complete"] and manifest["quarantined"] == QUARANTINED
        assert [entry["rows"] for entry in manifest["shards"]] == [4] * 6
        assert {path.name for path in job.output.iterdir()} == {"manifest.json", "shards", "quarantine"}


def test_the_manifest_says_what_was_computed_by_what(dataset, loaded, tmp_path):
    job = begun(small_job(tmp_path / "items.parquet", dataset, loaded))
    manifest = read_manifest(job.folder.manifest)
    settings = manifest["settings"]
    assert settings["dataset"] == {"fingerprint": dataset.fingerprint, "items": N_ITEMS}
    assert settings["loaded"]["dtype"] == "float32" and settings["loaded"]["dimensions"] == 32
    assert settings["processor"]["max_item_tokens"] == loaded[1].max_item_tokens
    assert settings["processor"]["image_processor"]["patch_size"] == loaded[1].image_processor.patch_size
    assert settings["shards"] == {"shard_size": 4} and not manifest["complete"]
    assert {"vlm2rec-hf", "torch", "transformers"} & set(manifest["packages"])


def test_a_run_goes_on_with_what_is_missing(dataset, loaded, tmp_path):
    job = begun(small_job(tmp_path / "items", dataset, loaded))
    before = times(job)
    assert len(before) == 2
    # Not asked for a size of shards, a run keeps to what was begun.
    result = run(small_job(job.output, dataset, loaded, shard_size=None))
    assert result.shards == 6 and {name: times(job)[name] for name in before} == before
    undisturbed = small_job(tmp_path / "other", dataset, loaded)
    run(undisturbed)
    assert table_of(job.output).equals(table_of(undisturbed.output))
    after = times(job)
    assert run(job).missing == 0 and times(job) == after  # a whole one is left as it is


def other_model():
    model, processor = small_model()
    return model.half(), processor


def other_processor():
    model, processor = small_model()
    processor.max_item_tokens = 3
    return model, processor


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": lambda: small_dataset(seed=50)}, "dataset.fingerprint is"),
        ({"shard_size": lambda: 5}, "shards.shard_size is 4 there and 5 here"),
        ({"loaded": other_model}, "loaded.dtype is 'float32' there and 'float16' here"),
        ({"loaded": other_processor}, "processor.max_item_tokens is 128 there and 3 here"),
    ],
)
def test_another_job_in_the_folder_is_refused_and_named(dataset, loaded, tmp_path, change, named):
    job = begun(small_job(tmp_path / "items.parquet", dataset, loaded))
    before = times(job)
    other = {"dataset": dataset, "loaded": loaded, **{name: make() for name, make in change.items()}}
    with pytest.raises(ValueError, match=named) as caught:
        run(small_job(job.output, other.pop("dataset"), other.pop("loaded"), **other))
    assert "delete that folder" in str(caught.value) and str(job.folder.path) in str(caught.value)
    assert times(job) == before
    assert run(job).missing == 0


def test_other_versions_are_told(dataset, loaded, tmp_path):
    job = begun(small_job(tmp_path / "items.parquet", dataset, loaded))
    manifest = json.loads(job.folder.manifest.read_text())
    manifest["packages"]["torch"] = "1.0"
    job.folder.manifest.write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"torch 1\.0 -> "):
        run(job)


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really", None])
def test_a_shard_that_is_not_whole_is_computed_again(dataset, loaded, tmp_path, damage):
    job = begun(small_job(tmp_path / "items.parquet", dataset, loaded))
    path = job.folder.path / "shards" / "00001-of-00006.parquet"
    if damage is None:  # of another job
        pq.write_table(pq.read_table(path).replace_schema_metadata({"job": "another"}), path)
    else:
        path.write_bytes(damage)
    with pytest.warns(UserWarning, match="00001-of-00006.*computed again"):
        run(job)
    undisturbed = small_job(tmp_path / "other.parquet", dataset, loaded)
    run(undisturbed)
    assert table_of(job.output).equals(table_of(undisturbed.output))


def test_nothing_of_others_is_touched(dataset, loaded, tmp_path):
    table = tmp_path / "items.parquet"
    table.write_text("mine")
    with pytest.raises(ValueError, match="`--output` .* exists"):
        run(small_job(table, dataset, loaded))
    (tmp_path / "others.quarantine.parquet").write_text("mine")
    with pytest.raises(ValueError, match="would replace"):
        run(small_job(tmp_path / "others.parquet", dataset, loaded))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        run(small_job(tmp_path / "folder", dataset, loaded))
    with pytest.raises(ValueError, match="is a file"):
        run(small_job(tmp_path / "folder" / "thesis.tex", dataset, loaded))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "folder", "items.parquet", "others.quarantine.parquet", "thesis.tex"
    ]  # fmt: skip


def test_a_run_that_cannot_begin_leaves_nothing(dataset, tmp_path):
    def broken():
        raise ValueError("no such model")

    for name in ("items.parquet", "items"):
        job = small_job(tmp_path / name, dataset, None)
        object.__setattr__(job, "load_model", broken)
        with pytest.raises(ValueError, match="no such model"):
            run(job)
    assert list(tmp_path.iterdir()) == []


def test_parts_share_the_shards_and_the_last_one_makes_the_table(dataset, loaded, tmp_path):
    job = small_job(tmp_path / "items.parquet", dataset, loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = run(job, part=(0, 3))
        assert (first.missing, len(times(job))) == (4, 2) and not job.output.exists()
        assert run(job, part=(2, 3)).missing == 2
        assert run(job, part=(1, 3)).missing == 0
    assert table_of(job.output)["item_id"].to_pylist() == [f"i{i}" for i in range(N_ITEMS)]
    # A part that comes late finds the work done; one of another job does not.
    assert run(job, part=(1, 3)).quarantined == QUARANTINED
    with pytest.raises(ValueError, match="dataset.fingerprint"):
        run(small_job(job.output, small_dataset(seed=50), loaded), part=(1, 3))
    assert leftovers(job.output) == []
