"""Saved folders and Hub repos: written whole, reloaded, versioned, with adapters, in other processes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from vlm2rec_hf import VLM2RecEmbedder
from vlm2rec_hf.sentence_transformers.model_files import as_documents, as_queries, write_sentence_transformer_files

from ..conftest import make_image


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    model, processor = tiny()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config)
    return folder


def close(actual, expected):
    actual = torch.as_tensor(actual)
    return actual.shape == expected.shape and (actual - expected).abs().max() < 1e-5


def test_only_stock_modules_are_named(folder):
    types = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
    assert types and all(name.startswith("sentence_transformers.") for name in types)
    assert not list(folder.glob(".writing-*"))


def test_saved_from_sentence_transformers_it_stays_an_embedder(tiny, folder, items, tmp_path):
    model, processor = tiny()
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    expected = model.encode_items(items, processor).both
    users = model.encode_histories([items, items[:1]], processor).both
    assert close(again.encode(items), expected) and close(again.encode_query(as_queries([items, items[:1]])), users)
    assert again.prompts == processor.prompts and again.similarity_fn_name == "cosine"
    ours = AutoModel.from_pretrained(tmp_path / "again")
    assert isinstance(ours, VLM2RecEmbedder)
    result = ours.eval().encode_items(items, AutoProcessor.from_pretrained(tmp_path / "again")).both
    assert torch.equal(result, expected)


def test_from_the_hub_by_id_and_revision(hub, tiny, folder, items, tmp_path):
    api = HfApi()
    api.create_repo("org/embedder")
    first = api.upload_folder(repo_id="org/embedder", folder_path=folder).oid
    api.create_tag("org/embedder", tag="v1.0")
    model, processor = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    shutil.copytree(folder, tmp_path / "second")
    model.save_pretrained(tmp_path / "second")
    api.upload_folder(repo_id="org/embedder", folder_path=tmp_path / "second")
    new = model.encode_items(items, processor).both
    model, processor = tiny()
    old = model.encode_items(items, processor).both
    assert (old - new).abs().max() > 1e-3
    for revision, expected in ((None, new), ("v1.0", old), (first, old)):
        assert close(SentenceTransformer("org/embedder", revision=revision, device="cpu").encode(items), expected)
    SentenceTransformer("org/embedder", revision="v1.0", device="cpu").push_to_hub("org/pushed")
    assert close(SentenceTransformer("org/pushed", device="cpu").encode_document(items), old)


# `import vlm2rec_hf` fails here on purpose: only the files beside the weights may be used.
STRANGER = """
import sys
sys.modules["vlm2rec_hf"] = None
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

def main():
    try:
        SentenceTransformer(sys.argv[1], trust_remote_code=False, device="cpu")
    except ValueError as error:
        refused = "trust_remote_code" in str(error)
    ran = [name for name in sys.modules if name.startswith("transformers_modules.")]
    model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
    image = Image.new("RGB", (60, 50), "navy")
    documents = ["red tent", {"text": "blue mug", "image": image}, image]
    history = [{"role": "history", "content": "red tent"}, {"role": "history", "content": "blue mug"}]
    both = model.encode(documents * 2, device=["cpu"], chunk_size=3)
    found = {"items": model.encode(documents), "processes": both, "user": model.encode_query([history])}
    found = {name: torch.tensor(vectors) for name, vectors in found.items()}
    torch.save(found | {"refused": refused, "ran": ran, "class": type(model[0].auto_model).__module__}, sys.argv[2])

if __name__ == "__main__":
    main()
"""


def test_a_stranger_without_the_package_gets_the_same_vectors(tiny, folder, tmp_path):
    model, processor = tiny()
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(tmp_path / "found.pt")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    result = torch.load(tmp_path / "found.pt", weights_only=True)
    assert result["refused"] and result["ran"] == []  # without the flag nothing of the repo runs
    assert result["class"].startswith("transformers_modules.")
    image = Image.new("RGB", (60, 50), "navy")
    items = ["red tent", {"text": "blue mug", "image": image}, image]
    assert close(result["items"], model.encode_items(items, processor).both)
    assert close(result["processes"], model.encode_items(items * 2, processor).both)
    assert close(result["user"], model.encode_histories([["red tent", "blue mug"]], processor).both)


@pytest.mark.slow
def test_several_processes_give_the_same_vectors(tiny, folder, items):
    model, processor = tiny()
    st = SentenceTransformer(str(folder), device="cpu")
    pool = st.start_multi_process_pool(["cpu", "cpu"])
    try:
        result = st.encode(as_documents(items), pool=pool, chunk_size=2)
        users = st.encode_query(as_queries([items, items[:1], items[2:]]), pool=pool, chunk_size=1)
    finally:
        st.stop_multi_process_pool(pool)
    assert close(result, model.encode_items(items, processor).both)
    assert close(users, model.encode_histories([items, items[:1], items[2:]], processor).both)


def adapter(model, processor, base, folder):
    """A random LoRA on `model`, saved with its processor, naming `base`; the model stays adapted."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wanted = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="FEATURE_EXTRACTION")
    adapted = get_peft_model(model, wanted)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    processor.save_pretrained(folder)
    return adapted.eval().get_base_model()


def test_an_adapter_on_a_saved_embedder_loads_with_its_base(tiny, items, tmp_path):
    model, processor = tiny()
    plain = model.encode_items(items, processor).both
    model.save_pretrained(tmp_path / "base")
    adapted = adapter(model, processor, tmp_path / "base", tmp_path / "adapter")
    write_sentence_transformer_files(tmp_path / "adapter", processor, adapted.config)
    expected = adapted.encode_items(items, processor).both
    assert (expected - plain).abs().max() > 1e-3
    st = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    assert close(st.encode(items), expected)
    users = adapted.encode_histories([items], processor).both
    assert close(st.encode_query(as_queries([items])), users)
    st.save_pretrained(str(tmp_path / "again"))
    assert not list((tmp_path / "again").glob("model*.safetensors"))
    assert close(SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(items), expected)


def test_an_adapter_from_the_hub_finds_its_base(hub, tiny, items, tmp_path):
    api = HfApi()
    model, processor = tiny()
    model.save_pretrained(tmp_path / "base")
    api.create_repo("org/base")
    api.upload_folder(repo_id="org/base", folder_path=tmp_path / "base")
    adapted = adapter(model, processor, "org/base", tmp_path / "adapter")
    write_sentence_transformer_files(tmp_path / "adapter", processor, adapted.config)
    api.create_repo("org/adapter")
    api.upload_folder(repo_id="org/adapter", folder_path=tmp_path / "adapter")
    expected = adapted.encode_items(items, processor).both
    assert close(SentenceTransformer("org/adapter", device="cpu").encode(items), expected)


def test_an_adapter_on_a_raw_backbone_is_refused(tiny, tmp_path):
    model, processor = tiny()
    AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained(tmp_path / "raw")
    model = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))
    adapted = adapter(model, processor, tmp_path / "raw", tmp_path / "adapter")
    with pytest.raises(ValueError, match="merge the adapter"):
        write_sentence_transformer_files(tmp_path / "adapter", processor, adapted.config)
    assert not (tmp_path / "adapter" / "modules.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "jaccard"}, "`similarity` must be one of"),
        ({"truncate_dim": 0}, r"`truncate_dim` must lie in 1\.\.32, got 0"),
        ({"truncate_dim": 33}, r"`truncate_dim` must lie in 1\.\.32, got 33"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, folder, tmp_path, options, message):
    model, processor = tiny()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message):
        write_sentence_transformer_files(folder, processor, model.config, **options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_that_lack_something_are_refused(tiny, tmp_path):
    model, processor = tiny()
    with pytest.raises(ValueError, match="holds no model"):
        write_sentence_transformer_files(tmp_path, processor, model.config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no processor"):
        write_sentence_transformer_files(tmp_path, processor, model.config)
    _, other = tiny(fusion="internal")
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`processor` is made for fusion 'internal'"):
        write_sentence_transformer_files(tmp_path, other, model.config)
    assert not (tmp_path / "modules.json").exists()


def test_files_are_replaced_whole_or_not_at_all(tiny, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    model, processor = tiny()
    names = [path.name for path in write_sentence_transformer_files(tmp_path / "copy", processor, model.config)]
    assert names == ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}

    def full(partial, path):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_sentence_transformer_files(tmp_path / "copy", processor, model.config, similarity="dot")
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before


def test_the_model_is_trainable_from_sentence_transformers(folder):
    st = SentenceTransformer(str(folder), device="cpu")
    features = st.preprocess(as_documents([{"text": "red tent", "image": make_image(0)}, "blue mug"]))
    st(features)["sentence_embedding"][:, 0].sum().backward()
    names = [name for name, parameter in st.named_parameters() if parameter.grad is not None]
    assert any("visual" in name for name in names) and any("language_model" in name for name in names)
