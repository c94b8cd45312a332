"""The snippets of the cards run as they stand: in this process, without the package, and against a Hub."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModel

from vlm2rec_hf.hub_cards import (
    DatasetFacts,
    EmbedderFacts,
    HeadFacts,
    SpaceFacts,
    render_dataset_card,
    render_embedder_card,
    render_head_card,
    render_space_card,
    write_card,
)
from vlm2rec_hf.hub_cards.card import is_ours

from .card_builders import config_folder, snippets

WITH, WITHOUT = "AutoModel, with the package", "AutoModel, without the package"
ITEMS = [{"text": "red two-person tent", "image": Image.new("RGB", (224, 224), "red")}, "blue mug"]


def run(code):
    scope = {}
    exec(compile(code, "card", "exec"), scope)
    return scope


def card_snippets(folder, *args):
    return snippets(render_embedder_card(EmbedderFacts.from_folder(folder, str(folder), *args)))


@pytest.fixture
def folder(tiny, tmp_path):
    model, processor = tiny()
    model.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def test_with_the_package(tiny, folder):
    model, processor = tiny()
    found = run(card_snippets(folder)[WITH][0])
    assert (found["catalogue"][:2] - model.encode_items(ITEMS, processor).both).abs().max() < 1e-6
    assert found["users"].shape == (1, model.config.hidden_size) and found["scores"].shape == (1, 3)
    assert f"(items, {model.config.hidden_size})" in card_snippets(folder)[WITH][0]


def test_without_the_package(tiny, folder, tmp_path):
    """In a process where `import vlm2rec_hf` fails."""
    code = card_snippets(folder)[WITHOUT][0]
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", f'import sys\nsys.modules["vlm2rec_hf"] = None\n{code}\n'
         'import torch\ntorch.save({"vectors": vectors}, "found.pt")\nprint(type(model).__module__)'],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("transformers_modules.")
    model, processor = tiny()
    expected = model.encode_items(["red two-person tent", "blue mug"], processor).both
    assert (torch.load(tmp_path / "found.pt", weights_only=True)["vectors"] - expected).abs().max() < 1e-6


def test_with_sentence_transformers(tiny, folder):
    from vlm2rec_hf.sentence_transformers.model_files import write_sentence_transformer_files

    assert "SentenceTransformer" not in card_snippets(folder)  # not promised before the files are there
    model, processor = tiny()
    write_sentence_transformer_files(folder, processor, model.config)
    found = run(card_snippets(folder)["SentenceTransformer"][0])
    items = torch.as_tensor(found["catalogue"])
    users = torch.as_tensor(found["users"])
    assert (items - model.encode_items(ITEMS, processor).both).abs().max() < 1e-5
    assert (users - model.encode_histories([ITEMS], processor).both).abs().max() < 1e-5
    card = render_embedder_card(EmbedderFacts.from_folder(folder))
    assert "- sentence-transformers\n" in card and "pip install vlm2rec-hf sentence-transformers\n" in card


def test_an_adapter_loads_with_its_base_in_one_call(tiny, folder, tmp_path):
    from peft import get_peft_model

    from vlm2rec_hf import default_lora_config

    model = AutoModel.from_pretrained(folder)
    adapted = get_peft_model(model, default_lora_config(r=2, dropout=0.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    tiny()[1].save_pretrained(adapter)
    model.config.base_model = str(folder)
    model.config.save_pretrained(adapter)
    found = run(card_snippets(adapter)[WITH][0])
    processor = tiny()[1]
    expected = adapted.base_model.model.encode_items(ITEMS, processor).both
    assert (found["catalogue"][:2] - expected).abs().max() < 1e-5
    plain = tiny()[0].encode_items(ITEMS, processor).both
    assert (found["catalogue"][:2] - plain).abs().max() > 1e-3  # the adapter is in
    # The form that peft leaves behind is no person's work.
    assert "[More Information Needed]" in (adapter / "README.md").read_text()
    write_card(render_embedder_card(EmbedderFacts.from_folder(adapter)), adapter)


def test_a_revision_is_pinned_in_every_snippet(folder):
    found = card_snippets(folder, "v1.0")
    for heading in (WITH, WITHOUT):
        assert found[heading][0].count('revision="v1.0"') == 2
    code = snippets(
        render_embedder_card(EmbedderFacts("org/x", revision="v1.0", sentence_transformer=True, remote_code=True))
    )
    assert all('"org/x", revision="v1.0"' in text for parts in code.values() for text in parts)


def test_a_heads_snippet_names_items_of_its_catalogue(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = config_folder(tmp_path / "head", {"model_type": "seqrec"})
    pq.write_table(pa.table({"item_id": ["a\"'\n```", "b", "c", "d"]}), folder / "catalogue.parquet")
    code = snippets(render_head_card(HeadFacts.from_folder(folder, "org/head", "v2")))["Usage"][0]
    compile(code, "card", "exec")
    assert (
        'AutoModel.from_pretrained("org/head", revision="v2")' in code and "model.recommend(histories, k=10)" in code
    )
    scope = {}
    exec(next(line for line in code.splitlines() if line.startswith("histories =")), scope)
    assert scope["histories"] == [["a\"'\n```", "b", "c"]]


def test_a_published_dataset_loads_by_its_card(demo_dataset, hub):
    facts = DatasetFacts.from_dataset(demo_dataset, "org/shop", "v1.0", "cc0-1.0")
    demo_dataset.push_to_hub("org/shop", tag="v1.0", card=render_dataset_card(facts))
    published = hub.files("org/shop", "v1.0", "datasets")["README.md"].decode()
    assert is_ours(published)  # the push found nothing to change in it
    first, tables = snippets(published)["Usage"]
    assert run(first)["dataset"].fingerprint == demo_dataset.fingerprint
    found = run(tables)
    assert sum(len(part) for part in found["interactions"].values()) == demo_dataset.n_interactions
    assert len(found["items"]["train"]) == demo_dataset.n_items


def test_a_space_downloads_by_its_card(hub):
    from huggingface_hub import HfApi

    text = render_space_card(SpaceFacts("org/demo", "Demo", "Shows what is recommended."))
    api = HfApi(token=hub.token)
    api.create_repo("org/demo", repo_type="space", space_sdk="gradio")
    for name, content in (("README.md", text), ("app.py", "print(1)\n")):
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id="org/demo", repo_type="space")
    folder = run(snippets(text)["Run it yourself"][0])["folder"]
    with open(f"{folder}/README.md", encoding="utf-8") as file:
        assert file.read() == text
