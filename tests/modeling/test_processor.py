"""The processor and the prepared catalogue: what stands in a row, and what is never opened."""

import pickle

import pytest
import torch
from PIL import Image

from vlm2rec_hf.catalogues.prepared_catalogue import PreparedCatalogue
from vlm2rec_hf.modeling.items_vlm2rec import as_item

from ..conftest import make_image


def decoded(processor, ids, mask):
    return processor.tokenizer.decode(ids[mask.bool()])


def test_strings_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "picture.png"
    make_image(0).save(path)
    for text in (str(path), "https://example.com/cat.png", "data:image/png;base64,AAAA"):
        assert as_item(text) == {"text": text, "image": None}


@pytest.mark.parametrize("value", [3, None, b"bytes", ["list"], {"text": 3}, {"image": "cat.png"}, {"image": b"x"}])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="`items`|`text`|`image`"):
        as_item(value)


def test_unknown_keys_of_an_item_are_named():
    for value in (
        {"title": "red tent"},
        {"title": None, "text": "red tent"},
        {"text": "red tent", "img": make_image(0)},
    ):
        unknown = "title" if "title" in value else "img"
        with pytest.raises(TypeError, match=f"`items` holds a dict with .*'{unknown}'"):
            as_item(value)


def test_half_a_character_of_a_text_is_replaced(tiny):
    model, processor = tiny()
    assert as_item("Mug \ud83d")["text"] == as_item({"text": "Mug \udc00"})["text"] == "Mug \ufffd"
    assert as_item("\ud83d\ude00")["text"] == "\U0001f600"
    broken, mended = (model.encode_items([text], processor).text for text in ("Mug \ud83d", "Mug \ufffd"))
    assert broken.equal(mended)


@pytest.mark.parametrize("value", ["", "  ", {}, {"text": None, "image": None}])
def test_an_item_needs_something(value):
    with pytest.raises(ValueError, match="text or an image"):
        as_item(value)


@pytest.mark.parametrize("item", [{"title": "Mug"}, {"text": "Mug", "title": "Mug", "color": "red"}, {"txt": None}])
def test_keys_that_nothing_reads_are_named(item, tiny):
    """Nothing of an item is lost in silence: not by the processor, nor by a catalogue, where items may be empty."""
    unknown = sorted(set(item) - {"text"})
    for take in (as_item, lambda item: PreparedCatalogue([item], tiny("qwen2_vl")[1])):
        with pytest.raises(TypeError, match="image") as error:
            take(item)
        assert str(unknown) in str(error.value)


def test_rows_are_the_instruction_and_every_item_with_an_end(tiny, items):
    _, processor = tiny(item_instruction="I: ", user_instruction="U: ", history_template="{number}) {text}|")
    batch = processor(histories=[["red tent", "blue mug", items[2]]])
    assert decoded(processor, batch["input_ids"][0], batch["attention_mask"][0]) == (
        "U: 1) red tent|<|endoftext|>2) blue mug|<|endoftext|>"
    )
    row = decoded(processor, batch["image_rows"][0], batch["image_rows_mask"][0])
    assert row.startswith("U: <|vision_start|><|image_pad|>") and row.endswith("<|vision_end|><|endoftext|>")
    batch = processor(items=["red tent"])
    assert decoded(processor, batch["input_ids"][0], batch["attention_mask"][0]) == "I: red tent<|endoftext|>"
    assert "image_rows" not in batch


def test_an_items_tokens_are_the_same_everywhere(tiny):
    _, processor = tiny()
    tokens = processor.prepare_items(["red tent"])[0].text
    row = processor(histories=[["blue mug", "red tent"]])["input_ids"][0].tolist()
    assert any(row[i : i + len(tokens)] == tokens for i in range(len(row)))


def test_limits_keep_the_end_and_never_cut_an_image(tiny, items):
    _, processor = tiny(max_item_tokens=3, max_history_item_tokens=2, max_history=2)
    long = {"text": "one two three four five six seven", "image": make_image(1)}
    batch = processor(items=[long])
    end = processor.tokenizer.eos_token_id
    assert batch["input_ids"][0, -1] == end
    assert batch["input_ids"].shape[1] == len(processor._ids(processor.item_instruction)) + 3 + 1
    batch = processor(histories=[[long, "oldest but one", long, long]])
    assert int(batch["num_images_per_sample"][0]) == 2  # the two most recent
    pads = (batch["image_rows"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum()
    assert int(pads) == int(batch["image_grid_thw"][batch["image_index"]].prod(-1).sum()) // 4
    assert batch["image_rows"][0, -1] == end


def test_internal_fusion_puts_everything_in_one_row(tiny, items):
    _, processor = tiny(fusion="internal", history_template="{text};", user_instruction="U:")
    batch = processor(histories=[[items[0], items[2]]])
    row = decoded(processor, batch["input_ids"][0], batch["attention_mask"][0])
    assert "image_rows" not in batch
    assert row.startswith("U:red tent<|vision_start|>") and row.count("<|vision_end|>;") == 2


def test_equal_keys_are_encoded_once(tiny, items):
    model, processor = tiny()
    raw = [items[0], items[2], items[0]]
    shared = processor.collate([processor.prepare_items(raw, keys=["a", "b", "a"])], "user")
    apart = processor.collate([processor.prepare_items(raw)], "user")
    assert len(shared["image_grid_thw"]) == 2 and shared["image_index"].tolist() == [0, 1, 0]
    assert len(apart["image_grid_thw"]) == 3
    with torch.no_grad():
        assert (model(**shared).embeddings - model(**apart).embeddings).abs().max() < 1e-6


def test_strips_and_modes_are_accepted(tiny):
    model, processor = tiny()
    odd = [Image.new("RGB", (1, 900)), Image.new("L", (30, 30)), Image.new("RGBA", (5, 400)), Image.new("1", (2, 2))]
    assert torch.isfinite(model.encode_items(odd, processor).both).all()


@pytest.mark.parametrize(
    "options",
    [{"max_history": 0}, {"max_item_tokens": 0}, {"history_template": "no place"}, {"fusion": "x"},
     {"history_template": "{text} {number}"}, {"end_token": "<nope>"}],
)  # fmt: skip
def test_bad_options_are_refused(tiny, options):
    from vlm2rec_hf import VLM2RecProcessor

    _, processor = tiny()
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"`{name}`"):
        VLM2RecProcessor(processor.image_processor, processor.tokenizer, **options)


def test_bad_calls_are_refused(tiny, items):
    _, processor = tiny()
    with pytest.raises(ValueError, match="exactly one"):
        processor()
    with pytest.raises(TypeError, match="list of items"):
        processor(items="red tent")
    with pytest.raises(ValueError, match="empty"):
        processor(histories=[["a"], []])
    with pytest.raises(ValueError, match="`role`"):
        processor.collate([processor.prepare_items(["a"])], "shop")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_cached_features_change_nothing(tiny, items, family):
    model, processor = tiny(family)
    typed = [as_item(item) for item in items] + [{"text": None, "image": None}]
    catalogue = PreparedCatalogue(typed, processor)
    plain = [catalogue[i] for i in range(len(items))]
    assert not catalogue.has_cached_features and catalogue.is_empty(len(items)) and not catalogue.is_empty(2)
    before = model.encode_items(plain, processor)
    users = model.encode_histories([plain[:3], plain[2:]], processor)
    catalogue.cache_features(model, batch_size=2)
    cached = [catalogue[i] for i in range(len(items))]
    assert cached[0].pixel_values is None and cached[0].features is not None and cached[1].features is None
    after = model.encode_items(cached, processor)
    for view in ("both", "text", "image"):
        assert (before.view(view) - after.view(view)).abs().max() < 1e-5
    assert (users.both - model.encode_histories([cached[:3], cached[2:]], processor).both).abs().max() < 1e-5
    assert len(pickle.dumps(cached[0])) < 20_000  # its own features, not the batch's
    with pytest.raises(ValueError, match="features"):
        processor.collate([[cached[0], plain[2]]], "user")


def test_a_catalogue_decodes_only_what_is_asked_for(tiny):
    _, processor = tiny()

    class Lazy(list):
        read: list = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

        def texts(self):
            return ("title" for _ in range(len(self)))

    items = Lazy([{"text": "title", "image": make_image(i)} for i in range(5)])
    catalogue = PreparedCatalogue(items, processor)
    assert items.read == []
    assert catalogue[3].grid is not None and items.read == [3]
    assert len({item.key for item in catalogue[1:3]}) == 2
    with pytest.raises(IndexError):
        catalogue[5]
