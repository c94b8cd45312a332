"""LLaVA: rows, pixels and states are the library's own, for each tower, layer and choice of features."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaProcessor,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vlm2rec_hf import VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.descriptions.generation_inputs import generation_inputs
from vlm2rec_hf.descriptions.layouts import FamilyLayout
from vlm2rec_hf.descriptions.prompts import load_prompts
from vlm2rec_hf.tiny.backbones import CHAT_TEMPLATE, tiny_vlm

from ..conftest import needs_image_processor
from .image_rows import IMAGES, check_that_what_follows_changes_nothing, histories_of, raw_pixels

# Tower, language model, pixels a side, `vision_feature_layer`, `vision_feature_select_strategy`, tokens per image.
KINDS = {
    "clip": ("clip", "llama", 56, -2, "default", 16),  # as LLaVA 1.5
    "clip-full": ("clip", "llama", 56, -1, "full", 17),
    "clip-layers": ("clip", "llama", 56, [-2, 3, 0], "default", 16),
    "siglip": ("siglip", "qwen2", 62, -1, "full", 16),  # as LLaVA-Interleave, whose 384 pixels are no multiple of 14
    "siglip-layers": ("siglip", "qwen2", 56, [1, 2], "default", 15),
}


@pytest.fixture(scope="module")
def built():
    """`built(kind)`: model and processor of one of `KINDS`, three layers in the tower."""
    made = {}

    def make(kind="clip"):
        if kind not in made:
            tower, language, edge, layer, strategy, _ = KINDS[kind]
            model, processor = tiny_vlm("llava", ["red tent"], hidden_size=32, vision_hidden_size=48, vision_layers=3)
            plain = model.config.vlm_config
            options = {"text_config": plain.text_config, "vision_config": plain.vision_config}
            if language == "qwen2":
                names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "num_key_value_heads", "bos_token_id", "pad_token_id", "eos_token_id")  # fmt: skip
                options["text_config"] = Qwen2Config(**{name: getattr(plain.text_config, name) for name in names})
            if tower == "siglip":
                options["vision_config"] = SiglipVisionConfig(
                    hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, patch_size=14,
                    image_size=edge, vision_use_head=False,
                )  # fmt: skip
                processor.image_processor = SiglipImageProcessorPil(size={"height": edge, "width": edge})
            config = LlavaConfig(
                **options, image_token_index=plain.image_token_id, vision_feature_layer=layer,
                vision_feature_select_strategy=strategy,
            )  # fmt: skip
            torch.manual_seed(2)
            model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config)).eval()
            model.family.set_up_image_processor(processor.image_processor, config)
            with torch.no_grad():
                for name, weight in model.vlm.named_parameters():
                    if weight.ndim > 1 and "embed" not in name:
                        weight.mul_(4)  # layers that tell tokens apart
            made[kind] = model, processor
        return copy.deepcopy(made[kind])

    return make


def librarys_processor(processor, kind):
    """`LlavaProcessor` with the settings of a published `processor_config.json`."""
    tower, *_, strategy, _ = KINDS[kind]
    return LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=14,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(tower == "clip"),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_states_are_the_backbones_own(built, kind, side):
    model, processor = built(kind)
    rows, mask, images = histories_of(model, processor, side)
    assert not mask.all()  # there is something to pad
    states = model.family.run(model.vlm, rows, mask, images)
    pixels = raw_pixels(processor)
    given = {"input_ids": rows, "attention_mask": mask, "use_cache": False}

    def apart(other):
        return ((states - other) * mask.unsqueeze(-1)).abs().max()

    assert apart(model.vlm(**given, pixel_values=pixels).last_hidden_state) < 2e-5
    assert apart(model.vlm(**given, pixel_values=pixels.flip(0)).last_hidden_state) > 1e-2  # images matter
    assert (model.family.run_packed(model.vlm, rows, mask, images) - states[mask.bool()]).abs().max() < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_pixels_are_those_of_the_librarys_processor(built, kind):
    model, processor = built(kind)
    edge, tokens = KINDS[kind][2], KINDS[kind][-1]
    prepared = processor.prepare_items([IMAGES[1]])[0]
    assert prepared.grid == (1, 4, 4) and prepared.pixel_values.shape == (16, 3 * 14 * 14)
    grid = torch.tensor([prepared.grid])
    assert model.family.tokens_per_image(model.config.vlm_config, grid).tolist() == [tokens]
    block = processor.family.image_block(processor.tokenizer, processor.image_processor, prepared.grid)
    theirs = librarys_processor(processor, kind)(images=[IMAGES[1]], text="<image>red tent", return_tensors="pt")
    written = processor.tokenizer("red tent", add_special_tokens=False)["input_ids"]
    assert len(block) == tokens and theirs["input_ids"][0].tolist() == [*block, *written]
    given = generation_inputs(model.family, model.config.vlm_config, None, prepared.pixel_values, grid)
    assert theirs["pixel_values"].shape == (1, 3, edge, edge)
    assert torch.equal(given["pixel_values"], theirs["pixel_values"][:, :, :56, :56])  # what the tower reads of it


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_what_follows_changes_nothing(built, kind):
    """Without a mask, where the attention kernel itself has to know that it is causal."""
    model, processor = built(kind)
    check_that_what_follows_changes_nothing(model, processor, 16, lambda row, _: len(row) - 12)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_a_missing_image_leaves_the_text_alone(built, kind):
    model, processor = built(kind)
    with_image, without = {"text": "red tent", "image": IMAGES[0]}, {"text": "red tent"}
    batch = processor(items=[with_image, without])
    output = model(**batch)
    assert output.has_image.tolist() == [True, False]
    assert not output.image_embeddings[1].any() and output.image_embeddings[0].norm() == pytest.approx(1, abs=1e-5)
    own = model.vlm(input_ids=batch["input_ids"][1:], use_cache=False).last_hidden_state[:, -1]
    own = torch.nn.functional.normalize(own, dim=-1)
    assert (output.embeddings[1] - own[0]).abs().max() < 1e-5
    # In a history an item without an image has no place in the row of images.
    gap, close = ([IMAGES[1], without, IMAGES[2]], [IMAGES[1], IMAGES[2]])
    images = [model(**processor(histories=[history])).image_embeddings for history in (gap, close)]
    assert torch.equal(*images) and images[0].any()


@torch.no_grad()
def test_pixels_come_back_as_they_went_in_and_towers_read_other_sizes(built):
    model, processor = built()
    seen = {}
    model.vlm.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    for edge in (56, 84):  # the tower was made for 56
        processor.image_processor.size = {"shortest_edge": edge}
        processor.image_processor.crop_size = {"height": edge, "width": edge}
        batch = processor(items=IMAGES)
        features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
        assert torch.equal(seen["pixel_values"], raw_pixels(processor))
        assert len(features.tokens) == 4 * (edge // 14) ** 2
        assert torch.isfinite(model(**batch).embeddings).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("name", ["image_token_index", "image_token_id"])
def test_a_published_folder_gives_model_and_processor(built, items, kind, name, tmp_path):
    """With the published checkpoints' names: of weights, of the image token, and without our notes."""
    needs_image_processor("llava" if kind == "clip" else "paligemma")
    model, processor = built(kind)
    raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    raw.model.load_state_dict(model.vlm.state_dict())
    raw.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "language_model.model.norm.weight" in weights and "vision_tower.post_layernorm.weight" in weights
    weights = {key.replace("vision_tower.", "vision_tower.vision_model."): one for key, one in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    token = [config.pop(key) for key in ("image_token_index", "image_token_id") if key in config]
    (tmp_path / "config.json").write_text(json.dumps({**config, name: token[0]}))
    processor.tokenizer.save_pretrained(tmp_path)
    sizes = {key: getattr(processor.image_processor, key) for key in ("size", "crop_size")}
    type(processor.image_processor)(**sizes).save_pretrained(tmp_path)
    assert "patch_size" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    taken, its_processor = VLM2RecEmbedder.from_backbone(str(tmp_path)), VLM2RecProcessor.from_backbone(str(tmp_path))
    assert its_processor.image_processor.patch_size == 14
    expected = model.encode_items(items, processor).both
    assert (taken.encode_items(items, its_processor).both - expected).abs().max() < 1e-6
    its_processor.save_pretrained(tmp_path / "ours")
    again = VLM2RecProcessor.from_pretrained(tmp_path / "ours")
    assert (taken.encode_items(items, again).both - expected).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_gradient_reaches_all_that_is_read(built, items, kind):
    model, processor = built(kind)
    model(**processor(items=items)).embeddings[:, 0].sum().backward()
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    tower, unread = "vlm.vision_tower.", ["post_layernorm."] + (["encoder.layers.2."] if kind == "clip" else [])
    never_read = {
        name for name, _ in model.named_parameters() if any(name.startswith(tower + part) for part in unread)
    }
    keys = {name for name in untouched if "vision_tower" in name and name.endswith("k_proj.bias")}
    assert untouched - keys == never_read - keys  # a bias of all keys moves no attention
    model.freeze_vision()
    frozen = {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("kind", ["clip", "clip-layers"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_trains_the_tower_alike(built, items, kind, reentrant):
    """The states that are read come from inside the tower, and so from inside what is run twice."""
    model, processor = built(kind)
    batch = processor(items=items)

    def gradients():
        model.zero_grad()
        model(**batch).embeddings[:, 0].sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    model.train()
    expected = gradients()
    assert expected["vlm.vision_tower.encoder.layers.0.mlp.fc1.weight"].any()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    result = gradients()
    assert max(float((result[name] - grad).abs().max()) for name, grad in expected.items() if grad.any()) < 1e-5


def test_images_that_are_no_squares_and_unmarked_image_processors_are_refused(built):
    _, processor = built()
    processor.image_processor.do_center_crop = False
    processor.image_processor.size = {"height": 56, "width": 56}
    assert processor.prepare_items(IMAGES[1:2])[0].grid == (1, 4, 4)  # the whole image, in a square
    processor.image_processor.size = {"shortest_edge": 56}
    with pytest.raises(ValueError, match="`image_processor` gives 56 x 126 pixels, but images must be squares"):
        processor.prepare_items(IMAGES[1:2])
    processor.image_processor.patch_size = None
    with pytest.raises(ValueError, match="`VLM2RecProcessor.from_backbone`"):
        processor.prepare_items(IMAGES[:1])


def test_towers_that_are_not_known_are_refused(built):
    model, processor = built()
    config = LlavaConfig(
        text_config=model.config.get_text_config(),
        vision_config=PixtralVisionConfig(
            hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
        ),
    )
    with pytest.raises(ValueError, match=r"model_type 'pixtral'; LLaVA towers .* \['clip_vision_model', 'siglip_"):
        VLM2RecEmbedder(VLM2RecConfig(vlm_config=config))
    with pytest.raises(ValueError, match="'pixtral'"):
        model.family.set_up_image_processor(processor.image_processor, config)


@pytest.mark.parametrize("writes_it", [False, True])
def test_rows_to_describe_begin_as_the_librarys(built, writes_it):
    """Llama's tokenizer puts `<s>` in front of what the chat template wrote, unless that did so itself."""
    model, processor = built()
    tokenizer = processor.tokenizer
    start = "<|im_end|>"
    tokenizer.add_special_tokens({"bos_token": start})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.bos_token_id)]
    )
    template = (start if writes_it else "") + CHAT_TEMPLATE.replace("IMAGE", "<image>")
    prompts = load_prompts()
    ours = FamilyLayout(processor, model.config.vlm_config, template).batch("image", [{"image": IMAGES[1]}], prompts)
    content = [{"type": "image"}, {"type": "text", "text": prompts.image}]
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    theirs = librarys_processor(processor, "clip")(
        images=[IMAGES[1]], text=written, add_special_tokens=not writes_it, return_tensors="pt"
    )
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert (ours["input_ids"] == tokenizer.bos_token_id).sum() == 1
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_titles_that_spell_special_tokens_stay_text(built):
    _, processor = built()
    ids = processor.prepare_items(["<image> lamp <|im_start|>"])[0].text
    assert ids and not set(processor.tokenizer.convert_tokens_to_ids(["<image>", "<|im_start|>"])) & set(ids)
