"""`PixRecModel`: rows, masks, causality, families, saving, and gradients."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from tests.conftest import CHECKPOINT_FAMILIES, FAMILIES, make_image, needs_image_processor
from vlm2rec_hf import PixRecConfig, PixRecModel, PixRecProcessor

HISTORY = [{"text": "red tent", "image": make_image(1)}, "blue mug", make_image(2)]
TARGETS = [{"text": "Alpina lamp 3", "image": make_image(3)}, "blue tent", make_image(4)]


def rows(processor, history=HISTORY, targets=TARGETS):
    prepared = [processor.prepare_items(history)] * len(targets)
    return processor.collate_sequences(prepared, processor.prepare_items(targets))


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_a_row_is_history_bridge_target(tiny_pix, family):
    model, processor = tiny_pix(family, history_template="{number}: {text} | ")
    batch = rows(processor)
    decode = processor.tokenizer.decode
    for row, text in enumerate(("Alpina lamp 3", "blue tent", "")):
        ids = batch["input_ids"][row]
        history = decode(ids[batch["history_mask"][row]], skip_special_tokens=True)
        assert history == "1: red tent | 2: blue mug | 3:  | The next item bought is as follows:\n"
        assert decode(ids[batch["target_mask"][row]], skip_special_tokens=True) == text
        labels = batch["labels"][row]
        predicted = labels[labels != -100]
        if text:
            assert decode(predicted) == text + processor.end_token
            assert torch.equal(ids[labels != -100], predicted)  # aligned; the model shifts
        else:
            assert not len(predicted)  # an image alone is nothing to write
    image = model.config.vlm_config.image_token_id
    assert not (batch["labels"] == image).any()
    assert not (batch["history_mask"] & batch["target_mask"]).any()
    assert not ((batch["history_mask"] | batch["target_mask"]) & ~batch["attention_mask"].bool()).any()
    # The image to predict comes after the text to predict.
    first_label = (batch["labels"][0] != -100).nonzero()[0, 0]
    own_images = ((batch["input_ids"][0] == image) & batch["target_mask"][0]).nonzero()
    assert len(own_images) and (own_images > first_label).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_after_the_history_reaches_its_vector(tiny_pix, family):
    model, processor = tiny_pix(family)
    result = model(**rows(processor))
    alone = model(**processor.collate([processor.prepare_items(HISTORY)], "user"))
    assert (result.user_embeddings - alone.user_embeddings).abs().max() < 1e-5  # whatever the target is
    assert (result.target_embeddings[0] - result.target_embeddings[1]).abs().max() > 1e-3
    changed = model(**rows(processor, history=HISTORY[1:]))
    assert (changed.user_embeddings - result.user_embeddings).abs().max() > 1e-4
    assert (changed.target_embeddings - result.target_embeddings).abs().max() > 1e-5  # v_{T|U} does see the history


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_the_first_token_to_write_sees_no_image_of_the_target(tiny_pix, family):
    model, processor = tiny_pix(family)
    one, other = ({"text": "Alpina lamp 3", "image": make_image(seed)} for seed in (3, 9))
    first, second = (model(**rows(processor, targets=[target])) for target in (one, other))
    assert (first.token_nll - second.token_nll).abs().max() < 1e-6
    assert (first.target_embeddings - second.target_embeddings).abs().max() > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tiny_pix, family, side):
    model, processor = tiny_pix(family)
    processor.tokenizer.padding_side = side
    items = [*HISTORY, *TARGETS]
    together = model.encode_items(items, processor, batch_size=6)
    apart = torch.cat([model.encode_items([item], processor) for item in items])
    assert (together - apart).abs().max() < 1e-5
    assert torch.allclose(together.norm(dim=-1), torch.ones(6), atol=1e-6)
    histories = [HISTORY, HISTORY[:1], items]
    together = model.encode_histories(histories, processor, batch_size=3)
    apart = torch.cat([model.encode_histories([history], processor) for history in histories])
    assert (together - apart).abs().max() < 1e-5
    nll = model(**rows(processor)).token_nll
    alone = torch.cat([model(**rows(processor, targets=[target])).token_nll for target in TARGETS])
    assert (nll - alone).abs().max() < 1e-4


def test_only_the_most_recent_items_are_read(tiny_pix):
    model, processor = tiny_pix(max_history=2)
    assert torch.equal(model.encode_histories([HISTORY], processor), model.encode_histories([HISTORY[1:]], processor))


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_one_call_for_both_batches_equals_two(tiny_pix, family):
    model, processor = tiny_pix(family)
    items = dict(processor.collate([[item] for item in processor.prepare_items(TARGETS)], "item"))
    result = model(**rows(processor), items=items)
    assert torch.equal(result.item_embeddings, model(**items).target_embeddings)


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_images_off_is_as_if_there_were_none(tiny_pix, family):
    model, with_images = tiny_pix(family)
    _, without = tiny_pix(family, images=False)
    assert torch.equal(
        model.encode_items(HISTORY[:2], without), model.encode_items(["red tent", "blue mug"], with_images)
    )
    off, on = (model.encode_items(HISTORY[:1], processor) for processor in (without, with_images))
    assert (off - on).abs().max() > 1e-4
    assert without.prepare_items([make_image(1)])[0].grid is None


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_saving_and_loading_changes_nothing(tiny_pix, family, tied, tmp_path):
    needs_image_processor(family)
    model, processor = tiny_pix(family)
    if not tied:
        config = PixRecConfig(**{**model.config.to_dict(), "tie_word_embeddings": False})
        torch.manual_seed(0)
        model = PixRecModel(config).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is PixRecModel and type(reader) is PixRecProcessor
    assert (again.lm_head is None) == tied and not again.training
    settings = reader.to_dict()
    assert settings == {name: value for name, value in processor.to_dict().items() if name in settings}
    assert settings["next_item_prompt"] == processor.next_item_prompt and settings["images"] is True
    for name in ("user_embeddings", "target_embeddings", "token_nll"):
        assert torch.equal(again(**rows(reader))[name], model(**rows(processor))[name]), name
    assert again.loaded_from == (str(tmp_path), None)


def test_an_incomplete_checkpoint_is_refused(tiny_pix, tmp_path):
    from safetensors.torch import load_file, save_file

    model, _ = tiny_pix()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["user_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="user_projection"):
        PixRecModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", CHECKPOINT_FAMILIES)
def test_a_raw_backbone_keeps_its_weights_and_its_head(tiny_pix, family, tied, tmp_path):
    from transformers import AutoModelForImageTextToText

    model, processor = tiny_pix(family)
    config = model.config.vlm_config.__class__.from_dict(model.config.vlm_config.to_dict())
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = tied
    torch.manual_seed(1)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    made = PixRecModel.from_backbone(str(tmp_path), projection_dim=7)
    assert made.config.projection_dim == 7 and (made.lm_head is None) == tied
    batch = processor.collate_sequences([processor.prepare_items(["red tent"])], processor.prepare_items(["blue mug"]))
    ids, labels = batch["input_ids"], batch["labels"]
    kinds = {"mm_token_type_ids": torch.zeros_like(ids)}
    if family == "paligemma":
        kinds = {"token_type_ids": torch.ones_like(ids)}  # a suffix: causal
    logits = whole(input_ids=ids, attention_mask=batch["attention_mask"], **kinds).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
    )[labels[:, 1:].flatten() != -100]
    assert (made(**batch).token_nll - expected).abs().max() < 1e-5
    again = PixRecModel.from_backbone(str(tmp_path), projection_dim=7)
    assert torch.equal(again.user_projection.weight, made.user_projection.weight)  # new, and yet the same


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_gradients_reach_what_each_output_is_made_of(tiny_pix, family):
    model, processor = tiny_pix(family)
    model.freeze_vision()

    def reached(name):
        model.zero_grad(set_to_none=True)
        model(**rows(processor))[name].pow(3).sum().backward()
        return {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    assert reached("user_embeddings") == {"vlm", "user_projection"}
    assert reached("target_embeddings") == {"vlm", "item_projection"}
    assert reached("token_nll") == {"vlm"}
    assert all(parameter.grad is None for parameter in model.vision_parameters())


def test_bad_calls_are_refused(tiny_pix):
    model, processor = tiny_pix()
    with pytest.raises(ValueError, match="`input_ids`"):
        model()
    with pytest.raises(ValueError, match="`role`"):
        processor.collate([processor.prepare_items(["x"])], "shop")
    with pytest.raises(ValueError, match="`histories`"):
        model.encode_histories([[]], processor)
    with pytest.raises(TypeError, match="`items`"):
        model.encode_items("red tent", processor)
    with pytest.raises(ValueError, match="`conversation`"):
        processor.apply_chat_template([{"role": "user", "content": "x"}])
    with pytest.raises(ValueError, match="`projection_dim`"):
        PixRecConfig(projection_dim=0)
    with pytest.raises(ValueError, match="`temperature`"):
        PixRecConfig(temperature=0.0)
