"""PaliGemma: rows, pixels and states are the backbone's own with all marked as suffix; windows; Gemma and Gemma 2."""

import copy
import random

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GemmaConfig, PaliGemmaConfig

from vlm2rec_hf import HistoryState, VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.descriptions.generation_inputs import generation_inputs
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import make_image, needs_image_processor
from ..histories.test_history_state import clicked, difference
from .image_rows import IMAGES, check_that_what_follows_changes_nothing, histories_of, raw_pixels

WINDOW = 7


@pytest.fixture(scope="module")
def built():
    """`built(text)`: a model with Gemma, with Gemma 2, or with Gemma 2 half of whose layers see `WINDOW` tokens."""
    made = {}

    def make(text="gemma2"):
        if text not in made:
            model, processor = tiny_vlm("paligemma", ["red tent"], hidden_size=32, vision_hidden_size=32)
            config = model.config.vlm_config
            if text == "gemma":
                names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "num_key_value_heads", "head_dim", "pad_token_id", "eos_token_id")  # fmt: skip
                whole = {**config.to_dict(), "text_config": {"model_type": "gemma"}}
                whole["text_config"] |= {name: getattr(config.text_config, name) for name in names}
                config = PaliGemmaConfig.from_dict(whole)
                assert isinstance(config.text_config, GemmaConfig)
            elif text == "window":
                config.text_config.sliding_window = WINDOW
            torch.manual_seed(2)
            model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config)).eval()
            with torch.no_grad():
                for name, weight in model.vlm.language_model.named_parameters():
                    if weight.ndim > 1 and "embed" not in name:
                        weight.mul_(12)  # attention that tells tokens apart
            made[text] = model, processor
        return copy.deepcopy(made[text])

    return make


@pytest.mark.parametrize("text", ["gemma", "gemma2", "window"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_states_are_the_backbones_own_with_everything_a_suffix(built, text, side):
    model, processor = built(text)
    rows, mask, images = histories_of(model, processor, side)
    assert not mask.all() and mask.sum(-1).min() > 2 * WINDOW
    states = model.family.run(model.vlm, rows, mask, images)
    pixels, kinds = raw_pixels(processor), torch.ones_like(rows)
    given = {"input_ids": rows, "attention_mask": mask, "use_cache": False}
    expected = model.vlm(**given, pixel_values=pixels, token_type_ids=kinds).last_hidden_state

    def apart(other):
        return ((states - other) * mask.unsqueeze(-1)).abs().max()

    assert apart(expected) < 2e-5
    # Images matter, and so does the direction: read as it was pretrained, the same row has other states.
    assert apart(model.vlm(**given, pixel_values=pixels.flip(0), token_type_ids=kinds).last_hidden_state) > 1e-2
    assert apart(model.vlm(**given, pixel_values=pixels, token_type_ids=0 * kinds).last_hidden_state) > 1e-2


@pytest.mark.parametrize("text", ["gemma", "gemma2", "window"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_implementations_and_packed_rows_agree(built, text, attention):
    model, processor = built(text)
    rows, mask, images = histories_of(model, processor)
    model.vlm.language_model.config._attn_implementation = "eager"
    expected = model.family.run(model.vlm, rows, mask, images)[mask.bool()]
    # As transformers 5.17 sets it for Gemma 2 too, whose cap on scores SDPA then leaves out.
    model.vlm.language_model.config._attn_implementation = attention
    assert (model.family.run(model.vlm, rows, mask, images)[mask.bool()] - expected).abs().max() < 2e-5
    assert (model.family.run_packed(model.vlm, rows, mask, images) - expected).abs().max() < 2e-5
    assert model.family.sizes(model.vlm)[0].writes_scores == (attention == "eager" or text != "gemma")


@pytest.mark.parametrize("text", ["gemma", "gemma2", "window"])
@torch.no_grad()
def test_what_follows_changes_nothing(built, text):
    """Also without a mask, where the attention kernel itself has to know that it is causal."""
    model, processor = built(text)
    check_that_what_follows_changes_nothing(model, processor, 16, lambda row, _: len(row) - 12)


def test_a_window_counts_tokens_of_the_row_and_no_empty_slots(built):
    """Users of different lengths, whose rows share caches, against rows that stand alone; far beyond the window."""
    model, processor = built("window")
    processor.max_history = 5
    shop = ["red tent", "blue mug with a long story", *IMAGES, {"text": "lamp", "image": make_image(5)}]
    state = HistoryState(model, processor, users=["ann", "bob", 7])
    histories, rng = {user: [] for user in state.users}, random.Random(3)
    for _ in range(8):
        clicked(state, histories, rng, shop)
        known = [user for user in histories if histories[user]]
        expected = model.encode_histories([histories[user] for user in known], processor)
        assert difference(state.embedding(known), expected) < 2e-5
    assert len(set(state.lengths)) > 1 or min(state.lengths) == 5
    # The window is felt: without it the vectors are others.
    model.config.get_text_config().sliding_window = 4096
    for layer in model.vlm.language_model.layers:
        layer.self_attn.sliding_window = 4096
    assert difference(model.encode_histories(list(histories.values()), processor), expected) > 1e-3


def test_an_image_stands_in_a_row_as_the_library_writes_it(built):
    from transformers import PaliGemmaProcessor

    _, processor = built()
    tokenizer, image_processor = copy.deepcopy(processor.tokenizer), copy.deepcopy(processor.image_processor)
    prepared = processor.prepare_items([IMAGES[1]])[0]
    assert prepared.grid == (1, 4, 4) and prepared.pixel_values.shape == (16, 3 * 14 * 14)
    block = processor.family.image_block(processor.tokenizer, processor.image_processor, prepared.grid)
    image_processor.image_seq_length = 16
    tokenizer.bos_token = "<bos>"
    theirs = PaliGemmaProcessor(image_processor, tokenizer)(images=[IMAGES[1]], text="<image>red tent")
    written = processor.tokenizer("red tent\n", add_special_tokens=False)["input_ids"]
    assert list(theirs["input_ids"][0]) == [*block, *written]


def test_pixels_come_back_as_they_went_in_and_towers_read_other_sizes(built):
    model, processor = built()
    seen = {}
    model.vlm.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    for edge in (56, 84):  # the tower was made for 56
        processor.image_processor.size = {"height": edge, "width": edge}
        batch = processor(items=IMAGES)
        features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
        assert (
            torch.equal(seen["pixel_values"], raw_pixels(processor)) and len(features.tokens) == 4 * (edge // 14) ** 2
        )
        assert torch.isfinite(model(**batch).embeddings).all()


def test_image_processors_that_do_not_fit_are_refused(built):
    _, processor = built()
    processor.image_processor.size = {"height": 60, "width": 56}
    with pytest.raises(ValueError, match="`image_processor.size` gives 56 x 60 pixels.* patch_size = 14"):
        processor.prepare_items(IMAGES[:1])
    processor.image_processor.patch_size = None
    with pytest.raises(ValueError, match="`VLM2RecProcessor.from_backbone`"):
        processor.prepare_items(IMAGES[:1])


@pytest.mark.parametrize("text", ["gemma", "window"])
def test_a_raw_folder_gives_model_and_processor(built, items, text, tmp_path):
    """Gemma 2 is in test_embedder.py; here Gemma, a window, and what the files of the image processor lack."""
    needs_image_processor("paligemma")
    model, processor = built(text)
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    raw.save_pretrained(tmp_path)
    # The published checkpoints' names: older versions had one more level in the tower.
    weights = load_file(tmp_path / "model.safetensors")
    assert "language_model.model.norm.weight" in weights and "vision_tower.post_layernorm.weight" in weights
    weights = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    processor.tokenizer.save_pretrained(tmp_path)
    type(processor.image_processor)(size=processor.image_processor.size).save_pretrained(tmp_path)
    taken, its_processor = VLM2RecEmbedder.from_backbone(str(tmp_path)), VLM2RecProcessor.from_backbone(str(tmp_path))
    assert its_processor.image_processor.patch_size == 14
    assert taken.config.get_text_config().model_type == ("gemma" if text == "gemma" else "gemma2")
    raw.model.eval()
    ours = VLM2RecEmbedder(VLM2RecConfig(vlm_config=model.config.vlm_config)).eval()
    ours.vlm.load_state_dict(raw.model.state_dict())
    expected = ours.encode_items(items, processor).both
    assert (taken.encode_items(items, its_processor).both - expected).abs().max() < 1e-6


def test_the_prompt_of_generate_is_read_in_both_directions(built):
    """Describing items uses the backbone as it was pretrained: its first token's state depends on the last."""
    model, processor = built()
    config = model.config.vlm_config
    row = processor.tokenizer("red tent in blue", return_tensors="pt", add_special_tokens=False)["input_ids"]
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in whole.model.language_model.layers.parameters():
            if weight.ndim > 1:
                weight.mul_(12)
        first = [
            whole(input_ids=ids, **generation_inputs(model.family, config, ids, None, None)).logits[:, 0]
            for ids in (row, torch.cat([row[:, :-1], row[:, :1]], dim=1))
        ]
    assert (first[0] - first[1]).abs().max() > 1e-4


def test_gradient_reaches_tower_projector_and_language_model(built, items):
    model, processor = built()
    model(**processor(items=items)).embeddings[:, 0].sum().backward()
    untouched = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []
    model.freeze_vision()
    frozen = {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}


def test_titles_that_spell_special_tokens_stay_text(built):
    model, processor = built()
    special = set(processor.tokenizer.convert_tokens_to_ids(["<image>", "<bos>"]))
    ids = processor.prepare_items(["<image> lamp <bos>"])[0].text
    assert ids and not special & set(ids)


def test_pixrecs_head_bends_logits_as_gemma_2_does(tiny_pix):
    """The bound is felt at large logits only, so the head is made large."""
    from vlm2rec_hf.evaluation.generation import _next_scores

    model, processor = tiny_pix("paligemma")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(300)
    history, target = processor.prepare_items(["red tent"]), processor.prepare_items(["blue mug"])
    batch = processor.collate_sequences([history], target)
    labels = batch["labels"]
    result = model(**batch).token_nll
    with torch.no_grad():
        states = model.hidden_states(**{name: batch[name] for name in ("input_ids", "attention_mask")})
        plain = states @ model.head_weight.T
    bent = 30 * torch.tanh(plain / 30)
    at = (labels[0, 1:] != -100).nonzero()[:, 0]
    nll = [torch.nn.functional.cross_entropy(one[0, at], labels[0, at + 1], reduction="none") for one in (bent, plain)]
    assert (result - nll[0]).abs().max() < 1e-3 and (nll[0] - nll[1]).abs().max() > 1
    scores = _next_scores(model, [history], [[]], processor)[0]
    words = scores.isfinite()
    expected = torch.log_softmax(bent[0, at[0]].double(), dim=-1)
    assert (scores - expected)[words].abs().max() < 1e-3
