"""PixRec models on the Hub: pushed, pulled with and without the package, with a card whose snippet runs."""

import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from vlm2rec_hf import PixRecModel, PixRecTrainer, PixRecTrainingArguments, pixrec_lora_config
from vlm2rec_hf.hub_cards.publish import publish_model

REPO, ADAPTER = "org/shop-pixrec", "org/shop-pixrec-lora"
STRANGER = """
import sys
sys.modules["vlm2rec_hf"] = None
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

where = dict(pretrained_model_name_or_path=sys.argv[1], revision="v1.0", trust_remote_code=True)
model, processor = AutoModel.from_pretrained(**where), AutoProcessor.from_pretrained(**where)
assert type(model).__module__.split(".")[0] == type(processor).__module__.split(".")[0] == "transformers_modules"
items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
torch.save(torch.cat([model.encode_items(items, processor), model.encode_histories([items], processor)]), "found.pt")
"""


def vectors(model, processor):
    from PIL import Image

    items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
    return torch.cat([model.encode_items(items, processor), model.encode_histories([items], processor)])


def train(model, processor, dataset, folder, **options):
    arguments = PixRecTrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True,
        save_strategy="no", learning_rate=1e-2,
    )  # fmt: skip
    run = PixRecTrainer(model, arguments, train_dataset=dataset, processing_class=processor, **options)
    run.train()
    run.save_model(folder)
    return run


@pytest.fixture
def published(hub, tiny_pix, demo_dataset, tmp_path):
    run = train(*tiny_pix(), demo_dataset, tmp_path / "model")
    done = publish_model(tmp_path / "model", REPO, tag="v1.0")
    assert done.difference == 0.0
    return run


def test_pushed_and_pulled_with_and_without_the_package(published, hub, hub_environment, tmp_path):
    files = hub.files(REPO, "v1.0")
    assert {"config.json", "model.safetensors", "processor_config.json", "training.json", "README.md"} <= set(files)
    assert {"modeling_pixrec.py", "configuration_pixrec.py", "processing_pixrec.py", "states_pixrec.py"} <= set(files)
    assert not any("backbones" in name or "generation" in name or name.endswith(".bin") for name in files)
    expected = vectors(published.pixrec, published.processing_class)
    where = {"pretrained_model_name_or_path": REPO, "revision": "v1.0"}
    model, processor = AutoModel.from_pretrained(**where), AutoProcessor.from_pretrained(**where)
    assert type(model) is PixRecModel
    assert (vectors(model, processor) - expected).abs().max() < 1e-6
    assert model.loaded_from[0] == REPO and len(model.loaded_from[1]) == 40
    told = json.loads(files["training.json"])
    assert told["method"] == "PixRec" and told["objective"] == "pixrec" and told["loss"]["beta"] == 0.125
    command = [sys.executable, "-c", STRANGER, REPO]
    run = subprocess.run(command, cwd=tmp_path, env=hub_environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert torch.equal(torch.load(tmp_path / "found.pt", weights_only=True), vectors(model, processor))


def test_the_cards_snippet_runs_and_names_the_paper(published, hub):
    card = hub.files(REPO, "v1.0")["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    scope: dict = {}
    exec(compile(snippet, "card", "exec"), scope)
    assert scope["catalogue"].shape == (3, 12) and "(items, 12)" in card
    assert "2601.06458" in card and "sentence-transformers" not in card and "- pixrec" in card


def test_adapters_name_their_base_and_its_commit(published, hub, tmp_path, demo_dataset):
    base = PixRecModel.from_pretrained(REPO, revision="v1.0")
    run = train(base, published.processing_class, demo_dataset, tmp_path / "lora", peft_config=pixrec_lora_config(2))
    publish_model(tmp_path / "lora", ADAPTER, tag="v1.0")
    files = hub.files(ADAPTER, "v1.0")
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    config = json.loads(files["config.json"])
    assert config["base_model"] == REPO and config["base_model_revision"] == base.loaded_from[1]
    # A new version of the base changes nothing for the adapter.
    published.pixrec.get_input_embeddings().weight.data.mul_(1.5)
    published.save_model(tmp_path / "model")
    publish_model(tmp_path / "model", REPO, tag="v2.0")
    assert (
        vectors(PixRecModel.from_pretrained(REPO), published.processing_class)
        - vectors(PixRecModel.from_pretrained(REPO, revision="v1.0"), published.processing_class)
    ).abs().max() > 1e-3
    again = AutoModel.from_pretrained(ADAPTER, revision="v1.0")
    expected = vectors(run.pixrec, published.processing_class)
    assert (vectors(again, published.processing_class) - expected).abs().max() < 1e-6
