"""Folders saved by an older version, before `modeling/` was laid out anew, load and answer as they did then."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import vlm2rec_hf
from vlm2rec_hf.modeling import MODELS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "saved_by_0aa0c80.zip"
ITEMS = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
CLASSES = {
    "embedder": "VLM2RecEmbedder", "pixrec": "PixRecModel", "head": "SequentialRecommender", "dmesr": "DMESRModel",
}  # fmt: skip

# `import vlm2rec_hf` fails here on purpose: only the code beside the weights may be used.
STRANGER = """
import sys
sys.modules["vlm2rec_hf"] = None
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = sys.argv[1] + "/"
head = AutoModel.from_pretrained(folder + "head", trust_remote_code=True).eval()
model = AutoModel.from_pretrained(folder + "embedder", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder + "embedder", trust_remote_code=True)
items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
torch.save({
    "head_items": head.item_vectors().detach(),
    "head_histories": head.encode_histories([[0, 1], [2]]),
    "head_class": type(head).__module__,
    "embedder_histories": model.encode_histories([items, items[1:]], processor).both,
    "embedder_class": type(model).__module__,
}, folder + "answers.pt")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(FIXTURE) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def answers(saved):
    return load_file(saved / "answers.safetensors")


def test_there_is_one_folder_per_kind_of_model(saved):
    assert {path.name for path in saved.iterdir() if path.is_dir()} == set(CLASSES)
    assert {model.__name__ for model in MODELS} == set(CLASSES.values())


@pytest.mark.parametrize("kind", ["embedder", "pixrec"])
def test_encoders_answer_as_they_did(saved, answers, kind):
    model = AutoModel.from_pretrained(saved / kind).eval()
    processor = AutoProcessor.from_pretrained(saved / kind)
    assert type(model) is getattr(vlm2rec_hf, CLASSES[kind])
    items, histories = model.encode_items(ITEMS, processor), model.encode_histories([ITEMS, ITEMS[1:]], processor)
    if kind == "embedder":
        items, histories = items.both, histories.both
    assert (items - answers[f"{kind}_items"]).abs().max() < 1e-6
    # Rows of several items have an end token behind each since then; a history of one item is what it was.
    same = slice(1, None) if kind == "embedder" else slice(None)
    assert (histories - answers[f"{kind}_histories"])[same].abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["head", "dmesr"])
def test_heads_answer_as_they_did(saved, answers, kind):
    model = AutoModel.from_pretrained(saved / kind).eval()
    assert type(model) is getattr(vlm2rec_hf, CLASSES[kind])
    assert (model.item_vectors().detach() - answers[f"{kind}_items"]).abs().max() < 1e-6
    assert (model.encode_histories([[0, 1], [2]]) - answers[f"{kind}_histories"]).abs().max() < 1e-6
    assert model.catalogue.ids == ["a", "b", "c"] and model.catalogue.titles == ["A", None, "C"]
    (found,) = model.recommend([["a"]], k=2)
    assert set(found.item_ids) == {"b", "c"}


def test_sentence_transformers_reads_the_embedder(saved, answers):
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(saved / "embedder"), device="cpu").encode(ITEMS, convert_to_tensor=True)
    assert (vectors - answers["embedder_items"]).abs().max() < 1e-5


def test_their_own_code_still_runs_where_the_package_is_absent(saved, answers, tmp_path):
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, str(saved)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    theirs = torch.load(saved / "answers.pt", weights_only=True)
    assert all(theirs[name].startswith("transformers_modules.") for name in ("head_class", "embedder_class"))
    for name in ("head_items", "head_histories", "embedder_histories"):
        assert (theirs[name] - answers[name]).abs().max() < 1e-6
