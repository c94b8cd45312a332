"""`vlm2rec evaluate` says when a model was trained on other data than it is measured on."""

import json
import logging

import pytest
from huggingface_hub import HfApi

from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.demo_shop import make_demo_shop
from vlm2rec_hf.evaluation.trained_on import dataset_warning, difference
from vlm2rec_hf.loading import read_training_facts, training_facts_or_nothing

HERE = {"repo_id": "org/shop", "revision": "a" * 40}
THERE = {"repo_id": "org/shop", "revision": "b" * 40}


def test_equal_data_is_not_worth_a_word():
    assert difference({**HERE, "fingerprint": "f1"}, "f1", HERE) is None
    assert difference({**HERE, "fingerprint": "f1"}, "f1", None) is None
    assert difference({"fingerprint": "f1"}, "f1", HERE) is None
    assert difference({}, "f1", HERE) is None
    assert difference({"fingerprint": None, "repo_id": None, "revision": None}, "f1", None) is None


def test_other_content_names_both_sides():
    told = difference({**HERE, "fingerprint": "f1"}, "f2", THERE)
    for word in (
        "org/shop at " + "a" * 40,
        "org/shop at " + "b" * 40,
        "fingerprint f1",
        "fingerprint f2",
        "--revision",
    ):
        assert word in told
    assert "on data with fingerprint f1; this is data with fingerprint f2" in difference(
        {"fingerprint": "f1"}, "f2", None
    )


def test_another_revision_is_told_with_what_is_known_of_the_content():
    assert "the content is the same" in difference({**HERE, "fingerprint": "f1"}, "f1", THERE)
    assert "is not known" in difference(HERE, "f1", THERE)
    assert difference(HERE, "f1", HERE) is None


def test_the_file_is_read_from_folder_and_hub(hub, tmp_path):
    facts = {"dataset": {**HERE, "fingerprint": "f1"}}
    assert read_training_facts(tmp_path) is None
    (tmp_path / "training.json").write_text(json.dumps(facts))
    assert read_training_facts(tmp_path) == facts
    HfApi().create_repo("org/model")
    assert read_training_facts("org/model") is None
    oid = HfApi().upload_file(repo_id="org/model", path_or_fileobj=tmp_path / "training.json",
                              path_in_repo="training.json").oid  # fmt: skip
    assert read_training_facts("org/model", oid) == facts
    with pytest.raises(ValueError, match="no such model"):
        read_training_facts("org/absent")
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ValueError, match="training.json"):
        read_training_facts(tmp_path)
    (tmp_path / "training.json").write_text("[]")
    assert read_training_facts(tmp_path) is None


def test_a_damaged_file_is_logged_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "training.json").write_text("{")
    with caplog.at_level("WARNING", "vlm2rec_hf"):
        logger = logging.getLogger("vlm2rec_hf")
        logger.addHandler(caplog.handler)
        assert training_facts_or_nothing(tmp_path, None) == {}
        logger.removeHandler(caplog.handler)
    assert "Cannot tell which data" in caplog.text
    dataset = make_demo_shop(60, n_users=20).dataset()
    assert "Cannot tell which data" in dataset_warning({"dataset": 3}, dataset)
    assert dataset_warning({}, dataset) is None


def test_the_command_warns_on_stderr(tiny, tmp_path, capsys):
    dataset = make_demo_shop(60, n_users=20).dataset()
    dataset.save(tmp_path / "data")
    model, processor = tiny()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = ["evaluate", "--dataset", str(tmp_path / "data"), "--model", str(tmp_path / "model"), "--max_users", "4"]

    def told(fingerprint, number):
        (tmp_path / "model" / "training.json").write_text(json.dumps({"dataset": {"fingerprint": fingerprint}}))
        assert main([*command, "--output", str(tmp_path / f"report{number}")]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning: The model was")]

    assert told(dataset.fingerprint, 1) == []
    assert len(told("0" * 32, 2)) == 1
