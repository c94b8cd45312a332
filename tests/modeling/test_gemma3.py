"""Gemma 3: rows, pixels and states are the backbone's own where its images are read causally; windows."""

import copy
import random

import pytest
import torch
from transformers import AutoModelForImageTextToText

from vlm2rec_hf import HistoryState, VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.descriptions.generation_inputs import generation_inputs
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import make_image, needs_image_processor
from ..histories.test_history_state import clicked, difference
from .image_rows import IMAGES, check_that_what_follows_changes_nothing, histories_of, raw_pixels

WINDOW = 7


@pytest.fixture(scope="module")
def built():
    """`built(window)`: a model half of whose layers see that many tokens."""
    made = {}

    def make(window=4096):
        if window not in made:
            model, processor = tiny_vlm("gemma3", ["red tent"], hidden_size=32, vision_hidden_size=32)
            config = model.config.vlm_config
            config.text_config.sliding_window = window
            assert config.text_config.layer_types == ["sliding_attention", "full_attention"]
            torch.manual_seed(2)
            model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config)).eval()
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if "projection_weight" in name:
                        weight.normal_()  # the library begins with zeros
                    elif weight.ndim > 1 and "language_model.layers" in name:
                        weight.mul_(12)  # attention that tells tokens apart
            made[window] = model, processor
        return copy.deepcopy(made[window])

    return make


@pytest.mark.parametrize("window", [4096, WINDOW])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_states_are_the_backbones_own_and_packed_rows_agree(built, window, attention):
    model, processor = built(window)
    rows, mask, images = histories_of(model, processor)
    assert not mask.all() and mask.sum(-1).min() > WINDOW
    model.vlm.language_model.config._attn_implementation = attention
    states = model.family.run(model.vlm, rows, mask, images)
    given = {"input_ids": rows, "attention_mask": mask, "use_cache": False, "pixel_values": raw_pixels(processor)}
    expected = model.vlm(**given).last_hidden_state

    def apart(other):
        return ((states - other) * mask.unsqueeze(-1)).abs().max()

    assert apart(expected) < 2e-5
    # Images matter, and so does the direction in which their tokens see one another.
    assert apart(model.vlm(**{**given, "pixel_values": raw_pixels(processor).flip(0)}).last_hidden_state) > 1e-2
    kinds = (rows == model.config.vlm_config.image_token_id).long()
    assert apart(model.vlm(**given, token_type_ids=kinds).last_hidden_state) > 1e-3
    assert (model.family.run_packed(model.vlm, rows, mask, images) - states[mask.bool()]).abs().max() < 2e-5


@pytest.mark.parametrize("window", [4096, WINDOW])
@torch.no_grad()
def test_what_follows_changes_nothing(built, window):
    """Also within an image, and without a mask, where the attention kernel itself has to know that it is causal."""
    model, processor = built(window)
    check_that_what_follows_changes_nothing(model, processor, 4, lambda _, images: int(images.nonzero()[-2]))


def test_a_window_counts_tokens_of_the_row_and_no_empty_slots(built):
    """Users of different lengths, whose rows share caches, against rows that stand alone; far beyond the window."""
    model, processor = built(WINDOW)
    processor.max_history = 5
    shop = ["red tent", "blue mug with a long story", *IMAGES, {"text": "lamp", "image": make_image(5)}]
    state = HistoryState(model, processor, users=["ann", "bob", 7])
    histories, rng = {user: [] for user in state.users}, random.Random(3)
    for _ in range(6):
        clicked(state, histories, rng, shop)
        known = [user for user in histories if histories[user]]
        expected = model.encode_histories([histories[user] for user in known], processor)
        assert difference(state.embedding(known), expected) < 2e-5
    # The window is felt: without it the vectors are others.
    model.config.get_text_config().sliding_window = 4096
    for layer in model.vlm.language_model.layers:
        if layer.self_attn.is_sliding:
            layer.self_attn.sliding_window = 4096
    assert difference(model.encode_histories([histories[user] for user in known], processor), expected) > 1e-3


def test_an_image_stands_in_a_row_as_the_library_writes_it(built):
    from transformers import Gemma3Processor

    _, processor = built()
    tokenizer, image_processor = copy.deepcopy(processor.tokenizer), copy.deepcopy(processor.image_processor)
    prepared = processor.prepare_items([IMAGES[1]])[0]
    assert prepared.grid == (1, 4, 4) and prepared.pixel_values.shape == (16, 3 * 14 * 14)
    block = processor.family.image_block(processor.tokenizer, processor.image_processor, prepared.grid)
    for name, token in (("boi", "<start_of_image>"), ("image", "<image_soft_token>"), ("eoi", "<end_of_image>")):
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    theirs = Gemma3Processor(image_processor, tokenizer, image_seq_length=4)(
        images=[[IMAGES[1]]], text=["<start_of_image>red tent"]
    )
    assert list(theirs["input_ids"][0]) == [*block, *processor.tokenizer("red tent")["input_ids"]]


def test_what_does_not_fit_is_refused(built):
    model, processor = built()
    processor.image_processor.size = {"height": 84, "width": 84}
    with pytest.raises(ValueError, match="`image_processor.size` gives 84 x 84 pixels.* just 56 x 56"):
        processor.prepare_items(IMAGES[:1])
    processor.image_processor.image_tokens = None
    with pytest.raises(ValueError, match="`image_tokens`; make the processor with `VLM2RecProcessor.from_backbone`"):
        processor.prepare_items(IMAGES[:1])
    model.config.vlm_config.text_config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="`use_bidirectional_attention` of the backbone is True"):
        model.set_up_backbone(model.vlm)


def test_a_raw_folder_gives_model_and_processor(built, items, tmp_path):
    """Also what the files of the image processor lack."""
    needs_image_processor("gemma3")
    model, processor = built(WINDOW)
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    raw.model.load_state_dict(model.vlm.state_dict())
    raw.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    type(processor.image_processor)(size=processor.image_processor.size).save_pretrained(tmp_path)
    taken, its_processor = VLM2RecEmbedder.from_backbone(str(tmp_path)), VLM2RecProcessor.from_backbone(str(tmp_path))
    assert its_processor.image_processor.image_tokens == 4
    expected = model.encode_items(items, processor).both
    assert (taken.encode_items(items, its_processor).both - expected).abs().max() < 1e-6


@torch.no_grad()
def test_generate_gets_images_that_see_themselves(built):
    """Describing items uses the backbone as it was pretrained: an image's first token depends on its last."""
    model, processor = built()
    item = processor.prepare_items([IMAGES[0]])[0]
    block = processor.family.image_block(processor.tokenizer, processor.image_processor, item.grid)
    ids, grid = torch.tensor([block]), torch.tensor([item.grid])
    inputs = generation_inputs(model.family, model.config.vlm_config, ids, item.pixel_values, grid)
    assert torch.equal(inputs["pixel_values"][0], raw_pixels(processor)[0])
    placed = ids == model.config.vlm_config.image_token_id
    assert torch.equal(inputs["token_type_ids"], placed.long())
    causal = model.family.run(model.vlm, ids, torch.ones_like(ids), model.encode_images(item.pixel_values, grid))
    both_ways = model.vlm(input_ids=ids, **inputs).last_hidden_state
    first = int(placed[0].nonzero()[0])
    assert (causal - both_ways)[0, first].abs().max() > 1e-3 > (causal - both_ways)[0, :first].abs().max()
