"""What a trainer saves and publishes: facts, card, no pickles."""

import json

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel

from vlm2rec_hf import SeqRecTrainingArguments, VLM2RecEmbedder, VLM2RecProcessor, default_lora_config
from vlm2rec_hf.hub_cards.card import is_ours
from vlm2rec_hf.trainers.training_facts import resolved_arguments

REPO = "org/trained"


def test_the_facts_are_those_of_the_run(trainer, tmp_path):
    run = trainer(max_steps=2, learning_rate=3e-3, seed=5, objective="sft", temperature="0.07")
    run.train()
    run.save_model(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "training.json").read_text())
    dataset = run.recommendation_eval
    assert told["dataset"]["fingerprint"] == dataset.fingerprint and told["dataset"]["split"] == dataset.split_spec
    assert told["dataset"]["repo_id"] is None and told["base_model"] is None and told["peft"] is None
    assert (told["method"], told["objective"], told["steps"], told["seed"]) == ("VLM2Rec", "sft", 2, 5)
    assert told["arguments"]["learning_rate"] == 3e-3 and told["arguments"]["temperature"] == "0.07"
    assert told["loss"]["temperature"] == "0.07" or told["loss"]["temperature"] == 0.07
    assert 0 < told["seconds"] < 300 and told["versions"]["torch"] == torch.__version__
    assert not any(str(tmp_path) in json.dumps(value) for value in told.values())  # nothing of this machine
    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(str(tmp_path / "model")).encode(["red tent"], convert_to_tensor=True)
    assert (found - run.embedder.encode_items(["red tent"], run.processing_class).both).abs().max() < 1e-5


def test_pushed_with_card_and_tag_and_without_pickles(hub, trainer, items):
    run = trainer(max_steps=2, hub_model_id=REPO)
    run.train()
    done = run.push_to_hub("First version", tag="v1.0")
    files = hub.files(REPO, "v1.0")
    assert done.oid == HfApi().repo_info(REPO, revision="v1.0").sha
    assert {"config.json", "model.safetensors", "training.json", "README.md", "modules.json"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)
    assert is_ours(files["README.md"].decode()) and "wpcl" in files["README.md"].decode()
    processor = VLM2RecProcessor.from_pretrained(REPO, revision="v1.0")
    found = AutoModel.from_pretrained(REPO, revision="v1.0").encode_items(items, processor).both
    assert torch.equal(found, run.embedder.encode_items(items, run.processing_class).both)
    with pytest.raises(ValueError, match="`blocking` must be True"):
        run.push_to_hub(blocking=False)
    run.args.hub_model_id = "nobody"
    with pytest.raises(ValueError, match="`hub_model_id` must be 'owner/name', got 'nobody'"):
        run.push_to_hub()


def test_checkpoints_are_published_while_training(hub, trainer):
    run = trainer(max_steps=4, save_steps=2, save_strategy="steps", hub_model_id=REPO, push_to_hub=True)
    run.train()
    messages = [commit.title for commit in HfApi().list_repo_commits(REPO)]
    assert messages[:2] == ["Training in progress, step 4", "Training in progress, step 2"]
    files = hub.files(REPO, "main")
    assert not any("checkpoint" in name or name.endswith((".pt", ".bin", ".pth")) for name in files)
    assert json.loads(files["training.json"])["steps"] == 4
    assert VLM2RecEmbedder.from_pretrained(REPO).config.model_type == "vlm2rec"


def test_a_card_is_made_and_a_persons_card_is_kept(trainer, tmp_path):
    run = trainer(max_steps=1, output_dir=str(tmp_path / "run"), peft_config=default_lora_config(2))
    run.save_model()
    assert not (tmp_path / "run" / "README.md").exists()  # PEFT's empty form is no card
    run.create_model_card()
    card = tmp_path / "run" / "README.md"
    assert is_ours(card.read_text()) and "[More Information Needed]" not in card.read_text()
    card.write_text("Mine.")
    run.create_model_card()
    assert card.read_text() == "Mine."


def test_a_seed_of_zero_is_told_and_what_the_constructor_fills_in_is_not(tmp_path):
    told = resolved_arguments(SeqRecTrainingArguments(str(tmp_path), use_cpu=True, data_seed=0, seed=7))
    assert told["data_seed"] == 0 and told["seed"] == 7
    plain = resolved_arguments(SeqRecTrainingArguments(str(tmp_path), use_cpu=True))
    assert "data_seed" not in plain and all(value not in (None, [], False) for value in plain.values())
