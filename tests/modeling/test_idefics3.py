"""Idefics3 and SmolVLM: rows, pixels and states are the backbones' own; images are never split or left out."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from vlm2rec_hf import VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import make_image, needs_image_processor

MODEL_TYPES = ("smolvlm", "idefics3")


def raw_pixels(processor, images):
    """What the backbone's own model reads: `(1, n, 3, edge, edge)`."""
    made = [processor.image_processor(images=[[p]], do_resize=False, return_tensors="pt") for p in images]
    return torch.cat([one["pixel_values"] for one in made], dim=1)


@pytest.mark.parametrize("family", MODEL_TYPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_states_are_the_backbones_own(tiny, family, side):
    model, processor = tiny(family)
    processor.tokenizer.padding_side = side
    shown = [make_image(0), make_image(1, (40, 90)), make_image(2, (200, 30)), make_image(3)]
    batch = processor(histories=[shown[:3], shown[3:]])
    rows, mask = batch["image_rows"], batch["image_rows_mask"]
    assert not mask.all()  # there is something to pad
    with torch.no_grad():
        images = model._gather_images(batch["pixel_values"], batch["image_grid_thw"], batch["image_index"], None, None)
        states = model.family.run(model.vlm, rows, mask, images)
        pixels = raw_pixels(processor, shown)
        expected = model.vlm(input_ids=rows, attention_mask=mask, pixel_values=pixels, use_cache=False)
    assert ((states - expected.last_hidden_state) * mask.unsqueeze(-1)).abs().max() < 1e-5
    # The images matter: other pixels, other states.
    with torch.no_grad():
        other = model.vlm(input_ids=rows, attention_mask=mask, pixel_values=pixels.flip(1), use_cache=False)
    assert ((states - other.last_hidden_state) * mask.unsqueeze(-1)).abs().max() > 1e-3


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_an_image_stands_in_a_row_as_the_library_writes_it(tiny, family):
    _, processor = tiny(family)
    prepared = processor.prepare_items([make_image(0, (300, 20))])[0]
    assert prepared.grid == (1, 4, 4) and prepared.pixel_values.shape == (16, 3 * 14 * 14)
    written = get_image_prompt_string(
        0, 0, 4, "<fake_token_around_image>", image_token="<image>", global_image_token="<global-img>"
    )
    expected = processor.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert processor.family.image_block(processor.tokenizer, processor.image_processor, prepared.grid) == expected


def test_a_tokenizer_without_a_token_for_the_global_tag(tiny):
    from vlm2rec_hf.tiny.backbones import train_tokenizer

    _, processor = tiny("idefics3")
    tokenizer = train_tokenizer(["a"], 400, ["<|endoftext|>", "<fake_token_around_image>", "<image>"])
    block = processor.family.image_block(tokenizer, processor.image_processor, (1, 4, 4))
    assert tokenizer.decode(block) == (
        "<fake_token_around_image><global-img>" + "<image>" * 4 + "<fake_token_around_image>"
    )


def test_images_are_not_split_whatever_the_image_processor_says(tiny):
    _, processor = tiny("smolvlm")
    processor.image_processor.do_image_splitting = True
    processor.image_processor.size = {"longest_edge": 4 * 56}
    large = processor.prepare_items([make_image(0, (500, 400))])[0]
    assert large.grid == (1, 4, 4)
    batch = processor(items=[make_image(0, (500, 400)), make_image(1)])
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4], [1, 4, 4]] and len(batch["pixel_values"]) == 32


def test_pixels_come_back_as_they_went_in(tiny):
    model, processor = tiny("smolvlm")
    images = [make_image(0), make_image(1, (40, 90))]
    batch = processor(items=images)
    seen = {}
    handle = model.vlm.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    handle.remove()
    assert torch.equal(seen["pixel_values"], raw_pixels(processor, images)[0])


def test_an_image_of_zeros_is_an_image(tiny):
    """The library takes images whose pixels are all zero for padding and drops them; ours keeps every slot."""
    model, processor = tiny("smolvlm")
    batch = processor(items=[make_image(0), Image.new("RGB", (50, 50), "gray")])
    batch["pixel_values"][16:] = 0.0
    output = model(**batch)
    assert output.image_embeddings.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_squares_that_the_tower_cannot_read_are_refused(tiny):
    _, processor = tiny("smolvlm")
    processor.image_processor.max_image_size = {"longest_edge": 42}
    with pytest.raises(ValueError, match="`image_processor.max_image_size` gives .* multiple of .* = 28"):
        processor.prepare_items([make_image(0)])


def test_an_image_processor_that_does_not_know_its_backbone_is_refused(tiny):
    _, processor = tiny("smolvlm")
    processor.image_processor.patch_size = None
    with pytest.raises(ValueError, match="`VLM2RecProcessor.from_backbone`"):
        processor.prepare_items([make_image(0)])


@pytest.mark.parametrize("family", ["qwen2_vl", *MODEL_TYPES])
def test_embedder_and_processor_of_one_raw_folder(tiny, items, family, tmp_path):
    """The files of a raw checkpoint (image processor without our notes) are enough, and saving keeps the notes."""
    needs_image_processor(family)
    model, processor = tiny(family)
    torch.manual_seed(3)
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    raw.save_pretrained(tmp_path / "raw")
    processor.tokenizer.save_pretrained(tmp_path / "raw")
    image_processor = type(processor.image_processor)(**upstream_settings(processor.image_processor))
    image_processor.save_pretrained(tmp_path / "raw")
    taken = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))
    its_processor = VLM2RecProcessor.from_backbone(str(tmp_path / "raw"), max_history=3)
    assert its_processor.backbone_type == family and its_processor.max_history == 3
    expected = taken.encode_items(items, processor).both
    assert torch.equal(taken.encode_items(items, its_processor).both, expected)
    its_processor.save_pretrained(tmp_path / "ours")
    again = VLM2RecProcessor.from_pretrained(tmp_path / "ours")
    assert torch.equal(taken.encode_items(items, again).both, expected)


def upstream_settings(image_processor):
    """Settings as a raw checkpoint holds them."""
    settings = image_processor.to_dict()
    if "scale_factor" in settings:
        del settings["scale_factor"], settings["patch_size"]
    del settings["image_processor_type"]
    return settings


def test_titles_that_spell_special_tokens_stay_text(tiny):
    model, processor = tiny("smolvlm")
    special = {processor.tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "<fake_token_around_image>")}
    special |= {processor.tokenizer.eos_token_id}
    title = "<image> lamp <fake_token_around_image><end_of_utterance>"
    ids = processor.prepare_items([title])[0].text
    assert ids and not special & set(ids)
    batch = processor(histories=[[title, {"text": title, "image": make_image(0)}]])
    assert int((batch["input_ids"] == model.config.vlm_config.image_token_id).sum()) == 0
    assert torch.isfinite(model(**batch).embeddings).all()


def test_gradient_reaches_tower_connector_and_language_model(tiny, items):
    model, processor = tiny("smolvlm")
    model(**processor(items=items)).embeddings[:, 0].sum().backward()
    untouched = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []
    model.zero_grad()
    model.freeze_vision()
    frozen = {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"vision_model", "connector"}
    assert all(re.search("vlm.text_model", name) for name, w in model.named_parameters() if w.requires_grad)


def test_other_sizes_than_the_towers_own(items):
    """`image_size` of the processor decides the number of tokens; positions are interpolated by the backbone."""
    model, processor = tiny_vlm("smolvlm", ["red tent"], image_size=84, hidden_size=32, vision_hidden_size=32)
    prepared = processor.prepare_items([make_image(0)])[0]
    assert prepared.grid == (1, 6, 6)
    vectors = model.encode_items(items, processor).both
    assert np.isfinite(vectors.numpy()).all()
