"""One pass over a history gives the vectors after every click, those of the histories that end there."""

import itertools

import pytest
import torch

from ..conftest import FAMILIES, make_image

VIEWS = ("text", "image", "both")
# The first item lacks one view, one in the middle the other.
HISTORY = [
    {"image": make_image(1)},
    {"text": "red tent", "image": make_image(2)},
    "blue mug with a long description",
    {"text": "lamp", "image": make_image(1)},
    {"text": "red tent"},
]


def prefixes(histories):
    return [history[: stop + 1] for history in histories for stop in range(len(history))]


def assert_same(found, expected, tolerance=1e-5):
    for view in VIEWS:
        assert (found.view(view) - expected.view(view)).abs().max() < tolerance, view
    assert torch.equal(found.has_text, expected.has_text) and torch.equal(found.has_image, expected.has_image)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("fusion", "side"), [("external", "left"), ("internal", "right")])
def test_vectors_after_clicks_are_those_of_the_prefixes(tiny, family, fusion, side):
    model, processor = tiny(family, fusion)
    processor.tokenizer.padding_side = side
    histories = [HISTORY, HISTORY[1:3], HISTORY[:1]]
    found = model.encode_histories(histories, processor, every_click=True)
    assert found.offsets.tolist() == [0, 5, 7, 8]
    expected = model.encode_histories(prefixes(histories), processor, batch_size=1)
    assert expected.offsets is None
    assert_same(found, expected)
    last = found.offsets[1:] - 1
    whole = model.encode_histories(histories, processor)
    assert all((found.view(view)[last] - whole.view(view)).abs().max() < 1e-5 for view in VIEWS)


@pytest.mark.parametrize("options", [{"packing": True}, {"max_tokens": 20}, {"batch_size": 1}])
def test_options_change_no_vector(tiny, options):
    model, processor = tiny()
    histories = [HISTORY, HISTORY[::-1], HISTORY]
    plain = model.encode_histories(histories, processor, every_click=True)
    assert_same(model.encode_histories(histories, processor, every_click=True, **options), plain)


@pytest.mark.parametrize("template", ["{text}", "{number}. {text}\n"])
def test_only_the_newest_items_have_clicks(tiny, template):
    model, processor = tiny(max_history=3, history_template=template)
    found = model.encode_histories([HISTORY], processor, every_click=True)
    assert found.offsets.tolist() == [0, 3]
    assert_same(found, model.encode_histories(prefixes([HISTORY[-3:]]), processor))


def test_a_view_stays_what_it_was_where_an_item_lacks_it(tiny):
    model, processor = tiny()
    found = model.encode_histories([HISTORY], processor, every_click=True)
    assert found.has_text.tolist() == [False, True, True, True, True]
    assert not found.text[0].any() and found.image[0].any()
    assert torch.equal(found.image[2], found.image[1]) and torch.equal(found.image[4], found.image[3])
    assert not torch.equal(found.text[2], found.text[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_later_items_do_not_leak_into_earlier_clicks(tiny, family):
    """Bit for bit: the same rows but for the last item, which has as many tokens."""
    model, processor = tiny(family)
    other = [*HISTORY[:3], {"text": "lamp", "image": make_image(5)}]
    found = [model.encode_histories([h], processor, every_click=True) for h in (HISTORY[:4], other)]
    for view in VIEWS:
        assert torch.equal(found[0].view(view)[:3], found[1].view(view)[:3]), view
    assert not torch.equal(found[0].image[3], found[1].image[3])


def test_an_items_row_begins_every_history_that_begins_with_it(tiny):
    _, processor = tiny(user_instruction="U: ")
    prepared = processor.prepare_items(HISTORY)
    for shorter, longer in itertools.pairwise(prefixes([prepared])):
        for row, whole in zip(processor.rows(shorter, "user"), processor.rows(longer, "user"), strict=True):
            assert whole.ids[: len(row.ids)] == row.ids and whole.ends[: len(row.ends)] == row.ends
            assert all(whole.ids[end] == processor.end_id for end in whole.ends)
