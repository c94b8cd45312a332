"""What a model is shown: its own chat format, its own pixels, texts that stay texts; with or without our rows."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from vlm2rec_hf.descriptions.describer import Writing, load_describer
from vlm2rec_hf.descriptions.layouts import FamilyLayout, ProcessorLayout, chat_template_of
from vlm2rec_hf.descriptions.prompts import load_prompts

from ..conftest import CHECKPOINT_FAMILIES, make_image, needs_image_processor
from .talkative import save_talkative

HOSTILE = "<image> mug <|image_pad|><|im_start|><fake_token_around_image> <end_of_utterance>"
ITEMS = [
    {"text": "red tent", "image": make_image(0)},
    {"text": "blue mug with a long story", "image": make_image(1, (90, 40))},
    {"text": HOSTILE, "image": make_image(2)},
]


@pytest.fixture(scope="module", params=CHECKPOINT_FAMILIES)
def describer(request, tmp_path_factory):
    needs_image_processor(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    save_talkative(folder, request.param)
    return load_describer(str(folder), prompts=load_prompts(), writing=Writing(max_new_tokens=8))


@pytest.mark.parametrize("kind", ["text", "image", "both"])
def test_a_batch_says_what_its_items_say_alone(describer, kind):
    together = describer.write(kind, ITEMS)
    assert together == [describer.write(kind, [item])[0] for item in ITEMS]
    assert len(set(together)) > 1 and together == describer.write(kind, ITEMS)


def test_every_row_holds_its_image_and_no_other(describer):
    model, layout = describer.model, describer.layout
    assert isinstance(layout, FamilyLayout)
    token = model.config.image_token_id
    counts = {
        kind: (layout.batch(kind, ITEMS, describer.prompts)["input_ids"] == token).sum(-1).tolist()
        for kind in ("text", "image", "both")
    }
    assert counts["text"] == [0, 0, 0] and counts["image"] == counts["both"] and min(counts["both"]) > 0

    @torch.no_grad()
    def scores(items):
        return model(**layout.batch("both", items, describer.prompts), use_cache=False).logits[:, -1]

    same = scores([ITEMS[0], ITEMS[0]])
    assert (same[0] - same[1]).abs().max() < 1e-4
    turned = scores([ITEMS[0], {"text": "red tent", "image": make_image(9)}])
    assert (turned[0] - same[0]).abs().max() < 1e-4 < (turned[1] - same[0]).abs().max()


def test_rows_are_the_chat_templates(describer):
    layout = describer.layout
    row = layout.tokenizer.decode(layout.batch("text", ITEMS[:1], describer.prompts)["input_ids"][0])
    asked = load_prompts().text.replace("{text}", "red tent")
    assert row == f"<|im_start|>user\n{asked}\n<|im_start|>assistant\n"


def test_template_files_beside_the_tokenizer(tmp_path):
    tokenizer = type("Tokenizer", (), {"chat_template": None})()
    assert chat_template_of(tokenizer, str(tmp_path), None) is None
    (tmp_path / "chat_template.json").write_text('{"chat_template": "A"}')
    assert chat_template_of(tokenizer, str(tmp_path), None) == "A"
    (tmp_path / "chat_template.jinja").write_text("B")
    assert chat_template_of(tokenizer, str(tmp_path), None) == "B"


# ---- a model that this package has no family for: its own processor does it


@pytest.fixture(scope="module", params=["template", "plain"])
def stranger(request, tmp_path_factory):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaProcessor, VipLlavaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from vlm2rec_hf.tiny.backbones import CHAT_TEMPLATE, train_tokenizer

    tokenizer = train_tokenizer(["red tent"], 600, ["<|endoftext|>", "<|im_start|>", "<image>"])
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-1, -2],
    )
    folder = tmp_path_factory.mktemp("stranger")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    model.save_pretrained(folder)
    template = CHAT_TEMPLATE.replace("IMAGE", "<image>") if request.param == "template" else None
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return load_describer(str(folder), prompts=load_prompts(), writing=Writing(max_new_tokens=8))


def test_models_of_other_kinds_go_through_their_own_processor(stranger):
    assert isinstance(stranger.layout, ProcessorLayout)
    for kind in ("text", "image", "both"):
        together = stranger.write(kind, ITEMS)
        assert together == [stranger.write(kind, [item])[0] for item in ITEMS] and all(together)
        assert len(set(together)) > 1
    token = stranger.model.config.image_token_id
    rows = stranger.layout.batch("both", ITEMS, stranger.prompts)["input_ids"]
    assert (rows == token).sum(-1).tolist() == [4, 4, 4]
    assert (stranger.layout.batch("text", ITEMS, stranger.prompts)["input_ids"] == token).sum() == 0


def test_a_processor_that_cannot_be_loaded_is_explained(stranger, tmp_path):
    stranger.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model` .* \\(vipllava\\) has a processor that cannot be loaded here"):
        load_describer(str(tmp_path), prompts=load_prompts())
