"""Merging adapters: the same vectors afterwards, or nothing merged."""

import dataclasses
import math

import pytest
import torch
from peft import get_peft_model

from vlm2rec_hf import VLM2RecEmbedder, default_lora_config
from vlm2rec_hf.merging import merge_adapters


def adapted(tiny, dtype=torch.float32, **options):
    """A PEFT model whose adapters do something."""
    model, processor = tiny(**options)
    torch.manual_seed(0)
    wrapped = get_peft_model(model.to(dtype), default_lora_config(4, dropout=0.1))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return wrapped.eval(), processor


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_merged_the_vectors_stay(tiny, items, family, tmp_path):
    wrapped, processor = adapted(tiny, family=family)
    embedder = wrapped.get_base_model()
    before = embedder.encode_histories([items, items[:2]], processor).both
    names = [name for name, _ in embedder.named_parameters() if "lora" in name]
    merged = merge_adapters(wrapped, processor, items, [items, items[:2]])
    assert names and not any("lora" in name for name, _ in merged.model.named_parameters())
    assert 0 < merged.difference <= 1e-5 and (merged.n_items, merged.n_histories) == (6, 2)
    after = merged.model.encode_histories([items, items[:2]], processor).both
    assert (after - before).abs().max() <= merged.difference
    merged.model.save_pretrained(tmp_path)  # whole, without any trace of an adapter
    assert not (tmp_path / "adapter_config.json").exists()
    again = VLM2RecEmbedder.from_pretrained(tmp_path).encode_histories([items, items[:2]], processor).both
    assert torch.equal(again, after)


def test_refused_by_how_much_and_exactly_as_before(tiny, items):
    wrapped, processor = adapted(tiny, dtype=torch.bfloat16)
    embedder = wrapped.get_base_model()
    state = {name: value.clone() for name, value in embedder.state_dict().items()}
    before = embedder.encode_items(items, processor).both
    with pytest.raises(
        ValueError, match=r"changes the vectors by up to 0\.\d+, more than `tolerance` 1e-05"
    ) as caught:
        merge_adapters(wrapped, processor, items, tolerance=1e-5)
    said = float(str(caught.value).split("up to ")[1].split(",")[0])
    assert 1e-4 < said < 1.0
    assert all(torch.equal(value, state[name]) for name, value in embedder.state_dict().items())
    assert torch.equal(embedder.encode_items(items, processor).both, before)
    merged = merge_adapters(wrapped, processor, items, tolerance=said * 1.01)  # whoever accepts that much gets it
    assert merged.difference == pytest.approx(said, rel=1e-2)


def test_histories_that_become_nan_are_no_small_change(tiny, items, monkeypatch):
    wrapped, processor = adapted(tiny)
    embedder = wrapped.get_base_model()
    first = embedder.encode_histories([items[:1]], processor)
    answers = iter([first, dataclasses.replace(first, both=first.both * math.nan)])
    monkeypatch.setattr(embedder, "encode_histories", lambda *_, **__: next(answers))
    with pytest.raises(ValueError, match="changes the vectors by up to nan"):
        merge_adapters(wrapped, processor, items[:1], [items[:1]])


def test_bad_input(tiny, items):
    model, processor = tiny()
    with pytest.raises(ValueError, match="`model` has no adapters"):
        merge_adapters(model, processor, items)
    wrapped, processor = adapted(tiny)
    with pytest.raises(ValueError, match="`items` is empty"):
        merge_adapters(wrapped, processor, [])
    with pytest.raises(ValueError, match="`tolerance` must be 0 or more"):
        merge_adapters(wrapped, processor, items, tolerance=-1.0)
    with pytest.raises(ValueError, match="`model` must be a VLM2RecEmbedder"):
        merge_adapters(torch.nn.Linear(2, 2), processor, items)
    wrapped.merge_adapter()
    with pytest.raises(ValueError, match="has merged layers already"):
        merge_adapters(wrapped, processor, items)
