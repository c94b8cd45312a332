"""Attention implementations, number types and compilation: the same vectors."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import cosine_similarity

from vlm2rec_hf.modeling.family_qwen_vl import PatchProjection

from ..conftest import FAMILIES, QWEN, needs_attention
from .test_encoding import largest_difference, many_items


@pytest.fixture(scope="module")
def shop():
    return many_items(14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_number_type(tiny, shop, family, implementation, dtype):
    needs_attention(family, implementation)
    model, processor = tiny(family)
    histories = [shop[:4], shop[4:5], shop[5:11]]
    exact = model.encode_items(shop, processor), model.encode_histories(histories, processor)
    model.set_attn_implementation(implementation)
    model.to(dtype)
    result = model.encode_items(shop, processor), model.encode_histories(histories, processor)
    for a, b in zip(exact, result, strict=True):
        assert b.both.dtype == torch.float32 and (a.has_image == b.has_image).all()
        if dtype == torch.float32:
            assert largest_difference(a, b) < 1e-5
            continue
        # The vectors are unit sums: half precision keeps about 3 (float16) or 2 (bfloat16) digits of each.
        assert 0 < largest_difference(a, b) < (0.01 if dtype == torch.float16 else 0.08)
        assert cosine_similarity(a.both, b.both).min() > (0.9999 if dtype == torch.float16 else 0.995)


@pytest.mark.parametrize("family", QWEN)
def test_patches_are_embedded_as_the_convolution_would(tiny, shop, family):
    model, processor = tiny(family)
    names = set(model.state_dict())
    projection = model.vlm.visual.patch_embed.proj
    assert type(projection) is PatchProjection
    ours = model.encode_items(shop, processor)
    projection.__class__ = torch.nn.Conv3d
    assert largest_difference(ours, model.encode_items(shop, processor)) < 1e-5
    assert set(model.state_dict()) == names
    projection.__class__ = PatchProjection
    wide = torch.rand(1, *projection.weight.shape[1:2], 4, *projection.weight.shape[3:])  # more than one kernel
    assert torch.equal(projection(wide), torch.nn.Conv3d.forward(projection, wide))


@pytest.mark.parametrize("family", ["qwen2_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_compiled_once_for_all_lengths(tiny, shop, family):
    model, processor = tiny(family)
    histories = [shop[:1], shop[1:4], shop[2:9]]
    expected = model.encode_items(shop, processor), model.encode_histories(histories, processor)
    torch._dynamo.reset()
    counters.clear()
    try:
        model.compile(backend="eager")
        assert largest_difference(expected[0], model.encode_items(shop, processor, max_tokens=150)) < 1e-5
        graphs = counters["stats"]["unique_graphs"]
        # A pass of a single row is a graph of its own. Qwen3-VL adds its deepstack features by a mask, whose count of
        # tokens is data: one break.
        assert 1 <= graphs <= (2 if family == "qwen2_vl" else 16)
        assert len(counters["graph_break"]) <= (0 if family == "qwen2_vl" else 1)
        for limit in (70, 300, None):
            assert largest_difference(expected[0], model.encode_items(shop, processor, max_tokens=limit)) < 1e-5
        assert largest_difference(expected[1], model.encode_histories(histories, processor)) < 1e-5
        assert counters["stats"]["unique_graphs"] - graphs <= 2  # other lengths and other numbers of rows
    finally:
        torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_by_inductor(tiny, shop):
    model, processor = tiny()
    expected = model.encode_items(shop, processor)
    torch._dynamo.reset()
    try:
        model.compile()
        assert largest_difference(expected, model.encode_items(shop, processor)) < 1e-5
    finally:
        torch._dynamo.reset()
