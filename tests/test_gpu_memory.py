"""The GPU guide's figures are what the script computes, and the script counts what is published."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("gpu_memory", ROOT / "benchmarks" / "gpu_memory.py")
computed = importlib.util.module_from_spec(SPEC)
sys.modules["gpu_memory"] = computed  # dataclasses look their module up
SPEC.loader.exec_module(computed)


@pytest.mark.parametrize("backbone", computed.BACKBONES, ids=lambda backbone: backbone.name)
def test_counts_the_published_parameters(backbone):
    assert backbone.whole == pytest.approx(backbone.published, rel=0.01)


def test_counts_what_transformers_builds():
    """The largest part, the language model's layers, to the weight; norms and biases aside."""
    import torch
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    (backbone,) = [found for found in computed.BACKBONES if found.name == "Qwen/Qwen2.5-VL-3B-Instruct"]
    config = Qwen2_5_VLTextConfig(
        hidden_size=backbone.hidden, num_hidden_layers=2, num_attention_heads=backbone.heads,
        num_key_value_heads=backbone.kv_heads, intermediate_size=backbone.intermediate, vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2_5_VLTextModel(config)
    matrices = sum(weight.numel() for weight in model.layers.parameters() if weight.dim() == 2)
    assert matrices * backbone.layers == 2 * backbone.language


def test_adapters_are_those_of_the_default_configuration():
    from vlm2rec_hf import default_lora_config

    lora = default_lora_config()
    assert lora.r == computed.LORA_RANK
    assert all(name in lora.target_modules for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate", "up", "down"))


def test_more_takes_more():
    (small, large) = [
        b for b in computed.BACKBONES if b.name in ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")
    ]
    assert small.training_bytes(16, whole_model=False) < small.training_bytes(64, whole_model=False)
    assert small.training_bytes(16, whole_model=False) < small.training_bytes(16, whole_model=True)
    assert small.kept < large.kept and small.item_flops() < large.item_flops()


def test_the_page_shows_what_is_computed():
    text = computed.PAGE.read_text(encoding="utf-8")
    assert computed.with_tables(text) == text, "run python benchmarks/gpu_memory.py --write"
    with pytest.raises(ValueError, match="gpu.md needs the lines"):
        computed.with_tables("no marks")
