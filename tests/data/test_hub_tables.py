"""What a foreign card declares is matched against the repo's files, and only plain tables within the repo pass."""

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from vlm2rec_hf.data.hub_tables import declared_tables

FILES = [
    ".gitattributes", "README.md", "a.csv", "b.csv", "data/train-0.parquet", "data/train-1.parquet",
    "data/test-0.parquet", "data/deep/x.parquet", "data/.hidden.parquet", "data/__cache__/y.parquet", "items.jsonl.gz",
    "items[1].jsonl", "items1.jsonl", "t.tsv", "w.tar", "weights.pth", "p.pkl", "p.parquet.pkl", "picture.png",
    "archive.zip", "data.parquet.gz", "UPPER.CSV", "noending", "config.json", "other/config.json", "x::y.csv",
    "z.csv.zst",
]  # fmt: skip


def tables(config, info="", files=FILES):
    card = f"---\n{info}configs:\n- config_name: other\n  data_files: https://elsewhere/x.tar\n"
    card += "- config_name: interactions\n" + "".join(f"  {line}\n" for line in config.splitlines()) + "---\n# T\n"
    return declared_tables(card, files, "org/x", ("interactions", "items"))


@pytest.mark.parametrize(
    ("config", "reader", "files"),
    [
        ("data_files: a.csv", "csv", ["a.csv"]),
        ("data_files: ./a.csv", "csv", ["a.csv"]),
        ("data_files: UPPER.CSV", "csv", ["UPPER.CSV"]),
        ("data_files: z.csv.zst", "csv", ["z.csv.zst"]),
        ("data_files: items.jsonl.gz", "json", ["items.jsonl.gz"]),
        ("data_files: [b.csv, a.csv, '?.csv']", "csv", ["b.csv", "a.csv"]),
        ("data_files: data/*", "parquet", ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]),
        ("data_files: data/**/*.parquet", "parquet",
         ["data/deep/x.parquet", "data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]),
        ("data_files: data/.*", "parquet", ["data/.hidden.parquet"]),
        ("data_files: data/__cache__/*", "parquet", ["data/__cache__/y.parquet"]),
        ("data_files:\n- split: train\n  path: data/train-*\n- split: test\n  path: [data/test-*]", "parquet",
         ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"]),
        ("data_dir: data", "parquet",
         ["data/deep/x.parquet", "data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]),
        ("data_dir: data/\ndata_files: train-0*", "parquet", ["data/train-0.parquet"]),
        ("data_files: items[[]1].jsonl", "json", ["items[1].jsonl"]),
        ("data_files: items[1].jsonl", "json", ["items1.jsonl"]),
        ("data_files: other/config.json", "json", ["other/config.json"]),
    ],
)  # fmt: skip
def test_files_of_a_config(config, reader, files):
    found = tables(config)
    assert set(found) == {"interactions"}
    assert found["interactions"] == (reader, files, {})


def test_patterns_match_what_datasets_would_match(tmp_path):
    from datasets.data_files import resolve_pattern

    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    fs = DirFileSystem(str(tmp_path), fsspec.filesystem("file"))
    assert sorted(fs.find("")) == sorted(FILES)
    for pattern in ("*.csv", "a.*", "data/**", "data/train-*", "**/x.parquet", "data/*/*.parquet", "[ab].csv",
                    "dat?/t*", "data/.hidden*", "data/__*/*", "config.json", "other/*.json"):  # fmt: skip
        try:
            theirs = [path.removeprefix(f"{tmp_path}/") for path in resolve_pattern(pattern, str(tmp_path))]
        except FileNotFoundError:
            theirs = []
        try:
            ours = tables(f"data_files: '{pattern}'", files=[f for f in FILES if "::" not in f])["interactions"].files
        except ValueError:
            ours = []
        assert ours == sorted(path for path in theirs if "::" not in path), pattern


@pytest.mark.parametrize(
    "where",
    [
        "https://127.0.0.1/x.csv", "http://x/*.csv", "hf://datasets/org/other/x.csv", "file:///etc/passwd",
        "/etc/passwd",
        "~/x.csv", "../x.csv", "data/../../x.csv", "zip://x.csv::https://host/a.zip", "x::y.csv", "C:/x.csv",
        "..\\x.csv", "s3://bucket/x.csv", "data/x.csv\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["text", "list", "split", "split list", "data_dir"])
def test_what_lies_elsewhere_is_refused(where, how):
    import yaml

    declared = {
        "text": {"data_files": where},
        "list": {"data_files": ["a.csv", where]},
        "split": {"data_files": [{"split": "train", "path": "a.csv"}, {"split": "test", "path": where}]},
        "split list": {"data_files": [{"split": "train", "path": ["a.csv", where]}]},
        "data_dir": {"data_dir": where},
    }[how]
    for name in ("interactions", "items"):
        configs = [{"config_name": "interactions", "data_files": "a.csv"}] * (name == "items")
        card = f"---\n{yaml.safe_dump({'configs': [*configs, {'config_name': name, **declared}]})}---\n"
        key = "data_dir" if how == "data_dir" else "data_files"
        with pytest.raises(
            ValueError, match=f"'org/x': the config '{name}' .*`{key}`, which is no relative path within"
        ):
            declared_tables(card, FILES, "org/x", ("interactions", "items"))


@pytest.mark.parametrize(
    "name",
    ["w.tar", "weights.pth", "p.pkl", "p.parquet.pkl", "picture.png", "archive.zip", "data.parquet.gz", "noending"],
)
def test_other_kinds_of_files_are_refused(name):
    for pattern in (name, f"{name[:-1]}?"):
        with pytest.raises(ValueError, match=f"names '{name}', which has none of the endings .parquet, .*from_tables"):
            tables(f"data_files: {pattern}")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("data_files: [a.csv, t.tsv]", r"several kinds \(a.csv, t.tsv\)"),
        ("data_files: [a.csv, data/*]", "several kinds"),
        ("data_files: none*.csv", "names 'none.*' under `data_files`, which is no file of the repo"),
        ("data_files: data", "names 'data' under `data_files`, which is no file of the repo"),
        ("data_files: 3", "neither paths nor splits"),
        ("data_files: []", "neither paths nor splits"),
        ("data_files: [[a.csv]]", "neither paths nor splits"),
        ("data_files: [{split: train}]", "neither paths nor splits"),
        ("data_files: {train: a.csv}", "neither paths nor splits"),
        ("data_files: ['']", "neither paths nor splits"),
        ("data_dir: 3", "`data_dir`, which is no relative path"),
    ],
)
def test_other_nonsense_is_refused(config, says):
    with pytest.raises(ValueError, match=says):
        tables(config)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("", r"has the configs \[\]; it needs `interactions` \(and `items`\)"),
        ("no front matter", "has the configs"),
        ("---\nconfigs: [{config_name: words}]\n---\n", r"has the configs \['words'\]"),
        ("---\nconfigs: {interactions: a.csv}\n---\n", "`configs` is no list"),
        ("---\nconfigs: [interactions]\n---\n", "`configs` is no list"),
        ("---\na: [\n---\n", "a card that has a front matter that is no YAML"),
        ("---\nx: !!python/object/apply:os.system ['true']\n---\n", "no YAML"),
        ("---\na: 1\n", "never closes"),
    ],
)
def test_cards_that_declare_nothing(card, says):
    with pytest.raises(ValueError, match=f"The dataset 'org/x' .*{says}"):
        declared_tables(card, FILES, "org/x", ("interactions", "items"))


def test_how_texts_are_read_is_heeded(caplog):
    assert tables("data_files: t.tsv")["interactions"].options == {"sep": "\t"}
    assert tables("data_files: a.csv\nsep: ';'\nskiprows: 1")["interactions"].options == {"sep": ";", "skiprows": 1}
    assert tables("data_files: items1.jsonl\nfield: rows")["interactions"].options == {"field": "rows"}
    assert caplog.records == []
    # What would drop rows, or do anything else that was not looked at, is told of.
    assert tables("data_files: a.csv\non_bad_lines: skip")["interactions"].options == {}
    assert "sets ['on_bad_lines'], which is not used for csv files" in caplog.text


def test_types_of_texts_are_heeded():
    from datasets import Features, Value

    features = "features:\n- name: user_id\n  dtype: string\n"
    expected = {"features": Features({"user_id": Value("string")})}
    assert tables(f"data_files: a.csv\n{features}")["interactions"].options == expected
    listed = "dataset_info:\n- config_name: other\n- config_name: interactions\n"
    listed += "  features:\n  - name: user_id\n    dtype: string\n"
    assert tables("data_files: a.csv", listed)["interactions"].options == expected
    assert tables("data_files: data/*", listed)["interactions"].options == {}  # parquet says itself
    with pytest.raises(ValueError, match="`features` that `datasets` cannot read"):
        tables("data_files: a.csv\nfeatures: [{name: x, dtype: {y: z}}, 3]")
