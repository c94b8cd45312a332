"""The embedder: batch-invariant, additive, equal to its backbone, the same after saving."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from vlm2rec_hf import VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.columns import VIEWS
from vlm2rec_hf.modeling.family_qwen_vl import multimodal_positions
from vlm2rec_hf.modeling.passes_vlm2rec import last_token_pool
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import CHECKPOINT_FAMILIES, FAMILIES, QWEN, needs_image_processor


@pytest.fixture(scope="module")
def histories(items):
    return [items[:2], items[1:], [items[2]], [items[1]], items]


def largest_difference(a, b):
    return max(float((a.view(view) - b.view(view)).abs().max()) for view in VIEWS)


def collated(model, processor, histories, side):
    processor.tokenizer.padding_side = side
    batch = processor(histories=histories)
    present = batch["has_image"]
    return batch, batch["image_rows"][present], batch["image_rows_mask"][present]


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_batch_order_and_padding_side_do_not_matter(self, tiny, items, histories, family):
        model, processor = tiny(family)
        whole = model.encode_histories(histories, processor)
        single = [model.encode_histories([history], processor) for history in histories]
        for row, one in enumerate(single):
            assert (whole.both[row] - one.both[0]).abs().max() < 1e-5
        backwards = model.encode_histories(histories[::-1], processor)
        assert (whole.both - backwards.both.flip(0)).abs().max() < 1e-5
        processor.tokenizer.padding_side = "left"
        assert largest_difference(whole, model.encode_histories(histories, processor)) < 1e-5
        catalogue = model.encode_items(items, processor)
        assert largest_difference(catalogue, model.encode_items(items, processor, batch_size=1)) < 1e-5
        assert catalogue.both.std(0).max() > 0.05  # not all the same vector

    def test_missing_modality_has_no_value_and_no_gradient(self, tiny, family):
        model, processor = tiny(family)
        batch = processor(items=["red tent", "blue mug"])
        output = model(**batch)
        assert not output.image_embeddings.any() and not output.has_image.any()
        output.embeddings.sum().backward()
        assert all(parameter.grad is None for parameter in model.vision_parameters())
        assert model.get_input_embeddings().weight.grad is not None

    def test_an_absent_image_gets_no_gradient_beside_present_ones(self, tiny, items, family):
        model, processor = tiny(family)
        output = model(**processor(items=[items[0], items[1]]))
        output.image_embeddings.retain_grad()
        assert not output.image_embeddings[1].any()
        output.image_embeddings[1].sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in model.vision_parameters())

    def test_saved_and_loaded_is_the_same(self, tiny, items, histories, family, tmp_path):
        needs_image_processor(family)
        model, processor = tiny(family, max_history=4)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        again, its_processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
        assert isinstance(again, VLM2RecEmbedder) and isinstance(its_processor, VLM2RecProcessor)
        assert isinstance(AutoConfig.from_pretrained(tmp_path), VLM2RecConfig)
        assert its_processor.max_history == 4
        before, after = model.encode_items(items, processor), again.encode_items(items, its_processor)
        assert all(torch.equal(before.view(view), after.view(view)) for view in VIEWS)
        before, after = model.encode_histories(histories, processor), again.encode_histories(histories, its_processor)
        assert torch.equal(before.both, after.both)

    def test_internal_fusion(self, tiny, items, histories, family):
        model, processor = tiny(family, fusion="internal")
        result = model.encode_histories(histories, processor)
        single = torch.cat([model.encode_histories([history], processor).both for history in histories])
        assert (result.both - single).abs().max() < 1e-5
        assert torch.allclose(result.both.norm(dim=-1), torch.ones(len(histories)), atol=1e-5)
        assert result.has_text.tolist() == [True, True, False, True, True]
        assert not result.text[2].any() and result.image[2].any()
        texts = [[i if isinstance(i, str) else {"text": i["text"]} for i in histories[0]]]
        assert (model.encode_histories(texts, processor).both[0] - result.text[0]).abs().max() < 1e-5


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_and_states_of_qwen_are_the_backbones_own(tiny, histories, family, side):
    model, processor = tiny(family)
    batch, rows, mask = collated(model, processor, histories, side)
    before = mask.clone()
    config = model.config.vlm_config
    placeholders = rows == config.image_token_id
    grid = batch["image_grid_thw"][batch["image_index"]]
    ours = multimodal_positions(mask, placeholders, grid, config.vision_config.spatial_merge_size)
    assert torch.equal(mask, before)  # positions were once written into the caller's mask
    theirs, _ = model.vlm.get_rope_index(
        rows, mm_token_type_ids=placeholders.int(), image_grid_thw=grid, attention_mask=mask
    )
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        images = model._gather_images(batch["pixel_values"], batch["image_grid_thw"], batch["image_index"], None, None)
        states = model.family.run(model.vlm, rows, mask, images)
        pixels = torch.split(batch["pixel_values"], batch["image_grid_thw"].prod(-1).tolist())
        expected = model.vlm(
            input_ids=rows,
            attention_mask=mask,
            pixel_values=torch.cat([pixels[i] for i in batch["image_index"]]),
            image_grid_thw=grid,
            mm_token_type_ids=placeholders.int(),
            use_cache=False,
        ).last_hidden_state
    assert ((states - expected) * mask.unsqueeze(-1)).abs().max() < 1e-6


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_exact_additivity(tiny, items, family):
    model, processor = tiny(family)
    both = model.encode_items([items[0]], processor)
    text = model.encode_items([items[0]["text"]], processor)
    image = model.encode_items([items[0]["image"]], processor)
    assert (both.both - text.both - image.both).abs().max() < 1e-6
    assert torch.allclose(text.both.norm(), torch.tensor(1.0), atol=1e-6)
    assert torch.equal(both.both, both.text + both.image)


def test_the_pooled_state_is_the_final_norm_one(tiny, items):
    model, processor = tiny()
    batch = processor(items=["red tent"])
    captured = {}
    norm = model.vlm.language_model.norm
    handle = norm.register_forward_hook(lambda module, inputs, output: captured.update(before=inputs[0], after=output))
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, len(norm.weight)))
        vector = model(**batch).text_embeddings
    handle.remove()
    pooled = {name: last_token_pool(state, batch["attention_mask"]) for name, state in captured.items()}
    assert torch.allclose(vector, torch.nn.functional.normalize(pooled["after"], dim=-1), atol=1e-6)
    assert not torch.allclose(vector, torch.nn.functional.normalize(pooled["before"], dim=-1), atol=1e-3)


def test_last_token_pool_on_either_side():
    states = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert last_token_pool(states, mask).tolist() == [[2.0, 3.0], [10.0, 11.0]]


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_bfloat16_loads_and_stays_close(tiny, items, family, tmp_path):
    model, processor = tiny(family)
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    exact, rough = model.encode_items(items, processor).both, half.encode_items(items, processor).both
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.98


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_gradient_checkpointing_gives_the_same_gradients(tiny, items, family):
    grads = []
    for enable in (False, True):
        model, processor = tiny(family)
        model.train()
        if enable:
            model.gradient_checkpointing_enable()
        model(**processor(items=items)).embeddings.square().mean(0).sum().backward()
        model(**processor(items=items)).text_embeddings[:, 0].sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(grads[0]) == set(grads[1])
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_eager_attention_equals_sdpa(tiny, items, family, tmp_path):
    model, processor = tiny(family)
    model.save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert (eager.encode_items(items, processor).both - model.encode_items(items, processor).both).abs().max() < 1e-5


@pytest.mark.parametrize("family", CHECKPOINT_FAMILIES)
def test_from_backbone_takes_every_weight_or_refuses(tiny, family, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    model, processor = tiny(family)
    torch.manual_seed(5)
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    raw.save_pretrained(tmp_path / "raw")
    taken = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))
    expected = dict(raw.model.named_parameters())
    result = dict(taken.vlm.named_parameters())
    assert set(result) == set(expected)
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    vectors = taken.encode_items(["red tent"], processor).both
    assert vectors.shape == (1, 32) and torch.isfinite(vectors).all()

    weights = load_file(tmp_path / "raw" / "model.safetensors")
    lost = next(name for name in weights if "layers.1" in name and "q_proj.weight" in name)
    weights.pop(lost)
    save_file(weights, tmp_path / "raw" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="q_proj"):
        VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))


def test_unknown_backbones_and_fusions_are_refused():
    from transformers import BertConfig

    with pytest.raises(ValueError, match="bert"):
        VLM2RecEmbedder(VLM2RecConfig(vlm_config=BertConfig()))
    with pytest.raises(ValueError, match="`fusion`"):
        VLM2RecConfig(fusion="sideways")
    with pytest.raises(ValueError, match="`family`"):
        tiny_vlm("bert")


def test_config_round_trip(tmp_path):
    config = VLM2RecConfig(fusion="internal")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.fusion == "internal" and again.vlm_config.model_type == "qwen2_vl"
    assert again.hidden_size == again.get_text_config().hidden_size


def test_tiny_vlm_is_deterministic_and_leaves_the_random_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, _ = tiny_vlm(texts=["a"], hidden_size=32, vision_hidden_size=32, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    second, _ = tiny_vlm(texts=["a"], hidden_size=32, vision_hidden_size=32, seed=1)
    other, _ = tiny_vlm(texts=["a"], hidden_size=32, vision_hidden_size=32, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_encoding_errors(tiny):
    model, processor = tiny()
    with pytest.raises(ValueError, match="`batch_size`"):
        model.encode_items(["a"], processor, batch_size=0)
    with pytest.raises(ValueError, match="VLM2RecProcessor"):
        model()
    with pytest.raises(ValueError, match="`view`"):
        model.encode_items(["a"], processor).view("smell")
    assert len(model.encode_items([], processor)) == 0
