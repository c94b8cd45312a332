"""Encoding in passes: however rows are put together, a vector stays what it is, and nothing is computed twice."""

import random

import pytest
import torch
from PIL import Image

from vlm2rec_hf.columns import VIEWS
from vlm2rec_hf.modeling import encoding_vlm2rec, passes_vlm2rec
from vlm2rec_hf.modeling.encoding_vlm2rec import image_key
from vlm2rec_hf.modeling.items_vlm2rec import PreparedItem
from vlm2rec_hf.modeling.passes_vlm2rec import PassBudget

from ..conftest import FAMILIES, make_image, needs_attention


def many_items(count=40, seed=0):
    """Titles of 1 to 40 words, images of several shapes, some without one and some without a title."""
    draw = random.Random(seed)
    words = "red blue tent mug lamp light small 12 Alpina for two".split()
    items = []
    for i in range(count):
        item = {}
        if i % 7:
            item["text"] = " ".join(draw.choices(words, k=draw.choice([1, 3, 8, 40]))) + f" {i}"
        if i % 5 or not item:
            item["image"] = make_image(i, draw.choice([(60, 50), (30, 150), (120, 40)]))
        items.append(item)
    return items


def largest_difference(a, b):
    return max(float((a.view(view) - b.view(view)).abs().max()) for view in VIEWS)


def test_copied_files_name_the_views_as_all_others_do():
    assert encoding_vlm2rec.VIEWS == VIEWS


class Counts:
    """Shapes of what passes the tower and the language model."""

    def __init__(self, model):
        self.patches, self.rows = [], []
        tower = model.family.vision_modules(model.vlm)[0]
        tower.register_forward_pre_hook(self._tower, with_kwargs=True)
        model.family.language_model(model.vlm).register_forward_pre_hook(self._rows, with_kwargs=True)

    def _tower(self, module, args, kwargs):
        pixels = args[0] if args else kwargs.get("hidden_states", kwargs.get("pixel_values"))
        self.patches.append(len(pixels))

    def _rows(self, module, args, kwargs):
        self.rows.append(tuple(kwargs["inputs_embeds"].shape[:2]))


@pytest.fixture(scope="module")
def shop():
    return many_items()


@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_do_not_depend_on_passes_or_packing(tiny, shop, family, fusion):
    model, processor = tiny(family, fusion)
    items, histories = shop[:12], [shop[i : i + 1 + i % 4] for i in range(10)]
    one_by_one = model.encode_items(items, processor, batch_size=1)
    users = model.encode_histories(histories, processor, batch_size=1)
    assert one_by_one.both.std(0).max() > 0.05
    for options in ({}, {"max_tokens": 150}, {"batch_size": 5, "max_tokens": None}, {"packing": True}):
        assert largest_difference(one_by_one, model.encode_items(items, processor, **options)) < 1e-5, options
        assert largest_difference(users, model.encode_histories(histories, processor, **options)) < 1e-5, options
    backwards = model.encode_items(items[::-1], processor, max_tokens=200)
    assert (one_by_one.both - backwards.both.flip(0)).abs().max() < 1e-5
    assert one_by_one.has_text.tolist() == ["text" in item for item in items]
    assert one_by_one.has_image.tolist() == ["image" in item for item in items]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_row_equals_padded_rows(tiny, shop, family, implementation):
    """The layout that flash attention gets, under the block mask that the other implementations make of it."""
    needs_attention(family, implementation)
    model, processor = tiny(family)
    model.set_attn_implementation(implementation)
    counts = Counts(model)
    packed = model.encode_histories([shop[:3], shop[3:4], shop[5:9]], processor, packing=True)
    assert {rows for rows, _ in counts.rows} == {1}
    processor.tokenizer.padding_side = "left"
    padded = model.encode_histories([shop[:3], shop[3:4], shop[5:9]], processor, packing=False)
    assert max(rows for rows, _ in counts.rows) > 1
    assert largest_difference(packed, padded) < 1e-5
    assert (
        largest_difference(packed, model.encode_histories([shop[:3], shop[3:4], shop[5:9]], processor, packing=True))
        < 1e-5
    )  # the side of the padding is nothing to a row without padding


def test_only_flash_attention_packs_by_itself(tiny, shop):
    model, processor = tiny()
    counts = Counts(model)
    model.encode_items(shop[:8], processor)
    assert any(rows > 1 for rows, _ in counts.rows)
    model.vlm.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises((ImportError, ValueError, RuntimeError, AssertionError, TypeError)):
        model.encode_items(shop[:8], processor)  # no such kernel on this machine
    assert counts.rows[-1][0] == 1
    with pytest.raises(ValueError, match="`packing`"):
        model.encode_items(shop[:1], processor, packing="always")


def test_the_budget_holds_and_saves_padding(tiny, shop):
    model, processor = tiny()
    counts = Counts(model)
    model.encode_items(shop, processor, max_tokens=200)
    for rows, length in counts.rows:
        assert rows * length <= 200 or rows == 1
    assert all(patches <= 200 for patches in counts.patches)
    lengths = [length for _, length in counts.rows]
    assert lengths == sorted(lengths, reverse=True)
    in_order = 0  # what batches of 8 in input order would compute
    for start in range(0, len(shop), 8):
        batch = processor(items=shop[start : start + 8])
        in_order += batch["input_ids"].numel() + batch["image_rows"].numel()
    assert sum(rows * length for rows, length in counts.rows) < 0.6 * in_order
    counts.rows.clear()
    model.encode_items(shop, processor, batch_size=3)
    assert max(rows for rows, _ in counts.rows) == 3


def test_end_of_a_pass():
    budget = PassBudget(tokens=20, rows=None)
    assert budget.end([10, 9, 5, 1], 0, padded=True) == 2  # 3 * 10 would be 30
    assert budget.end([10, 9, 1, 1], 0, padded=False) == 3
    assert budget.end([50, 9], 0, padded=True) == 1  # one row always passes
    assert PassBudget(tokens=None, rows=3).end([10, 9, 5, 1], 0, padded=True) == 3


def test_equal_items_and_images_pass_once(tiny, shop):
    model, processor = tiny()
    expected = model.encode_items(shop, processor)
    counts = Counts(model)
    alone = sum(rows for rows, _ in counts.rows)
    model.encode_items(shop, processor)
    once, patches = sum(rows for rows, _ in counts.rows) - alone, sum(counts.patches)
    counts.rows.clear(), counts.patches.clear()
    # Copies of the images, far apart (batch_size=1 makes chunks of 16), and the same image under other titles.
    copies = [{**item, **({"image": item["image"].copy()} if "image" in item else {})} for item in shop]
    result = model.encode_items(shop + copies, processor, batch_size=1)
    assert len(counts.rows) == once and sum(counts.patches) == patches
    assert torch.equal(result.both[: len(shop)], result.both[len(shop) :])
    assert (result.both[: len(shop)] - expected.both).abs().max() < 1e-5
    counts.patches.clear()
    same = [{"text": f"tent number {i}", "image": shop[1]["image"]} for i in range(5)]
    model.encode_items(same, processor)
    assert len(counts.patches) == 1 and counts.patches[0] == len(processor.prepare_items(same[:1])[0].pixel_values)


@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_images_of_histories_pass_once_in_a_chunk_and_in_the_next(tiny, shop, fusion):
    model, processor = tiny(fusion=fusion)
    with_image = [item for item in shop if "image" in item][:6]
    histories = [[with_image[i % 6], with_image[(i + 1 + i // 6) % 6]] for i in range(20)]
    counts = Counts(model)
    result = model.encode_histories(histories, processor, batch_size=1)  # two chunks
    distinct = sum(len(one.pixel_values) for one in processor.prepare_items(with_image))
    assert sum(counts.patches) == distinct
    apart = torch.cat([model.encode_histories([history], processor).both for history in histories])
    assert (result.both - apart).abs().max() < 1e-5


def test_features_that_were_let_go_are_made_again(tiny, shop, monkeypatch):
    model, processor = tiny()
    with_image = [item for item in shop if "image" in item][:4]
    histories = [[with_image[i % 4], f"tent {i}"] for i in range(40)]
    counts = Counts(model)
    expected = model.encode_histories([[*history, "x"] for history in histories], processor, batch_size=1)
    once = sum(counts.patches)
    monkeypatch.setattr(passes_vlm2rec, "KEPT_FEATURE_BYTES", 1)
    result = model.encode_histories([[*history, "x"] for history in histories], processor, batch_size=1)
    assert sum(counts.patches) > 2 * once  # one for each chunk that needs it
    assert largest_difference(result, expected) < 1e-5


def test_prepared_images_without_a_key_are_told_apart_though_objects_come_and_go(tiny, shop):
    model, processor = tiny()
    images = [item["image"] for item in shop if "image" in item][:9]

    class Passing:
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return processor.prepare_items([images[index]])[0]  # forgotten by us at once

    result = model.encode_items(Passing(), processor, batch_size=1)
    assert largest_difference(result, model.encode_items(images, processor)) < 1e-5


def test_the_key_of_an_image_is_what_it_shows():
    one = make_image(0, (20, 10))
    assert image_key(one) == image_key(one.copy())
    assert image_key(one) != image_key(make_image(1, (20, 10)))
    white = [Image.new("RGB", size, "white") for size in ((20, 10), (10, 20))]
    assert image_key(white[0]) != image_key(white[1])


class Features:
    """A vision cache in memory."""

    def __init__(self):
        self.calls = 0

    def prepare(self, model, processor, items):
        self.calls += 1
        prepared = processor.prepare_items(items)
        for one in prepared:
            if one.grid is not None:
                with torch.no_grad():
                    one.features = model.encode_images(one.pixel_values, torch.tensor([one.grid]))
                one.pixel_values = None
        return prepared


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vision_cache_prepares_in_place_of_the_processor(tiny, shop, family):
    model, processor = tiny(family)
    cache = Features()
    items, histories = shop[:10], [shop[:3], shop[2:7]]
    expected = model.encode_items(items, processor), model.encode_histories(histories, processor)
    assert largest_difference(expected[0], model.encode_items(items, processor, vision_cache=cache)) < 1e-5
    result = model.encode_histories(histories, processor, vision_cache=cache, workers=2)
    assert largest_difference(expected[1], result) < 1e-5
    assert cache.calls == 2


def test_evaluation_takes_the_options_and_a_vision_cache(tiny, demo_dataset):
    from vlm2rec_hf import PreparedCatalogue
    from vlm2rec_hf.evaluation import evaluate_embedder

    model, processor = tiny()
    examples = demo_dataset.leave_one_out().examples("test")
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    cache = Features()
    plain = evaluate_embedder(model, catalogue, examples, batch_size=7)
    other = evaluate_embedder(model, catalogue, examples, vision_cache=cache, max_tokens=300)
    assert cache.calls > 1
    assert largest_difference(plain.items, other.items) < 1e-5 and largest_difference(plain.users, other.users) < 1e-5


def test_prepared_features_need_no_tower(tiny, shop):
    model, processor = tiny()
    prepared = Features().prepare(model, processor, shop[:6])
    counts = Counts(model)
    result = model.encode_items(prepared, processor)
    assert not counts.patches and isinstance(prepared[1], PreparedItem)
    assert largest_difference(result, model.encode_items(shop[:6], processor)) < 1e-5
