"""The frozen-vision cache changes nothing that is computed, and never gives another tower's features."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vlm2rec_hf import PreparedCatalogue, VisionCache
from vlm2rec_hf.catalogues import vision_cache, vision_tower
from vlm2rec_hf.catalogues.image_reader import ImageReader
from vlm2rec_hf.catalogues.vision_tower import preprocessing_fingerprint, tower_fingerprint
from vlm2rec_hf.evaluation import evaluate_embedder
from vlm2rec_hf.modeling.encoding_vlm2rec import image_key

from ..conftest import FAMILIES, make_image


@pytest.fixture
def passed(monkeypatch):
    """How many images each run of a tower took."""
    sizes = []
    encode = vision_tower.run_vision_tower

    def counting(model, pixels, grids):
        sizes.append(len(grids))
        return encode(model, pixels, grids)

    monkeypatch.setattr("vlm2rec_hf.catalogues.vision_cache.run_vision_tower", counting)
    return sizes


def furthest(a, b):
    return max(float((a.view(view) - b.view(view)).abs().max()) for view in ("both", "text", "image"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float32_cache_changes_nothing(tiny, demo_dataset, family, tmp_path):
    model, processor = tiny(family)
    plain = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    examples = demo_dataset.examples("validation", max_history=3)
    expected = evaluate_embedder(model, plain, examples)
    stored = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(model, VisionCache(tmp_path))
    first = stored[0]
    assert first.pixel_values is None and first.features.tokens.dtype == torch.float32
    assert len(first.features.layers) == (family == "qwen3_vl")
    result = evaluate_embedder(model, stored, examples)
    assert furthest(expected.items, result.items) < 1e-5 and furthest(expected.users, result.users) < 1e-5
    assert expected.metrics() == pytest.approx(result.metrics(), abs=1e-9)
    # a later run reads what the first one wrote
    again = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    again.cache_features(copy.deepcopy(model), VisionCache(tmp_path))
    assert torch.equal(again[7].features.tokens, stored[7].features.tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_shorter_dtypes_keep_their_precision(tiny, items, family, dtype, precision, tmp_path):
    model, processor = tiny(family)
    exact = VisionCache(tmp_path).prepare(model, processor, items)
    with VisionCache(tmp_path, dtype=dtype) as cache:
        cache.prepare(model, processor, items)
    short = VisionCache(tmp_path, dtype=dtype).prepare(model, processor, items)
    for a, b in zip(exact, short, strict=True):
        if a.features is not None:
            assert b.features.tokens.dtype == getattr(torch, dtype)
            for full, kept in zip(
                (a.features.tokens, *a.features.layers), (b.features.tokens, *b.features.layers), strict=True
            ):
                assert torch.equal(full.to(kept.dtype), kept)
                assert not torch.equal(full, kept.float())
    far = furthest(model.encode_items(items, processor), model.encode_items(short, processor))
    assert 0 < far < 20 * precision


def test_float16_refuses_what_it_cannot_hold(tiny, tmp_path):
    model, processor = tiny()
    with torch.no_grad():
        model.vlm.visual.merger.mlp[-1].weight.mul_(1e8)
    with pytest.raises(ValueError, match="'float16' cannot hold features as large as .* use 'bfloat16'"):
        VisionCache(tmp_path, dtype="float16").prepare(model, processor, [make_image(0)])


def test_prepare_equals_the_processor(tiny, items, tmp_path, passed):
    model, processor = tiny("qwen3_vl")
    cache = VisionCache(tmp_path)
    result = cache.prepare(model, processor, items)
    plain = processor.prepare_items(items)
    assert [item.text for item in result] == [item.text for item in plain]
    assert [item.grid for item in result] == [item.grid for item in plain]
    assert all(item.pixel_values is None for item in result) and passed == [4]
    assert furthest(model.encode_items(items, processor), model.encode_items(result, processor)) < 1e-5
    histories, stored = [items[:3], items[2:]], [result[:3], result[2:]]
    assert furthest(model.encode_histories(histories, processor), model.encode_histories(stored, processor)) < 1e-5
    cache.prepare(model, processor, [*items, {"text": "other words", "image": make_image(1, (40, 90))}])
    assert passed == [4]  # known from memory, though nothing was committed yet
    cache.flush()
    assert [a.features is None for a in VisionCache(tmp_path).prepare(model, processor, items)] == [
        item.grid is None for item in plain
    ]
    assert passed == [4]
    with pytest.raises(ValueError, match="text or an image"):
        cache.prepare(model, processor, [{}])


def test_equal_images_pass_once_whatever_they_are_called(tiny, tmp_path, passed):
    model, processor = tiny()
    same = [make_image(0), make_image(0), {"text": "a", "image": make_image(0)}, make_image(1)]
    for cache in (VisionCache(tmp_path), None):
        catalogue = PreparedCatalogue(same, processor).cache_features(model, cache)
        assert sum(passed) == 2
        passed.clear()
        assert torch.equal(catalogue[0].features.tokens, catalogue[2].features.tokens)
        assert not torch.equal(catalogue[0].features.tokens, catalogue[3].features.tokens)
    keys = [item.key for item in VisionCache(tmp_path).prepare(model, processor, same)]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_what_an_image_is():
    pixels = np.arange(24, dtype=np.uint8)
    wide, tall = Image.fromarray(pixels.reshape(2, 4, 3)), Image.fromarray(pixels.reshape(4, 2, 3))
    assert image_key(wide) != image_key(tall) and len(image_key(wide)) == 20
    grey = Image.fromarray(np.full((5, 5), 7, np.uint8))
    assert image_key(grey) == image_key(grey.convert("RGB"))
    # Caches on disk hold these keys.
    assert image_key(Image.new("RGB", (3, 2), (1, 2, 3))).hex() == "292f05b3cca3c897be2276f4ffd548059fdfda20"


def test_other_weights_settings_and_dtypes_are_other_keys(tiny, tmp_path, passed):
    model, processor = tiny()
    cache = VisionCache(tmp_path)

    def computed():
        before = sum(passed)
        cache.fill(model, processor, [make_image(0), make_image(1)])
        return sum(passed) - before

    assert computed() == 2 and computed() == 0
    optimizer = torch.optim.SGD(model.vision_parameters(), lr=0.1)
    for change in ("step", "data", "load"):
        if change == "step":
            model.vlm.visual.patch_embed.proj.weight.grad = torch.ones_like(model.vlm.visual.patch_embed.proj.weight)
            optimizer.step()
        elif change == "data":  # behind the version counter's back
            model.vlm.visual.patch_embed.proj.weight.data.add_(0.5)
        else:
            model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
        assert computed() == 2 and computed() == 0
    with torch.no_grad():  # the language model is none of the tower's business
        model.vlm.language_model.norm.weight.add_(1)
    assert computed() == 0
    processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    assert computed() == 2
    cache = VisionCache(tmp_path, dtype="bfloat16")
    assert computed() == 2
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 6


def test_a_saved_tower_is_the_same_tower_and_is_hashed_once(tiny, tmp_path, monkeypatch):
    model, processor = tiny("qwen3_vl")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert tower_fingerprint(model) == tower_fingerprint(again)
    assert preprocessing_fingerprint(processor) == preprocessing_fingerprint(type(processor).from_pretrained(tmp_path))
    other, _ = tiny("qwen2_vl")
    assert tower_fingerprint(other) != tower_fingerprint(model)
    assert tower_fingerprint(copy.deepcopy(model).to(torch.bfloat16)) != tower_fingerprint(model)
    monkeypatch.setattr(vision_tower, "_hash_tower", lambda *_: 1 / 0)
    assert tower_fingerprint(model) == tower_fingerprint(again)
    with pytest.raises(ZeroDivisionError):
        tower_fingerprint(copy.deepcopy(model))


def test_adapters_in_the_tower_make_another_tower(tiny):
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, _ = tiny()
    result = {tower_fingerprint(model)}
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["qkv"]), model.vlm.visual)
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    result.add(tower_fingerprint(model))
    for layer in layers:
        layer.set_scale("default", 3.0)
    result.add(tower_fingerprint(model))
    for layer in layers:
        layer.enable_adapters(False)
    result.add(tower_fingerprint(model))
    assert len(result) == 4


def test_the_tower_is_left_as_it_was_and_autocast_does_not_reach_the_cache(tiny, tmp_path):
    model, processor = tiny()
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = VisionCache(tmp_path / "a").prepare(model, processor, [make_image(0)])[0].features.tokens
    outside = VisionCache(tmp_path / "b").prepare(model, processor, [make_image(0)])[0].features.tokens
    assert torch.equal(inside, outside) and model.training and model.vlm.visual.training
    model.vlm.visual.eval()
    part = model.vlm.visual.merger.train()  # some parts train and others do not, as with adapters
    PreparedCatalogue([make_image(1)], processor).cache_features(model)
    assert part.training and not model.vlm.visual.training and not model.vlm.visual.blocks.training
    state = torch.get_rng_state()
    PreparedCatalogue([make_image(1)], processor).cache_features(model, VisionCache(tmp_path / "c"))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_give_the_same(tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    items = demo_dataset.catalogue_items()
    expected = PreparedCatalogue(items, processor).cache_features(model)
    for cache in (None, VisionCache(tmp_path)):
        result = PreparedCatalogue(items, processor).cache_features(model, cache, workers=2, batch_size=32)
        for a, b in zip(expected, result, strict=True):
            assert a.grid == b.grid and (a.features.tokens - b.features.tokens).abs().max() < 1e-6


def test_a_second_run_decodes_nothing_and_broken_images_are_still_noted(tiny, tmp_path, monkeypatch):
    from io import BytesIO

    from vlm2rec_hf import RecDataset

    def encoded(image, form):
        buffer = BytesIO()
        image.save(buffer, form)
        return buffer.getvalue()

    model, processor = tiny()
    cells = [
        encoded(make_image(0), "PNG"),
        encoded(make_image(0), "BMP"),
        b"no image",
        None,
        encoded(make_image(1), "PNG"),
    ]
    rows = [{"item_id": f"i{n}", "title": "t", "image": cell} for n, cell in enumerate(cells)]
    log = [{"user_id": "u", "item_id": f"i{n}", "timestamp": n} for n in range(5)]
    dataset = RecDataset.from_tables(log, rows)
    filled = PreparedCatalogue(dataset.catalogue_items(), processor).cache_features(model, VisionCache(tmp_path))
    assert [item.grid is not None for item in filled] == [True, True, False, False, True]
    assert torch.equal(filled[0].features.tokens, filled[1].features.tokens)
    noted = dict(dataset.image_problems)
    assert noted == {2: "not_an_image"}

    from vlm2rec_hf.data import dataset as module

    decoded = []
    decode = module.try_decode_image
    monkeypatch.setattr(module, "try_decode_image", lambda data: decoded.append(data) or decode(data))
    again = PreparedCatalogue(dataset.catalogue_items(), processor).cache_features(model, VisionCache(tmp_path))
    assert decoded == [b"no image"]
    assert torch.equal(again[4].features.tokens, filled[4].features.tokens) and again[2].features is None
    dataset.image_problems.clear()
    PreparedCatalogue(dataset.catalogue_items(), processor).cache_features(model, VisionCache(tmp_path), workers=1)
    assert dict(dataset.image_problems) == noted
    # another Pillow may decode other pixels: then nothing is taken for known without decoding
    monkeypatch.setattr("PIL.__version__", "0.0")
    decoded.clear()
    PreparedCatalogue(dataset.catalogue_items(), processor).cache_features(model, VisionCache(tmp_path))
    assert len(decoded) == 4


def test_catalogues_travel_without_their_features(tiny, tmp_path):
    model, processor = tiny()
    images = [make_image(seed, (120, 120)) for seed in range(8)]
    bare = len(pickle.dumps(PreparedCatalogue(images, processor)))
    catalogue = PreparedCatalogue(images, processor).cache_features(model, VisionCache(tmp_path))
    assert len(pickle.dumps(catalogue)) < bare + 2000
    assert len(pickle.dumps(catalogue[3].features)) < 4 * catalogue[3].features.tokens.numel() + 2000
    again = pickle.loads(pickle.dumps(catalogue))
    assert all(torch.equal(a.features.tokens, b.features.tokens) for a, b in zip(catalogue, again, strict=True))
    again[0].features.tokens.zero_()  # what is mapped is not the file
    assert pickle.loads(pickle.dumps(catalogue))[0].features.tokens.any()


def test_features_of_another_tower_are_refused(tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.vlm.visual.patch_embed.proj.weight.mul_(1.5)
    examples = demo_dataset.examples("validation", max_history=3)
    for cache in (None, VisionCache(tmp_path)):
        catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(model, cache)
        evaluate_embedder(copy.deepcopy(model), catalogue, examples)
        with pytest.raises(ValueError, match=r"`catalogue` .* call `catalogue.cache_features\(model\)`"):
            evaluate_embedder(other, catalogue, examples)
        catalogue.cache_features(other, cache)
        evaluate_embedder(other, catalogue, examples)


@pytest.mark.parametrize(
    ("options", "name"), [({"dtype": "int8"}, "dtype"), ({"segment_bytes": 0}, "segment_bytes"), ({}, "folder")]
)
def test_bad_options_are_refused(options, name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"`{name}`"):
        VisionCache(tmp_path / ("file" if name == "folder" else "new"), **options)


def test_ranks_begin_at_their_own_share(monkeypatch):
    assert vision_cache._own_order(5).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert vision_cache._own_order(5).tolist() == [2, 3, 4, 0, 1]


def test_a_reader_preprocesses_only_what_is_unknown(tiny, tmp_path):
    model, processor = tiny()
    cache = VisionCache(tmp_path)
    cache.fill(model, processor, [make_image(0)])
    reader = ImageReader(
        [make_image(0), make_image(1), {"text": "a"}, {}], range(4), processor, cache.store(model, processor)
    )
    read = [one for batch in reader.batches(3, 0) for one in batch]
    assert [one.pixel_values is not None for one in read] == [False, True, False, False]
    assert [one.key is not None for one in read] == [True, True, False, False]
