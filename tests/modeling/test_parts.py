"""Models that read images as features: what an item may hold, and that every way of encoding gives one answer."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from vlm2rec_hf import PreparedCatalogue, RecDataset, VisionCache, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.tiny.backbones import save_tiny_backbone, tiny_vlm

from ..conftest import make_image

WIDTH = 12


@pytest.fixture(scope="module")
def parts():
    return tiny_vlm("parts", ["red tent", "blue mug"], hidden_size=32, feature_size=WIDTH)


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (4, 2, 1)]
    return [
        {"text": "red tent", "image_features": features[0]},
        "blue mug",
        {"image_features": features[1]},
        {"text": "x", "image_features": features[2][0].tolist()},
        {"text": "red", "image": None},
    ]


def test_every_way_of_encoding_gives_one_answer(parts, items, tmp_path):
    model, processor = parts
    expected = model.encode_items(items, processor)
    assert expected.has_image.tolist() == [True, False, True, True, False]
    alone = torch.cat([model.encode_items([item], processor).both for item in items])
    ways = [
        alone,
        model(**processor(items)).embeddings,
        model.encode_items(items, processor, packing=True).both,
        model.encode_items(items, processor, vision_cache=VisionCache(tmp_path)).both,
        model.encode_items(PreparedCatalogue(items, processor), processor).both,
    ]
    for cache in (None, VisionCache(tmp_path / "other")):
        catalogue = PreparedCatalogue(items, processor).cache_features(model, cache)
        ways.append(model.encode_items(catalogue, processor).both)
    for vectors in ways:
        assert (vectors - expected.both).abs().max() < 1e-5


def test_a_row_holds_as_many_tokens_as_there_are_features(parts, items):
    _, processor = parts
    token = processor.tokenizer.convert_tokens_to_ids("<|image_feature|>")
    rows = processor(items)["image_rows"]
    assert (rows == token).sum(-1).tolist() == [4, 0, 2, 1, 0]


def test_equal_features_are_one_image_and_others_are_not(parts, items):
    _, processor = parts
    twice = [items[0], {"image_features": items[0]["image_features"] + 1}, {**items[0], "text": "other"}]
    keys = [one.key for one in PreparedCatalogue(twice, processor)]
    assert keys[0] == keys[2] != keys[1]


def test_a_published_repo_reads_features_without_the_package(parts, items, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path / "repo")
    processor.save_pretrained(tmp_path / "repo")
    torch.save((items, model.encode_items(items, processor).both), tmp_path / "expected.pt")
    program = """if True:
        import sys, torch
        sys.modules["vlm2rec_hf"] = None
        from transformers import AutoModel, AutoProcessor
        items, expected = torch.load(sys.argv[2], weights_only=False)
        model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules")
        assert (model.encode_items(items, processor).both - expected).abs().max() < 1e-5
    """
    at = [str(tmp_path / name) for name in ("repo", "expected.pt")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", program, *at], check=True, env=environment)
    loaded, again = VLM2RecEmbedder.from_pretrained(at[0]), VLM2RecProcessor.from_pretrained(at[0])
    assert again.image_processor.feature_size == WIDTH
    assert torch.equal(loaded.encode_items(items, again).both, model.encode_items(items, processor).both)


def test_pixels_for_features_and_features_for_pixels_are_refused(parts, items, tiny, tmp_path):
    model, processor = parts
    with pytest.raises(ValueError, match="has `image`, but this model reads `image_features`"):
        model.encode_items([{"text": "x", "image": make_image(0)}], processor)
    other, pixels = tiny()
    with pytest.raises(ValueError, match="has `image_features`, but this model reads `image`"):
        other.encode_items(items, pixels)
    dataset = RecDataset.from_tables(
        [{"user_id": "u", "item_id": "a", "timestamp": 1}], [{"item_id": "a", "image_features": [1.0] * WIDTH}]
    )
    for cache in (None, VisionCache(tmp_path)):
        with pytest.raises(ValueError, match="has `image_features`, but"):
            PreparedCatalogue(dataset.catalogue_items(), pixels).cache_features(other, cache)
    with pytest.raises(ValueError, match="are 3 wide, but this model reads features of width 12"):
        model.encode_items([{"image_features": np.ones((2, 3))}], processor)


def test_of_a_dataset_with_both_each_model_reads_its_own(parts, tiny):
    _, processor = parts
    _, pixels = tiny()
    made = RecDataset.from_tables(
        [{"user_id": "u", "item_id": "a", "timestamp": 1}],
        [
            {"item_id": "a", "image": make_image(0), "image_features": None},
            {"item_id": "b", "image": None, "image_features": [1.0] * WIDTH},
        ],
    )
    seen = [
        [one.grid is not None for one in PreparedCatalogue(made.catalogue_items(), p)] for p in (processor, pixels)
    ]
    assert seen == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("features", "says"),
    [(np.ones((2, 2, 2)), "got shape"), (np.ones((0, 3)), "got shape"), ([np.nan, 1.0], "not finite")],
)
def test_what_features_may_be(features, says, parts):
    with pytest.raises(ValueError, match=f"`image_features` of an item must be .*{says}"):
        parts[1].prepare_items([{"text": "x", "image_features": features}])


def test_tiny_backbones_take_no_option_that_does_nothing(tmp_path):
    with pytest.raises(ValueError, match="`feature_size` is an option of the family 'parts', got 3 for 'qwen2_vl'"):
        tiny_vlm("qwen2_vl", feature_size=3)
    with pytest.raises(ValueError, match="`family` 'parts' is put together of two checkpoints"):
        save_tiny_backbone(tmp_path / "raw", "parts")
    assert not (tmp_path / "raw").exists()
