"""Heads on the Hub: pushed, pulled with and without the package, by revision, with a card whose snippet runs."""

import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import SeqRecConfig, SeqRecTrainer, SeqRecTrainingArguments, SequentialRecommender
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.hub_cards.publish import publish_model

REPO = "org/shop-sasrec"


def trained(dataset, folder, seed=0, **options):
    """A small head trained on vectors of an embedder."""
    torch.manual_seed(seed)
    config = SeqRecConfig(
        n_items=dataset.n_items, hidden_size=16, num_layers=1, num_heads=1, max_length=8,
        item_representation="content+id", content_dims={"both": 8},
    )  # fmt: skip
    head = SequentialRecommender(config)
    vectors = torch.randn(dataset.n_items, 8, generator=torch.Generator().manual_seed(1))
    head.set_content({"both": vectors}, embedder="org/embedder", embedder_revision="a" * 40)
    arguments = SeqRecTrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=16, use_cpu=True, disable_tqdm=True,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, seed=seed, **options,
    )  # fmt: skip
    run = SeqRecTrainer(head, arguments, dataset)
    run.train()
    run.save_model()
    return run


@pytest.fixture
def split(demo_dataset):
    return demo_dataset if demo_dataset.split_spec["kind"] != "none" else demo_dataset.leave_one_out()


def test_pushed_and_pulled_by_revision(hub, split, tmp_path, capsys):
    run = trained(split, tmp_path / "head")
    told = json.loads((tmp_path / "head" / "training.json").read_text())
    assert told["method"] == "SASRec" and told["dataset"]["fingerprint"] == split.fingerprint and told["steps"] == 2
    assert main(["push", str(tmp_path / "head"), REPO, "--tag", "v1.0"]) == 0
    assert "vectors equal to 0.0e+00" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "catalogue.parquet", "modeling_seqrec.py"} <= set(
        hub.files(REPO, "v1.0")
    )
    ids = [str(item) for item in split.item_ids[:4]]
    expected = run.head.recommend([ids, []], 5)
    trained(split, tmp_path / "next", seed=1)
    publish_model(tmp_path / "next", REPO, tag="v2.0")
    for revision, same in (("v1.0", True), ("v2.0", False), ("main", False)):
        head = AutoModel.from_pretrained(REPO, revision=revision)
        assert type(head) is SequentialRecommender
        found = head.recommend([ids, []], 5)
        assert (found[0].scores == expected[0].scores) is same
        assert found[1].source == "popularity" and found[1].item_ids == expected[1].item_ids
    with pytest.raises(ValueError, match="built on the item vectors of 'a+'"):
        SequentialRecommender.from_pretrained(REPO, embedder_revision="b" * 40)


@pytest.mark.slow
def test_a_stranger_without_the_package_gets_the_same_list(hub, hub_environment, split, tmp_path):
    run = trained(split, tmp_path / "head")
    publish_model(tmp_path / "head", REPO, tag="v1.0")
    ids = [str(item) for item in split.item_ids[:4]]
    code = f"""
import sys, json
sys.modules["vlm2rec_hf"] = None
from transformers import AutoModel
head = AutoModel.from_pretrained({REPO!r}, revision="v1.0", trust_remote_code=True)
print("FOUND" + json.dumps(head.recommend([{ids!r}], 5)[0].item_ids))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=hub_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.split("FOUND")[1]) == run.head.recommend([ids], 5)[0].item_ids


def test_the_card_names_embedder_and_data_and_its_snippet_runs(hub, split, tmp_path, capsys):
    run = trained(split, tmp_path / "head", hub_model_id=REPO)
    run.push_to_hub(tag="v1.0", license="mit")
    card = hub.files(REPO, "v1.0")["README.md"].decode()
    assert "base_model: org/embedder" in card and "a" * 40 in card and split.fingerprint in card
    assert "license: mit" in card and "embedder's" not in card.split("## Usage")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(snippet, "card", "exec"), {})
    assert "[Recommendation(" in capsys.readouterr().out


def test_a_local_embedder_of_a_relative_path_is_not_taken_for_a_repo_of_the_hub(hub, split, tmp_path):
    trained(split, tmp_path / "head")
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    config |= {"embedder": "runs/embedder", "embedder_revision": "sha256:" + "a" * 64}
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    publish_model(tmp_path / "head", REPO, verify=False)
    published = hub.files(REPO)
    assert json.loads(published["config.json"])["embedder"] == "embedder"
    card = published["README.md"].decode()
    assert "over the item vectors of `embedder`" in card and "runs/embedder" not in card


def test_what_nobody_could_use_is_refused(hub, split, tmp_path):
    trained(split, tmp_path / "head")
    (tmp_path / "head" / "catalogue.parquet").unlink()
    with pytest.raises(ValueError, match="has no catalogue.parquet"):
        publish_model(tmp_path / "head", REPO)
    assert hub.repos == {}
