"""`vlm2rec push` and `vlm2rec merge` as a user types them."""

import json

import pytest
import torch
from huggingface_hub import HfApi

from vlm2rec_hf import RecDataset, VLM2RecEmbedder, VLM2RecProcessor, load_recsys
from vlm2rec_hf.cli.main import main


@pytest.fixture
def model(tiny, tmp_path):
    found, processor = tiny()
    found.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(demo_dataset, tmp_path):
    demo_dataset.leave_one_out().save(tmp_path / "data")
    return tmp_path / "data"


def test_push_a_model(hub, model, capsys):
    (model / "training_args.bin").write_bytes(b"pickle")
    assert main(["push", str(model), "org/shop-embedder", "--tag", "v1.0", "--license", "mit"]) == 0
    out, err = capsys.readouterr()
    commit = HfApi().repo_info("org/shop-embedder", revision="v1.0").sha
    assert out.startswith(f"Published: {hub.endpoint}/org/shop-embedder/tree/v1.0 (commit {commit[:8]}, vectors equal")
    assert "Left out: training_args.bin." in err and hub.token not in out + err
    assert "license: mit" in hub.files("org/shop-embedder", "v1.0")["README.md"].decode()
    assert main(["push", str(model), "org/shop-embedder", "--tag", "v1.0", "--license", "mit", "--no-verify"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Already published: ") and "changed nothing" not in err
    # A published version keeps its card: another licence has no effect, and that is said.
    again = ["push", str(model), "org/shop-embedder", "--no-verify"]
    assert main([*again, "--tag", "v1.0", "--license", "apache-2.0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Already published: ") and "`license` 'apache-2.0' changed nothing" in err and "v1.0" in err
    assert "license: mit" in hub.files("org/shop-embedder", "v1.0")["README.md"].decode()
    assert main([*again, "--card", "keep", "--license", "apache-2.0"]) == 0
    assert "`license` 'apache-2.0' changed nothing" in capsys.readouterr().err
    assert main([*again, "--tag", "v1.1", "--license", "apache-2.0"]) == 0
    assert "changed nothing" not in capsys.readouterr().err
    assert "license: apache-2.0" in hub.files("org/shop-embedder", "v1.1")["README.md"].decode()


def test_push_a_dataset(hub, data, capsys):
    assert main(["push", str(data), "org/shop", "--tag", "v1.0", "--license", "cc-by-4.0"]) == 0
    fingerprint = RecDataset.load(data).fingerprint
    assert f"fingerprint {fingerprint[:16]}" in capsys.readouterr().out
    assert load_recsys("org/shop", revision="v1.0").fingerprint == fingerprint
    card = hub.files("org/shop", "v1.0", kind="datasets")["README.md"].decode()
    assert "license: cc-by-4.0" in card and fingerprint in card


def test_what_goes_wrong_is_one_line_and_exit_code_2(hub, model, tmp_path, monkeypatch, capsys):
    assert main(["push", str(tmp_path / "absent"), "org/x"]) == 2
    assert "`FOLDER`" in capsys.readouterr().err
    assert main(["push", str(model), "no-owner"]) == 2
    assert "`repo_id` 'no-owner' names no owner" in capsys.readouterr().err
    assert main(["push", str(model), "other/x", "--no-verify"]) == 2
    assert "`token` gives no right to write 'other/x' (403)" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_" + "q" * 34)
    assert main(["push", str(model), "org/x", "--no-verify"]) == 2
    err = capsys.readouterr().err
    assert "(401)" in err and "hf_q" not in err and len(err.strip().splitlines()) == 1
    assert hub.repos == {}


def test_merge_an_adapter(hub, model, data, tmp_path, capsys):
    """Train an adapter on a published model by the command, merge it by the command."""
    assert main(["push", str(model), "org/base", "--no-verify"]) == 0
    common = ["--dataset", str(data), "--max_steps", "2", "--per_device_train_batch_size", "8", "--use_cpu", "true"]
    options = [
        "--model",
        "org/base",
        "--lora",
        "true",
        "--lora_r",
        "2",
        "--learning_rate",
        "0.05",
        "--max_history",
        "4",
    ]
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert main(["train", *common, *options, "--output_dir", str(adapter), "--save_strategy", "no"]) == 0
    assert (adapter / "README.md").is_file() and (adapter / "evaluation" / "views.png").is_file()
    capsys.readouterr()
    arguments = ["merge", "--model", str(adapter), "--dataset", str(data), "--probes", "8", "--output", str(merged)]
    assert main([*arguments, "--tolerance", "0"]) == 2
    assert "merging changes the vectors by up to" in capsys.readouterr().err and not merged.exists()
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert (
        out.strip() == f"Merged model -> {merged}" and "Vectors of 8 items and 8 histories changed by at most" in err
    )
    assert not list(tmp_path.glob(".merged*"))
    processor = VLM2RecProcessor.from_pretrained(merged)
    one = VLM2RecEmbedder.from_pretrained(merged).encode_items(["red tent", "x"], processor).both
    other = VLM2RecEmbedder.from_pretrained(adapter).encode_items(["red tent", "x"], processor).both
    start = VLM2RecEmbedder.from_pretrained(model).encode_items(["red tent", "x"], processor).both
    assert (one - other).abs().max() < 1e-5 < 1e-3 < (one - start).abs().max()
    told = json.loads((merged / "training.json").read_text())["merged"]
    assert told["items"] == told["histories"] == 8 and 0 < told["difference"] < 1e-4
    assert not (merged / "adapter_config.json").exists() and (merged / "modules.json").is_file()
    assert main(arguments) == 2  # never over what is there
    assert "`--output`" in capsys.readouterr().err
    assert torch.isfinite(one).all()
