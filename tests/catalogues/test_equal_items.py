"""Equal images share a key, equal items tie whatever the batches, and every way in gives an image the same vector."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vlm2rec_hf import PreparedCatalogue, RecDataset
from vlm2rec_hf.catalogues.vision_cache import VisionCache
from vlm2rec_hf.evaluation.embedder import _tied, encode_catalogue
from vlm2rec_hf.evaluation.encoding_inputs import first_of_equals
from vlm2rec_hf.evaluation.pixrec import encode_pixrec_catalogue
from vlm2rec_hf.modeling.encoding_vlm2rec import Encoding

from ..conftest import make_image


def repeated():
    """Items of which several are equal, or have equal images, among items of other lengths."""
    items = []
    for i in range(24):
        text = ["red tent", "blue mug with a long name", "Alpina lamp 3 " * (i % 5 + 1), None][i % 4]
        image = [make_image(0), None, make_image(i % 3, (40, 60)), make_image(1, (50, 50 + 8 * (i % 2)))][i % 4]
        items.append({"text": text, "image": image})
    return items


def same_as_first(contents, matrix):
    first = {}
    for place, content in enumerate(contents):
        assert torch.equal(matrix[place], matrix[first.setdefault(content, place)])
    return len(first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_views_tie_in_any_batch(tiny, dtype):
    model, processor = tiny()
    model, items = model.to(dtype), repeated()
    catalogue = PreparedCatalogue(items, processor)
    images = [catalogue.image_key(i) for i in range(24)]
    texts = [catalogue.tokens(i) for i in range(24)]
    for size in (1, 3, 64):
        encoding = encode_catalogue(model, catalogue, batch_size=size)
        assert same_as_first(images, encoding.image) == 6
        assert same_as_first(texts, encoding.text) == 8
        assert same_as_first(zip(texts, images, strict=True), encoding.both) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [True, False])
def test_equal_items_of_pixrec_tie_in_any_batch(tiny_pix, dtype, images):
    model, processor = tiny_pix(images=images)
    model, items = model.to(dtype), repeated()
    catalogue = PreparedCatalogue(items, processor)
    contents = [(catalogue.tokens(i), catalogue.image_key(i)) for i in range(24)]
    for size in (1, 3, 64):
        vectors = encode_pixrec_catalogue(model, catalogue, batch_size=size)
        assert same_as_first(contents, vectors) == (9 if images else 8)
        assert (vectors.norm(dim=-1) > 0.5).tolist() == [not catalogue.is_empty(i) for i in range(24)]


def test_equal_images_share_a_key_and_pass_the_tower_once(tiny, tmp_path, monkeypatch):
    model, processor = tiny()
    items = repeated()
    buffer = io.BytesIO()
    items[0]["image"].save(buffer, "PNG")
    items[4]["image"] = Image.open(buffer)  # the same image from a file
    plain = PreparedCatalogue(items, processor)
    keys = [item.key for item in plain]
    assert keys[0] == keys[4] and keys[0] != keys[2] and keys[1] is None and len(set(keys)) == 6
    in_memory = PreparedCatalogue(items, processor).cache_features(model)
    on_disk = PreparedCatalogue(items, processor).cache_features(model, VisionCache(tmp_path))
    assert [item.key for item in in_memory] == [item.key for item in on_disk] == keys
    batch = processor.collate([[plain[0]], [plain[4]], [plain[2]]], "item")
    assert batch["image_index"].tolist() == [0, 0, 1]
    seen = []
    encode = type(model).encode_images
    monkeypatch.setattr(type(model), "encode_images", lambda *args: seen.append(len(args[2])) or encode(*args))
    encode_catalogue(model, plain)
    assert sum(seen) == 5


def test_what_equal_means():
    texts, keys = [(1, 2), None, (1, 2), (1, 2)], torch.tensor([[1], [0], [1], [2]], dtype=torch.uint8)
    distinct, copies = first_of_equals(texts, keys)
    assert distinct.tolist() == [0, 1, 3] and copies.tolist() == [0, 1, 0, 2]
    assert first_of_equals(texts)[1].tolist() == [0, 1, 0, 0]
    assert [len(part) for part in first_of_equals([], torch.zeros(0, 20, dtype=torch.uint8))] == [0, 0]


def test_what_two_processes_encoded_is_tied(tiny):
    _, processor = tiny()
    catalogue = PreparedCatalogue(repeated(), processor)
    noisy = [torch.randn(24, 4) for _ in range(3)]
    has = torch.ones(24, dtype=torch.bool)
    assert catalogue.image_keys([]).shape == (0, 20)
    tied = _tied(Encoding(*noisy, has, has), catalogue, catalogue.image_keys(range(24)))
    images, texts = [catalogue.image_key(i) for i in range(24)], [catalogue.tokens(i) for i in range(24)]
    assert (same_as_first(images, tied.image), same_as_first(texts, tied.text)) == (6, 8)
    assert same_as_first(zip(texts, images, strict=True), tied.both) == 9
    assert torch.equal(tied.both[0], noisy[0][0]) and torch.equal(tied.text[1], noisy[1][1])


def odd_files():
    """Files of kinds that are easily read in two ways."""
    rgb = np.random.default_rng(3).integers(0, 256, (30, 44, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    images = [
        (Image.fromarray(rgb, "RGBA"), "PNG", {}),
        (Image.fromarray(rgb, "RGBA").quantize(16), "PNG", {}),
        (Image.fromarray(rgb[..., 0].astype(np.uint16) * 200), "PNG", {}),
        (Image.fromarray(rgb[..., :3]), "JPEG", {"exif": exif}),
        (Image.fromarray(rgb, "CMYK"), "JPEG", {}),
        (Image.fromarray(rgb, "RGBA").convert("LA"), "PNG", {"exif": exif}),
    ]
    for image, kind, options in images:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        yield buffer.getvalue()


def test_a_dataset_pil_and_sentence_transformers_give_one_vector(tiny):
    model, processor = tiny()
    files = list(odd_files())
    events = [{"user_id": "u", "item_id": i, "timestamp": i} for i in range(len(files))]
    dataset = RecDataset.from_tables(events, [{"item_id": i, "image": data} for i, data in enumerate(files)])
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    expected = encode_catalogue(model, catalogue).image

    def opened():
        return [Image.open(io.BytesIO(data)) for data in files]

    assert (expected - expected[0]).abs().max(1).values[1:].min() > 1e-3
    assert torch.equal(model.encode_items(opened(), processor).image, expected)
    messages = [[{"role": "user", "content": [{"type": "image", "image": image}]}] for image in opened()]
    batch = processor.apply_chat_template(messages, tokenize=True, return_tensors="pt")
    assert (model(**batch).image_embeddings.float() - expected).abs().max() < 1e-5
