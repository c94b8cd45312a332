"""`from_parts`: a language model by its files, with an image encoder or with features, saved and loaded as one."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.modeling.configuration_parts import IMAGE_TOKEN
from vlm2rec_hf.modeling.family_parts import square_grid
from vlm2rec_hf.tiny.backbones import train_tokenizer

from ..conftest import make_image

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {"image_size": 28, "patch_size": 7}


def save_language_model(folder, kind="qwen3"):
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer(["red tent", "blue mug"], 400, ["<|endoftext|>"])
    options = {**SIZES, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "pad_token_id": None}
    options |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    if kind == "gemma3_text":
        options |= {"head_dim": 8, "sliding_window": 16}
    config = AutoConfig.for_model(kind, **options)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_encoder(folder, kind):
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessorPil,
    )  # fmt: skip

    torch.manual_seed(1)
    vision = {**SIZES, **SQUARE}
    size = {"size": {"height": 28, "width": 28}}
    if kind == "siglip":
        text = {**SIZES, "vocab_size": 50}
        model, images = (
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision)),
            SiglipImageProcessorPil(**size),
        )
    elif kind == "clip":
        text = {**SIZES, "vocab_size": 50}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    elif kind == "dinov2":
        model, images = Dinov2Model(Dinov2Config(**vision, mlp_ratio=2)), ViTImageProcessorPil(**size)
    else:  # a classifier has no pooler
        model, images = ViTForImageClassification(ViTConfig(**vision)), ViTImageProcessorPil(**size)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    return str(folder), model


@pytest.mark.parametrize("kind", ["siglip", "clip", "dinov2", "vit"])
def test_an_encoder_is_run_as_the_library_runs_it_and_all_is_saved_as_one(tmp_path, kind):
    text = save_language_model(tmp_path / "text")
    encoder, raw = save_encoder(tmp_path / "images", kind)
    parts = {"language_model": text, "image_encoder": encoder, "tokens_per_image": 4}
    model, processor = VLM2RecEmbedder.from_parts(**parts), VLM2RecProcessor.from_parts(**parts, max_history=3)
    assert not any(weight.requires_grad for weight in model.vision_parameters())

    image = make_image(0, (40, 50))
    tower = getattr(raw, "vision_model", getattr(raw, "vit", raw)).eval()
    pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    states = tower(pixel_values=pixels).last_hidden_state[0, -16:].unflatten(0, (4, 4))
    corners = torch.stack([states[i : i + 2, j : j + 2].mean((0, 1)) for i in (0, 2) for j in (0, 2)])
    prepared = processor.prepare_items([image])[0]
    features = model.encode_images(prepared.pixel_values, torch.tensor([prepared.grid])).tokens
    assert features.shape == (4, 32) and (features - corners).abs().max() < 1e-5

    items = [{"text": "red tent", "image": image}, "blue mug", image]
    expected = model.encode_items(items, processor)
    assert expected.has_image.tolist() == [True, False, True]
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = VLM2RecProcessor.from_pretrained(tmp_path / "saved")
    assert again.max_history == 3
    loaded = AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(loaded.encode_items(items, again).both, expected.both)
    assert loaded.config.vlm_config.image_encoder == encoder


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3_text"])
def test_any_causal_decoder_reads_features(tmp_path, kind):
    parts = {"language_model": save_language_model(tmp_path, kind), "feature_size": 12}
    model, processor = VLM2RecEmbedder.from_parts(**parts), VLM2RecProcessor.from_parts(**parts)
    rng = np.random.default_rng(0)
    items = [{"text": f"red tent {i}", "image_features": rng.normal(size=(3, 12))} for i in range(6)]
    every = model.encode_histories([items], processor, every_click=True)
    alone = model.encode_histories([items[: i + 1] for i in range(6)], processor)
    assert (every.both - alone.both).abs().max() < 1e-5
    processor.tokenizer.padding_side = "left"
    left = model.encode_histories([items[: i + 1] for i in range(6)], processor)
    assert (left.both - alone.both).abs().max() < 1e-5


def test_the_weights_are_the_language_models_and_the_projector_speaks_as_loud_as_words(tmp_path):
    from transformers import AutoModelForCausalLM

    text = save_language_model(tmp_path)
    model = VLM2RecEmbedder.from_parts(language_model=text, feature_size=12)
    raw = AutoModelForCausalLM.from_pretrained(text).model
    for name, weight in raw.named_parameters():
        assert torch.equal(model.vlm.language_model.get_parameter(name), weight)
    words = model.get_input_embeddings().weight.square().mean().sqrt()
    said = model.vlm.image_projector(5 + 3 * torch.randn(400, 12)).square().mean().sqrt()
    assert 0.5 < said / words < 2
    other = VLM2RecEmbedder.from_parts(language_model=text, feature_size=12, seed=1)
    same = VLM2RecEmbedder.from_parts(language_model=text, feature_size=12)
    weights = [one.vlm.image_projector[1].weight for one in (model, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_title_cannot_open_an_image(tmp_path):
    processor = VLM2RecProcessor.from_parts(language_model=save_language_model(tmp_path), feature_size=12)
    token = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert token not in processor.tokenize_texts([f"a {IMAGE_TOKEN} b"])[0]
    row = processor([{"image_features": np.ones((2, 12))}])["image_rows"][0].tolist()
    assert row.count(token) == 2 and row[-1] == processor.end_id


def test_an_adapter_is_loaded_onto_its_parts(tmp_path):
    from vlm2rec_hf import VLM2RecTrainingArguments, default_lora_config
    from vlm2rec_hf.trainers.adapters import wrap_with_adapter

    encoder, _ = save_encoder(tmp_path / "images", "siglip")
    parts = {"language_model": save_language_model(tmp_path / "text"), "image_encoder": encoder}
    model, processor = VLM2RecEmbedder.from_parts(**parts), VLM2RecProcessor.from_parts(**parts)
    args = VLM2RecTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to=[])
    wrapped = wrap_with_adapter(model, default_lora_config(), args)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape))
    items = [{"text": "red tent", "image": make_image(0)}, make_image(1)]
    expected = model.eval().encode_items(items, processor)
    wrapped.peft_config["default"].base_model_name_or_path = parts["language_model"]
    wrapped.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    loaded = VLM2RecEmbedder.from_pretrained(tmp_path / "adapter")
    assert (loaded.encode_items(items, processor).both - expected.both).abs().max() < 1e-5


def test_what_does_not_fit_is_refused_by_name(tmp_path, tiny):
    from transformers import AutoModelForImageTextToText, MambaConfig, MambaModel

    text = save_language_model(tmp_path / "text")
    with pytest.raises(ValueError, match="exactly one of `image_encoder`"):
        VLM2RecEmbedder.from_parts(language_model=text)
    with pytest.raises(ValueError, match="exactly one of `image_encoder`"):
        VLM2RecProcessor.from_parts(language_model=text, image_encoder=text, feature_size=3)
    with pytest.raises(ValueError, match="`image_encoder` has model_type 'qwen3'"):
        VLM2RecEmbedder.from_parts(language_model=text, image_encoder=text)
    vlm = AutoModelForImageTextToText.from_config(tiny()[0].config.vlm_config)
    vlm.save_pretrained(tmp_path / "vlm")
    with pytest.raises(ValueError, match="sees images by itself"):
        VLM2RecEmbedder.from_parts(language_model=str(tmp_path / "vlm"), feature_size=3)
    MambaModel(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path / "mamba")
    train_tokenizer([], 300, ["<|endoftext|>"]).save_pretrained(tmp_path / "mamba")
    with pytest.raises(ValueError, match="'mamba', which takes no position_ids"):
        VLM2RecEmbedder.from_parts(language_model=str(tmp_path / "mamba"), feature_size=3)


@pytest.mark.parametrize(("cells", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (6, (2, 3)), (16, (4, 4))])
def test_the_grid_is_as_square_as_can_be(cells, grid):
    assert square_grid(cells) == grid
