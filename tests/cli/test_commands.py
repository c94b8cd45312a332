"""The commands, run in process on a small shop: what they write, print and refuse."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm2rec_hf import RecDataset, load_model, make_demo_shop, open_recommender
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.evaluation.report import Report

SIZES = ["--hidden_size", "32", "--vision_hidden_size", "32", "--image_size", "28"]
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
EMBEDDERS = [path for path in RECIPES if "method:" not in path.read_text() and not path.stem.startswith("head_")]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of parquet files, as a user would bring it."""
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("raw")
    shop = make_demo_shop(60, n_users=60)
    pq.write_table(pa.Table.from_pylist(shop.interactions()), folder / "interactions.parquet")
    pq.write_table(pa.Table.from_pylist(shop.items()), folder / "items.parquet")
    return folder


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    assert main(["prepare", "--dataset", str(raw), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    command = ["train", "--dataset", str(prepared), "--tiny", "qwen2_vl", *SIZES, "--max_steps", "2"]
    command += ["--per_device_train_batch_size", "8", "--warm_up_backbone", "2", "--warm_up_batch_size", "16"]
    command += ["--output_dir", str(folder), "--use_cpu", "true", "--save_strategy", "no", "--max_users", "20"]
    command += ["--max_history", "2"]  # not the default: `evaluate` has to know it from the model
    assert main(command) == 0
    return folder


def test_prepare_saves_a_split_dataset(prepared):
    dataset = RecDataset.load(prepared)
    assert dataset.split_spec["kind"] == "leave_one_out"
    assert dataset.n_items == 60


def test_train_leaves_a_model_and_a_report(trained):
    report = Report.load(trained / "evaluation")
    assert report.methods == ["wpcl+crtr+unimodal"]
    assert set(report.views("wpcl+crtr+unimodal")) == {"text", "image", "both"}
    assert len(report) == 20
    assert (trained / "model.safetensors").is_file()
    assert (trained / "processor_config.json").is_file()


def test_evaluate_repeats_what_train_reported(trained, prepared, tmp_path, capsys):
    output = tmp_path / "report"
    command = ["evaluate", "--dataset", str(prepared), "--model", str(trained), "--output", str(output)]
    assert main([*command, "--max_users", "20", "--without", "text, image"]) == 0
    first, second = Report.load(trained / "evaluation"), Report.load(output)
    for view in ("text", "image", "both"):
        assert first.ranks("wpcl+crtr+unimodal", view).tolist() == second.ranks("wpcl+crtr+unimodal", view).tolist()
    assert second.methods[1:] == [f"wpcl+crtr+unimodal without {what}" for what in ("texts", "images")]
    assert "popularity (floor)" in capsys.readouterr().out
    assert main([*command, "--without", "texts"]) == 2
    assert "`--without` must hold some of" in capsys.readouterr().err


def test_evaluate_and_train_share_a_vision_cache(trained, prepared, tmp_path):
    cache, command = tmp_path / "cache", ["--dataset", str(prepared), "--max_users", "20"]
    for run in ("first", "second"):
        words = ["--model", str(trained), "--vision_cache_dir", str(cache), "--vision_cache_dtype", "bfloat16"]
        assert main(["evaluate", *command, *words, "--output", str(tmp_path / run)]) == 0
        (folder,) = cache.iterdir()
        assert len(list(folder.glob("*.segment"))) == 1  # the second run had nothing to add
    words = ["--model", str(trained), "--vision_cache_dir", str(cache), "--vision_cache_dtype", "bfloat16"]
    words += ["--max_steps", "1", "--per_device_train_batch_size", "8", "--use_cpu", "true", "--save_strategy", "no"]
    assert main(["train", *command, *words, "--output_dir", str(tmp_path / "model"), "--lora", "true"]) == 0
    assert len(list(folder.glob("*.segment"))) == 1 and len(list(cache.iterdir())) == 1


def test_embed_writes_every_item(trained, prepared, tmp_path):
    output = tmp_path / "items.parquet"
    command = ["embed", "--dataset", str(prepared), "--model", str(trained), "--output", str(output)]
    assert main(command) == 0
    table = pq.read_table(output)
    assert table["item_id"].to_pylist() == RecDataset.load(prepared).item_ids.tolist()
    row = table.slice(7, 1).to_pylist()[0]
    assert len(row["both"]) == 32
    assert row["both"] == pytest.approx([a + b for a, b in zip(row["text"], row["image"], strict=True)], abs=1e-6)
    assert main(command) == 2  # never overwrites


def test_quickstart_prints_one_json_line(tmp_path, capsys):
    output = tmp_path / "run"
    command = ["quickstart", "--output", str(output), "--items", "60", "--users", "60", "--steps", "2"]
    command += ["--warm_up_backbone", "2", "--batch_size", "8", "--json"]
    assert main(command) == 0
    printed, said = capsys.readouterr()
    found = json.loads(printed.strip().splitlines()[-1])
    assert set(found) == {"results", "seconds", "peak_rss_mb", "embedder", "head"}
    methods = {"zero_shot", "sft", "vlm2rec", "head", "popularity", "repeat_last", "transition"}
    methods |= {"item_knn", "ease", "oracle"}
    assert set(found["results"]) == methods
    for method, views in found["results"].items():
        learned = method in ("zero_shot", "sft", "vlm2rec")
        assert set(views) == ({"text", "image", "both"} if learned else {"both"})
        assert all(set(values) == {"hit@10", "ndcg@10"} for values in views.values())
    names = {"embedder", "head", "report.json", "per_user.parquet", "margins.png", "views.png", "recommendations.html"}
    names |= {"shop", "index"}
    assert f"vlm2rec serve {output}" in said and open_recommender(output).index.path == output / "index"
    assert {path.name for path in output.iterdir()} == names
    assert "The head recommends" in printed and "<img" in (output / "recommendations.html").read_text()
    head = load_model(found["head"])
    assert head.config.embedder == found["embedder"] and len(head.catalogue) == 60
    # What the report holds is what was printed.
    report = Report.load(output)
    assert report.metrics["sft"]["image"]["hit@10"]["mean"] == pytest.approx(
        found["results"]["sft"]["image"]["hit@10"], abs=1e-6
    )
    # A second run keeps the first one's results.
    assert main(command) == 0
    assert (tmp_path / "run.old-1" / "report.json").is_file()
    assert not list(tmp_path.glob(".*partial*"))


def test_config_file_is_read_and_the_command_line_wins(raw, tmp_path):
    config = tmp_path / "prepare.yaml"
    config.write_text(f"dataset: {raw}\noutput: {tmp_path / 'from-config'}\nk_core: 3\n")
    assert main(["prepare", "--config", str(config), "--output", str(tmp_path / "from-line")]) == 0
    assert not (tmp_path / "from-config").exists()
    steps = RecDataset.load(tmp_path / "from-line").steps
    assert next(step for step in steps if step["step"] == "k_core")["k"] == 3


@pytest.mark.parametrize("recipe", EMBEDDERS, ids=lambda path: path.stem)
def test_recipes_parse(recipe, tmp_path):
    from vlm2rec_hf.cli.parsing import parse
    from vlm2rec_hf.cli.train_vlm2rec import CHEAP
    from vlm2rec_hf.trainers.vlm2rec_args import VLM2RecTrainingArguments

    options = ["--config", str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"]
    _, data, models, *_, training = parse("train", "", (*CHEAP, VLM2RecTrainingArguments), options)
    assert data.k_core == 5
    assert (models.model is None) != (models.tiny is None)
    plain = VLM2RecTrainingArguments(str(tmp_path))  # what the study chose, for every data set
    for name in ("objective", "wpcl_lambda", "margin", "crtr_beta", "temperature", "crtr_temperature"):
        assert str(getattr(training, name)) == str(getattr(plain, name)), name


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--dataset", "no-such-folder", "--tiny", "qwen2_vl", "--output_dir", "x"], "no-such-folder"),
        (["prepare", "--output", "x"], "--dataset"),
        (["quickstart", "--items", "5"], "`--items`"),
        (["quickstart", "--steps", "0"], "--steps"),
        (["prepare", "--config", "absent.yaml"], "absent.yaml"),
        (["evaluate", "--dataset", "DATA", "--model", "DATA", "--output", "x"], "config.json"),
        (["evaluate", "--dataset", "DATA", "--model", "m", "--output", "x", "--ks", "ten"], "`--ks`"),
        (["train", "--dataset", "DATA", "--output_dir", "x"], "--model"),
        (["train", "--dataset", "DATA", "--tiny", "bert", "--output_dir", "x"], "`--tiny` must be one of"),
        (
            ["train", "--dataset", "DATA", "--tiny", "qwen2_vl", "--objective", "magic", "--output_dir", "x"],
            "objective",
        ),
        (["train", "--dataset", "DATA", "--tiny", "qwen2_vl", "--temperature", "-1", "--output_dir", "x"], "temperat"),
        (["prepare", "--dataset", "DATA", "--k_core", "3", "--output", "x"], "split"),
        (
            ["train", "--dataset", "DATA", "--tiny", "qwen3_vl", "--template", "qwen", "--output_dir", "x"],
            "`--template` must be one of ['qwen3_vl_embedding']",
        ),
        (
            [
                "train",
                "--method",
                "pixrec",
                "--dataset",
                "DATA",
                "--tiny",
                "qwen3_vl",
                "--template",
                "qwen3_vl_embedding",
                "--output_dir",
                "x",
            ],
            "`--template` 'qwen3_vl_embedding' is for `--method vlm2rec`",
        ),
        (
            "train --method pixrec --dataset DATA --tiny qwen2_vl --fusion internal --output_dir x".split(),
            "`--fusion` 'internal' is for `--method vlm2rec`",
        ),
        (
            "train --dataset DATA --language_model m --template qwen3_vl_embedding --output_dir x".split(),
            "`--template` 'qwen3_vl_embedding' goes with `--model` or `--tiny`",
        ),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(command, message, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(prepared) if part == "DATA" else part for part in command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "message"), [("a: [1,", "no YAML"), ("- 1", "option: value"), ("stepz: 3", "stepz")]
)
def test_bad_config_files_are_refused(content, message, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(content)
    assert main(["quickstart", "--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_columns_are_renamed(tmp_path):
    raw = tmp_path / "log.csv"
    raw.write_text("who,what,timestamp\n" + "".join(f"u{u},i{(u + k) % 7},{k}\n" for u in range(6) for k in range(4)))
    command = ["prepare", "--dataset", str(raw), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert main([*command, "--column_mapping", "who=user_id,what=item_id"]) == 0
    assert RecDataset.load(tmp_path / "out").n_users == 6


@pytest.mark.parametrize("command", [["nonsense"], ["prepare", "--no-such-option", "1"], []])
def test_bad_usage_is_exit_code_2(command, capsys):
    assert main(command) == 2


def test_help_and_version(capsys):
    import vlm2rec_hf

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == vlm2rec_hf.__version__
    assert main(["--help"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "--wpcl_lambda" in capsys.readouterr().out


def test_train_asks_the_command_line_then_the_config_for_the_method(tmp_path):
    from vlm2rec_hf.cli.parsing import option_of
    from vlm2rec_hf.cli.train import main

    config = tmp_path / "run.yaml"
    config.write_text("method: other\nseed: 3\n")
    assert option_of(["--dataset", "shop"], "method") is None
    assert option_of(["--config", str(config)], "method") == "other"
    assert option_of([f"--config={config}", "--method=vlm2rec", "--seed", "1"], "method") == "vlm2rec"
    with pytest.raises(ValueError, match=r"`--method` must be one of vlm2rec, .* got 'other'"):
        main(["--config", str(config)])
