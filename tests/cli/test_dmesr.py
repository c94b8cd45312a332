"""DMESR from the command line to the Hub and back, on a small shop."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import DMESRModel, RecDataset, load_model, make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.descriptions import EncodedItems
from vlm2rec_hf.evaluation import rank_head
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.hub_cards.publish import publish_model

COLUMNS = ["--text_column", "title", "--image_column", "description", "--both_column", "text", "--lsa_dim", "16"]
TRAINING = ["--num_train_epochs", "2", "--per_device_train_batch_size", "16", "--hidden_size", "16", "--max_length"]
TRAINING += ["12", "--use_cpu", "true", "--disable_tqdm", "true", "--warmup_steps", "2"]
REPO = "org/shop-dmesr"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shop"
    make_demo_shop(60, n_users=80).dataset().save(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "items.safetensors"
    command = ["encode-descriptions", "--dataset", str(data), "--text_encoder", "lsa", "--output", str(path)]
    assert main([*command, *COLUMNS, "--max_fine_tokens", "8"]) == 0
    return path


@pytest.fixture(scope="module")
def trained(data, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "dmesr"
    command = ["train", "--method", "dmesr", "--dataset", str(data), "--inputs", str(inputs), "--output_dir"]
    assert main([*command, str(folder), *TRAINING]) == 0
    return folder


def test_the_report_holds_what_the_saved_model_ranks(trained, data, inputs):
    model = load_model(str(trained))
    assert type(model) is DMESRModel and model.inputs is None
    assert model.config.embedder == "lsa" and model.config.embedder_revision.startswith("sha256:")
    assert model.config.inputs_fingerprint == EncodedItems.load(inputs).fingerprint
    report = Report.load(trained / "evaluation")
    assert report.methods == ["dmesr-sasrec"] and {"head_items", "tail_items"} <= set(report.slices)
    ranking = rank_head(model, RecDataset.load(data).examples("test", max_history=12))
    assert ranking.ranks.tolist() == report.ranks("dmesr-sasrec").tolist()


@pytest.mark.parametrize("encoder", ["gru4rec", "bert4rec"])
def test_descriptions_may_be_encoded_on_the_spot(encoder, data, tmp_path):
    command = ["train", "--method", "dmesr", "--dataset", str(data), "--text_encoder", "lsa", "--output_dir"]
    command += [str(tmp_path / "model"), "--encoder", encoder, "--item_representation", "content+id", "--max_users"]
    assert main([*command, "10", *COLUMNS, *TRAINING, "--loss", "bce", "--n_negatives", "1"]) == 0
    model = load_model(str(tmp_path / "model"))
    assert model.config.encoder == encoder and model.item_embedding is not None
    assert len(Report.load(tmp_path / "model" / "evaluation")) == 10


def test_recommend_prints_what_the_model_says(trained, capsys):
    assert main(["recommend", "--model", str(trained), "--history", "p000003,p000001", "-k", "4"]) == 0
    (found,) = load_model(str(trained)).recommend([["p000003", "p000001"]], 4)
    assert [line.split()[1] for line in capsys.readouterr().out.strip().splitlines()[1:]] == found.item_ids


def test_pushed_and_pulled_by_revision(hub, trained, capsys):
    assert main(["push", str(trained), REPO, "--tag", "v1.0", "--license", "mit"]) == 0
    assert "vectors equal to 0.0e+00" in capsys.readouterr().out
    files = hub.files(REPO, "v1.0")
    assert {
        "model.safetensors",
        "modeling_dmesr.py",
        "fusion_dmesr.py",
        "modeling_seqrec.py",
        "encoders_seqrec.py",
    } <= set(files)
    model = AutoModel.from_pretrained(REPO, revision="v1.0")
    ours = load_model(str(trained))
    assert type(model) is DMESRModel and torch.equal(model.item_vectors(), ours.item_vectors())
    card = files["README.md"].decode()
    assert "- dmesr" in card and "2602.13715" in card and "1808.09781" in card and "DMESR" in card
    assert "embedder's" not in card and "three descriptions" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(snippet, "card", "exec"), {})
    assert "[Recommendation(" in capsys.readouterr().out


def test_a_folder_without_a_catalogue_is_refused(hub, trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "catalogue.parquet").unlink()
    with pytest.raises(ValueError, match="has no catalogue.parquet"):
        publish_model(tmp_path / "copy", REPO)
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--method", "dmesr", "--dataset", "DATA", "--output_dir", "x"], "exactly one of `--inputs`"),
        (
            ["train", "--method", "dmesr", "--dataset", "DATA", "--output_dir", "x", "--inputs", "no"],
            "`--inputs` 'no'",
        ),
        (
            ["train", "--method", "dmesr", "--dataset", "DATA", "--text_encoder", "lsa", "--output_dir", "x"],
            "describe",
        ),
        (["encode-descriptions", "--dataset", "DATA", "--output", "x"], "describe"),
        (["encode-descriptions", "--dataset", "DATA", "--output", "x", *COLUMNS], "`--text_encoder`"),
        (["encode-descriptions", "--dataset", "DATA", *COLUMNS], "`--output`"),
        (["encode-descriptions", "--dataset", "absent", "--output", "x", "--max_fine_tokens", "0"], "`--max_fine_t"),
        (["encode-descriptions", "--dataset", "absent", "--output", "x", "--encode_batch_size", "0"], "`--encode_b"),
        (
            ["encode-descriptions", "--dataset", "DATA", "--output", "x", "--text_encoder", "no/such", *COLUMNS],
            "no/such",
        ),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(command, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(data) if part == "DATA" else part for part in command]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(list(tmp_path.iterdir())) == 0


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*dmesr*.yaml")), ids=lambda path: path.name)
def test_recipes_name_options_that_exist(recipe, tmp_path):
    from vlm2rec_hf.cli.parsing import option_of, parse
    from vlm2rec_hf.cli.train_dmesr import CHEAP
    from vlm2rec_hf.trainers.dmesr_args import DMESRTrainingArguments

    words = ["--config", str(recipe), "--dataset", "x", "--output_dir", str(tmp_path)]
    assert option_of(words, "method") == "dmesr"
    words += ["--use_cpu", "true", "--bf16", "false"]
    _, _, model, described, _, training = parse("train", "", (*CHEAP, DMESRTrainingArguments), words)
    assert bool(described.text_encoder) != recipe.name.startswith("paper_")  # those train on what was encoded before
    assert model.encoder == "sasrec" and 0.01 <= training.alignment_weight <= 0.1


def test_the_plain_head_gets_the_same_budget(tmp_path):
    import yaml

    from vlm2rec_hf.cli.parsing import option_of, parse
    from vlm2rec_hf.cli.train_seqrec import CHEAP
    from vlm2rec_hf.trainers.seqrec_args import SeqRecTrainingArguments

    plain = RECIPES / "head_ml1m.yaml"
    words = ["--config", str(plain), "--dataset", "x", "--output_dir", str(tmp_path)]
    _, _, head, *_ = parse("train", "", (*CHEAP, SeqRecTrainingArguments), words)
    assert option_of(words, "method") == "seqrec" and head.item_representation is None  # which means id
    ours, theirs = (yaml.safe_load(path.read_text()) for path in (RECIPES / "dmesr_ml1m.yaml", plain))
    assert (ours.pop("method"), theirs.pop("method")) == ("dmesr", "seqrec")
    assert {name: ours[name] for name in theirs} == theirs
