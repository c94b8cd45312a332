"""Batches cut into rows, split by modality and compared by content."""

import pytest
import torch

from vlm2rec_hf.sentence_transformers.sentence_features import (
    content_keys,
    image_ends,
    image_part,
    slice_features,
    text_part,
)

from ..conftest import make_image
from .sentence_transformer_models import catalogue

HISTORIES = [[0, 1, 2], [2], [5], [3, 3, 4, 6], [8, 2, 0]]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl", "smolvlm"])
def embedder(request, tiny):
    model, processor = tiny(request.param, max_history=3)
    return model, processor, model.config.vlm_config.image_token_id


def histories_batch(processor):
    items = catalogue()
    return processor(histories=[[items[i] for i in history] for history in HISTORIES])


@torch.no_grad()
def test_parts_and_rows_have_the_vectors_of_the_whole(embedder):
    model, processor, token = embedder
    batch = dict(histories_batch(processor))
    whole = model(**batch)
    text, image = text_part(batch), image_part(batch)
    assert "pixel_values" not in text and image["input_ids"].shape == (5, 1)
    torch.testing.assert_close(model(**text).embeddings, whole.text_embeddings)
    torch.testing.assert_close(model(**image).embeddings, whole.image_embeddings)
    for begin, end in ((0, 2), (1, 2), (1, 4), (3, 9)):
        rows = slice_features(batch, begin, end, token)
        result = model(**rows)
        torch.testing.assert_close(result.embeddings, whole.embeddings[begin:end], rtol=1e-5, atol=1e-5)
        assert len(rows["input_ids"]) == min(end, 5) - begin and rows["attention_mask"].any(dim=0).all()
    alone = slice_features(batch, 1, 2, token)  # a text only
    assert "pixel_values" not in alone and "image_rows" not in alone


def test_images_are_counted_in_the_rows(embedder):
    _, processor, token = embedder
    batch = dict(histories_batch(processor))
    # Two images (the third item has none), none, one, the last three of four, two.
    assert image_ends(batch, token).tolist() == [2, 2, 3, 6, 8]
    batch["num_images_per_sample"] = torch.tensor([2, 0, 1, 4, 2])  # counted before the history was cut
    assert len(slice_features(batch, 3, 5, token)["image_grid_thw"]) == 5
    batch["image_rows"] = batch["image_rows"].clone()
    batch["image_rows"][0][batch["image_rows"][0] == token] = 0
    with pytest.raises(ValueError, match="`image_rows` hold .* placeholders.*cut inside an image"):
        image_ends(batch, token)


def test_repeated_images_keep_one_copy(embedder):
    model, processor, token = embedder
    items = catalogue()
    prepared = processor.prepare_items([items[i] for history in HISTORIES[:1] * 3 for i in history], keys=[*"abc"] * 3)
    batch = dict(processor.collate([prepared[0:3], prepared[3:6], prepared[6:9]], "user"))
    assert len(batch["image_grid_thw"]) == 2 and len(batch["image_index"]) == 6
    rows = slice_features(batch, 1, 3, token)
    assert len(rows["image_grid_thw"]) == 2 and rows["image_index"].tolist() == [0, 1, 0, 1]
    with torch.no_grad():
        torch.testing.assert_close(model(**rows).embeddings, model(**batch).embeddings[1:], rtol=1e-5, atol=1e-5)


def test_keys_are_equal_for_equal_content_only(embedder):
    _, processor, token = embedder
    nearly = make_image(0)
    nearly.putpixel((5, 5), (0, 0, 0))
    items = [
        {"text": "red tent", "image": make_image(0)},
        {"text": "red tent", "image": make_image(0)},
        {"text": "red tent", "image": make_image(1)},
        {"text": "red tent"},
        {"image": make_image(0)},
        {"text": "tent red", "image": make_image(0)},
        {"text": "a much longer text in which a red tent stands", "image": nearly},
        {"text": "red tent", "image": nearly},
        "red tent",
    ]
    keys = content_keys(dict(processor(items=items)), token).tolist()
    assert keys[0] == keys[1] and keys[3] == keys[8]
    assert len(set(keys)) == len(items) - 2
    # The same keys whatever else is in the batch, whichever side is padded, and without any image in it.
    assert content_keys(dict(processor(items=items[4:6])), token).tolist() == keys[4:6]
    assert content_keys(dict(processor(items=[items[3]])), token).tolist() == keys[3:4]
    side = processor.tokenizer.padding_side
    processor.tokenizer.padding_side = "left" if side == "right" else "right"
    try:
        assert content_keys(dict(processor(items=items)), token).tolist() == keys
    finally:
        processor.tokenizer.padding_side = side


def test_the_order_of_images_counts(embedder):
    _, processor, token = embedder
    histories = [[make_image(0), make_image(1)], [make_image(1), make_image(0)], [make_image(0), make_image(1)]]
    first, second, third = content_keys(dict(processor(histories=histories)), token).tolist()
    assert first == third != second
