"""A saved folder on its own: loads without this package, and a raw backbone's embedder survives saving."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from vlm2rec_hf import VLM2RecEmbedder

from ..conftest import CHECKPOINT_FAMILIES, needs_image_processor

# `import vlm2rec_hf` fails here on purpose: only the files beside the weights may be used.
STRANGER = """
import sys
sys.modules["vlm2rec_hf"] = None
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
answers = {
    "items": model.encode_items(items, processor).both,
    "histories": model.encode_histories([items, items[1:]], processor).both,
    "class": type(model).__module__,
}
torch.save(answers, folder + "/answers.pt")
"""


@pytest.mark.parametrize("family", [pytest.param("qwen3_vl", marks=pytest.mark.slow), "smolvlm"])
def test_a_stranger_without_the_package_gets_the_same_vectors(tiny, family, tmp_path):
    from PIL import Image

    needs_image_processor(family)
    model, processor = tiny(family)
    folder = tmp_path / "embedder"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answers = torch.load(folder / "answers.pt", weights_only=True)
    assert answers["class"].startswith("transformers_modules.")
    items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
    assert (answers["items"] - model.encode_items(items, processor).both).abs().max() < 1e-6
    assert (answers["histories"] - model.encode_histories([items, items[1:]], processor).both).abs().max() < 1e-6


@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("family", CHECKPOINT_FAMILIES)
def test_an_embedder_from_a_raw_backbone_survives_saving(tiny, items, family, fusion, tmp_path):
    model, processor = tiny(family, fusion)
    AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained(tmp_path / "raw")
    taken = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"), fusion=fusion)
    assert taken.config.fusion == fusion and not taken.training
    assert all(parameter.device.type == "cpu" for parameter in taken.parameters())
    before = taken.encode_items(items, processor)
    taken.save_pretrained(tmp_path / "ours")
    again, info = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    after = again.encode_items(items, processor)
    for view in ("both", "text", "image"):
        assert torch.equal(before.view(view), after.view(view))


def test_a_backbone_keeps_the_type_asked_for(tiny, tmp_path):
    model, processor = tiny()
    AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained(tmp_path / "raw")
    half = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    vectors = half.encode_items(["red tent"], processor)
    assert vectors.both.dtype == torch.float32 and vectors.both.norm() == pytest.approx(1.0, abs=1e-5)
    half.save_pretrained(tmp_path / "ours")
    assert AutoModel.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


def test_a_weight_of_another_shape_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    model, _ = tiny()
    AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained(tmp_path / "raw")
    path = tmp_path / "raw" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "visual" in name and name.endswith("fc1.weight"))
    weights[name] = weights[name][:-1].clone()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match="fc1|mismatch"):
        VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))


def test_a_folder_with_weights_missing_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    model, _ = tiny()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks 1 weights of its own architecture .*{name}.*stay random"):
        AutoModel.from_pretrained(tmp_path)
