"""Adapter repos: base and adapter by one call, at the revisions that belong together, or an error."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText

from vlm2rec_hf import VLM2RecEmbedder, VLM2RecProcessor, VLM2RecTrainer, VLM2RecTrainingArguments, default_lora_config
from vlm2rec_hf.hub_cards.publish import publish_model

RAW, ADAPTER, EMBEDDER = "org/raw-backbone", "org/adapter", "org/embedder"
SCORES = {"popularity_prior": 0.5, "temperature": 0.1}
"""Score options as chosen after training an adapter; its base has none."""


def upload(model, processor, repo_id, folder):
    """Put a model on the Hub as anybody would."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    HfApi().create_repo(repo_id, exist_ok=True)
    return HfApi().upload_folder(repo_id=repo_id, folder_path=folder).oid


def train_adapter(base, processor, dataset, folder, seed=0):
    """A few steps of LoRA training; returns the embedder and its folder."""
    arguments = VLM2RecTrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=2, per_device_train_batch_size=8, save_strategy="no",
        learning_rate=5e-2, disable_tqdm=True, seed=seed, hub_model_id=ADAPTER,
    )  # fmt: skip
    run = VLM2RecTrainer(
        base,
        arguments,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=default_lora_config(2, dropout=0.0),
    )
    run.train()
    run.embedder.config.score_options = SCORES
    run.save_model()
    return run


@pytest.fixture(params=["raw backbone", "embedder"])
def trained(request, hub, tiny, demo_dataset, items, tmp_path):
    """An adapter trained on a Hub base, and the vectors of base and adapter."""
    model, processor = tiny()
    if request.param == "embedder":
        commit = upload(model, processor, EMBEDDER, tmp_path / "base")
        base, name = VLM2RecEmbedder.from_pretrained(EMBEDDER), EMBEDDER
    else:
        raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
        commit = upload(raw, processor, RAW, tmp_path / "base")
        base, name = VLM2RecEmbedder.from_backbone(RAW), RAW
    plain = base.encode_items(items, processor).both
    run = train_adapter(base, processor, demo_dataset, tmp_path / "adapter")
    result = run.embedder.encode_items(items, processor).both
    assert (result - plain).abs().max() > 1e-3
    return {"run": run, "vectors": result, "base": name, "commit": commit, "folder": tmp_path / "adapter"}


def vectors(where, items, **options):
    processor = VLM2RecProcessor.from_pretrained(where, **options)
    return AutoModel.from_pretrained(where, **options).encode_items(items, processor).both


def test_the_folder_names_base_and_commit(trained, items):
    config = json.loads((trained["folder"] / "config.json").read_text())
    assert (config["base_model"], config["base_model_revision"]) == (trained["base"], trained["commit"])
    facts = json.loads((trained["folder"] / "training.json").read_text())
    assert (facts["base_model"], facts["base_model_revision"]) == (trained["base"], trained["commit"])
    assert facts["peft"]["r"] == 2 and facts["steps"] == 2 and facts["arguments"]["learning_rate"] == 5e-2
    assert not (trained["folder"] / "model.safetensors").exists()
    assert (vectors(trained["folder"], items) - trained["vectors"]).abs().max() < 1e-6
    assert AutoModel.from_pretrained(trained["folder"]).config.score_options == SCORES


def test_published_it_loads_by_one_call_at_every_revision(trained, items, tiny, tmp_path, demo_dataset):
    first = publish_model(trained["folder"], ADAPTER, tag="v1.0")
    # The base moves on; the adapter's base does not.
    other = tiny()[0] if trained["base"] == EMBEDDER else None
    if other is not None:
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        upload(other, trained["run"].processing_class, EMBEDDER, tmp_path / "moved")
        base = AutoModel.from_pretrained(EMBEDDER, revision=trained["commit"])
    else:
        base = VLM2RecEmbedder.from_backbone(RAW)
    processor = trained["run"].processing_class
    second_run = train_adapter(base, processor, demo_dataset, tmp_path / "next", seed=1)
    publish_model(tmp_path / "next", ADAPTER, tag="v2.0")
    for revision in ("v1.0", first.oid):
        assert (vectors(ADAPTER, items, revision=revision) - trained["vectors"]).abs().max() < 1e-6
    newest = second_run.embedder.encode_items(items, trained["run"].processing_class).both
    for options in ({}, {"revision": "main"}, {"revision": "v2.0"}):
        assert (vectors(ADAPTER, items, **options) - newest).abs().max() < 1e-6
    assert (newest - trained["vectors"]).abs().max() > 1e-3


def test_what_was_loaded_can_be_asked_for(trained):
    model, info = AutoModel.from_pretrained(trained["folder"], output_loading_info=True)
    assert type(model) is VLM2RecEmbedder and not any(info.values())


def test_a_card_of_an_adapter_promises_only_what_holds(trained, hub):
    publish_model(trained["folder"], ADAPTER, tag="v1.0")
    card = hub.files(ADAPTER, "v1.0")["README.md"].decode()
    assert "whatever `revision` says" in card and "SentenceTransformer(" not in card
    assert f"base_model: {trained['base']}" in card and "base_model_relation: adapter" in card
    assert trained["commit"] in card


@pytest.mark.parametrize("trained", ["embedder", pytest.param("raw backbone", marks=pytest.mark.slow)], indirect=True)
def test_a_stranger_without_the_package_loads_it_too(trained, items, hub_environment, tmp_path):
    publish_model(trained["folder"], ADAPTER, tag="v1.0")
    code = """
import sys
sys.modules["vlm2rec_hf"] = None
import torch
from transformers import AutoModel, AutoProcessor

where = dict(pretrained_model_name_or_path="org/adapter", revision="v1.0", trust_remote_code=True)
model, processor = AutoModel.from_pretrained(**where), AutoProcessor.from_pretrained(**where)
torch.save(model.encode_items(["red tent", "blue mug"], processor).both, "found.pt")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=hub_environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = torch.load(tmp_path / "found.pt", weights_only=True)
    expected = trained["run"].embedder.encode_items(["red tent", "blue mug"], trained["run"].processing_class).both
    assert (result - expected).abs().max() < 1e-6


def test_an_adapter_on_a_base_nobody_has_is_not_published(hub, tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    train_adapter(model, processor, demo_dataset, tmp_path / "adapter")
    with pytest.raises(ValueError, match="no model on the Hub, so nobody else could load it"):
        publish_model(tmp_path / "adapter", ADAPTER, verify=False)
    assert hub.repos == {}
    with pytest.raises(ValueError, match="names no base model"):
        VLM2RecEmbedder.from_pretrained(tmp_path / "adapter")


def test_what_does_not_fit_or_could_run_code_is_refused(trained, tiny, tmp_path):
    folder = trained["folder"]
    config = json.loads((folder / "config.json").read_text())
    wide = tiny("qwen3_vl")[0]
    wide.save_pretrained(tmp_path / "other")
    renamed = {**config, "base_model": str(tmp_path / "other"), "base_model_revision": None}
    (folder / "config.json").write_text(json.dumps(renamed))
    with pytest.raises(ValueError, match="does not fit its base .*vlm_config.model_type is 'qwen3_vl' there"):
        VLM2RecEmbedder.from_pretrained(folder)
    adapter = load_file(folder / "adapter_model.safetensors")
    name = next(iter(adapter))
    save_file({n: v for n, v in adapter.items() if n != name}, folder / "adapter_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit its base: 1 weights do not match"):
        VLM2RecEmbedder.from_pretrained(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"no adapter_model.safetensors; other formats are not read"):
        VLM2RecEmbedder.from_pretrained(folder)
    with pytest.raises(ValueError, match="`use_safetensors` must be True"):
        VLM2RecEmbedder.from_pretrained(tmp_path / "other", use_safetensors=False)
    weights = wide.state_dict()
    torch.save(weights, tmp_path / "other" / "pytorch_model.bin")
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        VLM2RecEmbedder.from_pretrained(tmp_path / "other")


def test_saved_again_it_is_still_an_adapter_on_its_base(trained, items, tmp_path):
    publish_model(trained["folder"], ADAPTER)
    model, processor = AutoModel.from_pretrained(ADAPTER), VLM2RecProcessor.from_pretrained(ADAPTER)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert (vectors(tmp_path / "again", items) - trained["vectors"]).abs().max() < 1e-6


def test_pushed_elsewhere_by_the_library_it_loads_from_there(trained, items, hub):
    publish_model(trained["folder"], ADAPTER)
    model, processor = AutoModel.from_pretrained(ADAPTER), VLM2RecProcessor.from_pretrained(ADAPTER)
    model.push_to_hub("org/fork")
    processor.push_to_hub("org/fork")
    assert "config.json" in hub.files("org/fork", "main")
    HfApi().delete_file("adapter_model.safetensors", ADAPTER)  # so that nothing of it can come from there
    assert (vectors("org/fork", items) - trained["vectors"]).abs().max() < 1e-6


def test_a_base_whose_weights_have_changed_is_not_named(hub, tiny, demo_dataset, tmp_path):
    """Trained further in memory, the weights under the adapter are not those of the Hub any more."""
    model, processor = tiny()
    upload(model, processor, EMBEDDER, tmp_path / "base")
    base = VLM2RecEmbedder.from_pretrained(EMBEDDER)
    assert base.loaded_from is not None
    arguments = VLM2RecTrainingArguments(
        output_dir=str(tmp_path / "full"), use_cpu=True, max_steps=1, per_device_train_batch_size=8,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    run = VLM2RecTrainer(base, arguments, train_dataset=demo_dataset, processing_class=processor)
    run.train()
    run.save_model()
    facts = json.loads((tmp_path / "full" / "training.json").read_text())
    assert facts["base_model"] == EMBEDDER and base.loaded_from is None  # where it started, but not what it is
    train_adapter(base, processor, demo_dataset, tmp_path / "adapter")
    with pytest.raises(ValueError, match="no model on the Hub"):
        publish_model(tmp_path / "adapter", ADAPTER, verify=False)
    again = VLM2RecEmbedder.from_pretrained(EMBEDDER)
    again.load_state_dict(model.state_dict())
    assert again.loaded_from is None


def test_a_model_trained_further_names_what_it_started_from(hub, tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    upload(raw, processor, RAW, tmp_path / "raw")
    embedder = VLM2RecEmbedder.from_backbone(RAW)
    embedder.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    first = publish_model(tmp_path / "first", "org/first", tag="v1.0", license="mit")
    assert f"base_model: {RAW}" in hub.files("org/first", "v1.0")["README.md"].decode()
    processor.max_history = 3
    processor.save_pretrained(tmp_path / "first")
    publish_model(tmp_path / "first", "org/first", tag="v2.0")
    arguments = VLM2RecTrainingArguments(
        output_dir=str(tmp_path / "second"), use_cpu=True, max_steps=1, per_device_train_batch_size=8,
        save_strategy="no", disable_tqdm=True, model_init_kwargs={"revision": "v1.0"}, hub_model_id="org/second",
    )  # fmt: skip
    run = VLM2RecTrainer("org/first", arguments, train_dataset=demo_dataset)
    assert run.catalogue.processor.max_history != 3  # the processor of v1.0, as the model
    run.train()
    run.push_to_hub(tag="v1.0")
    card = hub.files("org/second", "v1.0")["README.md"].decode()
    assert "base_model: org/first" in card and first.oid in card and "license: mit" in card


def test_a_loaded_adapter_is_trained_further_not_replaced(trained, demo_dataset, items, tmp_path):
    publish_model(trained["folder"], ADAPTER, tag="v1.0")
    model, processor = AutoModel.from_pretrained(ADAPTER), VLM2RecProcessor.from_pretrained(ADAPTER)
    arguments = VLM2RecTrainingArguments(
        output_dir=str(tmp_path / "more"), use_cpu=True, max_steps=1, per_device_train_batch_size=8,
        learning_rate=1e-3, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="`model` already holds an adapter, which `peft_config` would replace"):
        VLM2RecTrainer(
            model,
            arguments,
            train_dataset=demo_dataset,
            processing_class=processor,
            peft_config=default_lora_config(2),
        )
    run = VLM2RecTrainer(model, arguments, train_dataset=demo_dataset, processing_class=processor)
    before = run.embedder.encode_items(items, processor).both
    assert (before - trained["vectors"]).abs().max() < 1e-6  # it starts where the adapter ended
    run.train()
    run.save_model()
    after = run.embedder.encode_items(items, processor).both
    assert (after - before).abs().max() > 1e-5
    assert not (tmp_path / "more" / "model.safetensors").exists()
    assert (vectors(tmp_path / "more", items) - after).abs().max() < 1e-6


def test_weights_of_another_kind_are_set_aside(hub, tiny, demo_dataset, items, tmp_path):
    model, processor = tiny()
    upload(model, processor, EMBEDDER, tmp_path / "base")
    train_adapter(VLM2RecEmbedder.from_pretrained(EMBEDDER), processor, demo_dataset, tmp_path / "run")
    arguments = VLM2RecTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, max_steps=1, per_device_train_batch_size=8,
        learning_rate=1e-2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    run = VLM2RecTrainer(
        VLM2RecEmbedder.from_pretrained(EMBEDDER), arguments, train_dataset=demo_dataset, processing_class=processor
    )
    run.train()
    run.save_model()
    assert (tmp_path / "run" / "superseded-1" / "adapter_model.safetensors").is_file()
    assert (vectors(tmp_path / "run", items) - run.embedder.encode_items(items, processor).both).abs().max() < 1e-6
    done = publish_model(tmp_path / "run", "org/full", tag="v1.0")
    assert "superseded-1/" in done.left_out


def test_one_version_even_while_another_is_published(hub, tiny, tmp_path, items):
    """Main moves after the configuration was read: the weights and the recorded commit are still of one version."""
    model, processor = tiny()
    first = upload(model, processor, EMBEDDER, tmp_path / "one")
    expected = model.encode_items(items, processor).both
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    moved = []

    def publish_next(method, path, status):
        if not moved and method in ("GET", "HEAD") and path.endswith("/config.json"):
            moved.append(True)
            hub.after_request = None
            upload(model, processor, EMBEDDER, tmp_path / "two")

    hub.after_request = publish_next
    result = VLM2RecEmbedder.from_pretrained(EMBEDDER)
    assert moved and result.loaded_from == (EMBEDDER, first)
    assert torch.equal(result.encode_items(items, processor).both, expected)
