"""Growing histories: at every click the same vectors as encoding the whole history again."""

import random

import pytest
import torch

from vlm2rec_hf import HistoryState, PreparedCatalogue, tiny_vlm
from vlm2rec_hf.columns import VIEWS
from vlm2rec_hf.modeling.items_vlm2rec import PreparedItem

from ..conftest import FAMILIES, QWEN, make_image


def free_size(processor):
    """Let images keep their own shape, so that they move positions by other amounts than they have tokens."""
    if processor.backbone_type in QWEN:  # the others read squares
        processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return processor


@pytest.fixture(scope="module")
def shop(items):
    return [
        *items,
        {"text": "wide", "image": make_image(7, (200, 30))},
        {"text": "tall", "image": make_image(8, (20, 160))},
    ]


def difference(actual, expected, views=VIEWS):
    assert torch.equal(actual.has_text, expected.has_text) and torch.equal(actual.has_image, expected.has_image)
    return max(float((actual.view(view) - expected.view(view)).abs().max()) for view in views)


def clicked(state, histories, rng, shop, share=0.6):
    """Let some users click: notes it in both."""
    clicks = {user: rng.choice(shop) for user in histories if rng.random() < share}
    state.append(clicks)
    for user, item in clicks.items():
        histories[user].append(item)


def runs_of(model, monkeypatch):
    """Shapes of everything the language model and the vision tower are given."""
    language, vision, run, see = [], [], model.family.run, model.family.encode_images

    def counted_run(vlm, input_ids, *rest):
        language.append(tuple(input_ids.shape))
        return run(vlm, input_ids, *rest)

    def counted_see(vlm, pixels, grid):
        vision.append(len(grid))
        return see(vlm, pixels, grid)

    monkeypatch.setattr(model.family, "run", counted_run)
    monkeypatch.setattr(model.family, "encode_images", counted_see)
    return language, vision


@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_click_equals_encoding_again(tiny, shop, family, fusion):
    """Users of different lengths click at different times, through and beyond the window."""
    model, processor = tiny(family, fusion, max_history=5)
    free_size(processor)
    state = HistoryState(model, processor, users=["ann", "bob", 7], views=VIEWS)
    histories, rng = {user: [] for user in state.users}, random.Random(3)
    for _ in range(11):
        clicked(state, histories, rng, shop)
        known = [user for user in histories if histories[user]]
        expected = model.encode_histories([histories[user] for user in known], processor)
        assert difference(state.embedding(known), expected) < 1e-5
        assert state.lengths == [min(len(history), 5) for history in histories.values()]
    assert min(len(history) for history in histories.values()) > 5
    # The comparison means something: the users differ, and so do a user's views and order.
    assert (expected.both[0] - expected.both[1]).abs().max() > 1e-2
    swapped = model.encode_histories([[*histories["ann"][:-2], *histories["ann"][:-3:-1]]], processor)
    assert (swapped.both[0] - expected.both[0]).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_dtype(tiny, shop, attention, dtype):
    model, processor = tiny("qwen3_vl", max_history=6)
    model.set_attn_implementation(attention)
    model.to(dtype)
    state = HistoryState(model, free_size(processor), users=range(2))
    for end in range(1, 5):
        state.append([shop[end], shop[-end] if end > 1 else None])
        state.embedding()
    expected = model.encode_histories([shop[1:5], [shop[-2], shop[-3], shop[-4]]], processor)
    assert difference(state.embedding(), expected) < (1e-5 if dtype is torch.float32 else 0.05)
    assert all(part.dtype is dtype for bank in state._banks.values() for pair in bank.buffers for part in pair)


def test_a_click_runs_its_own_tokens_and_nothing_twice(tiny, items, monkeypatch):
    model, processor = tiny(max_history=8)
    language, vision = runs_of(model, monkeypatch)
    state = HistoryState(model, processor, users=range(3))
    state.extend([[items[0], items[3]]] * 3)
    assert vision == [6] and not language  # appending runs the vision tower, and the language model only when asked
    first = state.embedding()
    assert len(language) == 2
    prefill = max(length for _, length in language)
    del language[:], vision[:]
    assert torch.equal(state.embedding().both, first.both) and not language  # nothing new, nothing run
    state.append([None, items[0], None])
    second = state.embedding()
    assert vision == [1] and [rows for rows, _ in language] == [1, 1]
    assert max(length for _, length in language) < prefill / 2
    assert torch.equal(second.both[[0, 2]], first.both[[0, 2]]) and not torch.equal(second.both[1], first.both[1])
    del language[:]
    state.append([items[1], None, None])  # a text alone leaves the image row as it is
    state.embedding()
    assert len(language) == 1
    state.append([items[2], items[2], items[2]])
    state.embedding([2])
    assert [rows for rows, _ in language[1:]] == [1]  # only the user who was asked for


def test_a_sliding_window_sees_no_image_twice_and_leaves_untouched_rows_alone(tiny, items, monkeypatch):
    model, processor = tiny(max_history=3)
    language, vision = runs_of(model, monkeypatch)
    state = HistoryState(model, processor)
    for item in (items[1], items[0], items[3]):
        state.append(item)
    state.embedding()
    del language[:], vision[:]
    state.append(items[4])  # drops a text, brings a text: the titles move, the images do not
    result = state.embedding()
    assert not vision and len(language) == 1
    history = [items[0], items[3], items[4]]
    assert difference(result, model.encode_histories([history], processor)) < 1e-5
    del language[:], vision[:]
    state.append([items[2]])
    assert vision == [1]
    result = state.embedding()
    assert vision == [1] and len(language) == 2
    # The image row had as many images of the same size before: the same tokens, but other images.
    assert difference(result, model.encode_histories([[items[3], items[4], items[2]]], processor)) < 1e-5
    state.append(items[5])
    expected = model.encode_histories([[items[4], items[2], items[5]]], processor)
    assert difference(state.embedding(), expected) < 1e-5


def test_the_end_token_leaves_no_trace(tiny, items):
    """Asking after every click and asking once at the end give the same vectors."""
    model, processor = tiny(max_history=8)
    often, once = HistoryState(model, processor), HistoryState(model, processor)
    for item in items:
        often.append(item)
        often.embedding()
        once.append(item)
    assert difference(often.embedding(), once.embedding()) < 1e-6
    lengths = [[state._histories[0].rows[view].length for view in ("text", "image")] for state in (often, once)]
    assert lengths[0] == lengths[1]


def test_buffers_are_written_in_place_and_stay_bounded(tiny, items):
    model, processor = tiny(max_history=6)
    state = HistoryState(model, processor, users=range(2))
    text, keys = state._banks["text"], None
    grown, sizes = 0, []
    for _ in range(30):
        state.append([items[1]] * 2)
        state.embedding()
        before, keys = keys, text.buffers[0][0]
        grown += before is not None and keys is not before
        sizes.append(state.nbytes)
    assert grown <= 3
    assert len(set(sizes[8:])) == 1  # thirty clicks, six kept
    longest = max(history.rows["text"].length for history in state._histories)
    assert text.capacity <= (longest + 1) * 5 // 4 + 128
    config = model.config.get_text_config()
    per_slot = config.num_hidden_layers * 2 * config.num_key_value_heads * 8 * 4
    assert text.nbytes == 2 * text.capacity * per_slot
    assert state.nbytes == text.nbytes + 2 * 2 * 32 * 4  # no image, two views of vectors


def test_views_and_users_without_content_are_absent(tiny, items):
    model, processor = tiny()
    state = HistoryState(model, processor, users=range(2))
    nothing = state.embedding()
    assert not nothing.both.any() and not nothing.has_text.any() and not nothing.has_image.any()
    state.append({0: items[1]})
    result = state.embedding()
    assert result.text[0].any() and not result.image.any() and not result.both[1].any()
    assert result.has_text.tolist() == [True, False] and result.has_image.tolist() == [False, False]
    short = tiny(max_history=1)[1]
    state = HistoryState(model, short)
    state.append(items[5])
    assert state.embedding().image.any()
    state.append(items[1])
    result = state.embedding()
    assert not result.image.any() and difference(result, model.encode_histories([[items[1]]], short)) < 1e-5


def test_internal_fusion_keeps_only_what_was_asked_for(tiny, items):
    model, processor = tiny(fusion="internal")
    state, all_views = HistoryState(model, processor), HistoryState(model, processor, views=VIEWS)
    for one in (state, all_views):
        one.extend([items])
    result, expected = state.embedding(), model.encode_histories([items], processor)
    assert (result.both - expected.both).abs().max() < 1e-5
    assert difference(all_views.embedding(), expected) < 1e-5
    assert result.text.isnan().all() and result.image.isnan().all()  # zero would mean absent
    assert set(state._banks) == {"both"} and all_views.nbytes > state.nbytes


def test_users_come_and_go(tiny, items):
    model, processor = tiny()
    state = HistoryState(model, processor, users=["a", "b", "c"])
    state.extend([items[:1], items[:2], items[:3]])
    state.embedding()
    state.add(["d"])
    state.append(items[4:5] * 2, users=["d", "a"])
    part = state.select(["d", "b"])
    part.append([items[0], None])
    assert state.lengths == [2, 2, 3, 1] and part.lengths == [2, 2] and part.users == ["d", "b"]
    expected = model.encode_histories([[items[4], items[0]], items[:2]], processor)
    assert difference(part.embedding(), expected) < 1e-5
    before = state.nbytes
    state.drop(["b"])
    assert state.users == ["a", "c", "d"] and state.nbytes < before
    state.append({"c": items[5]})
    expected = model.encode_histories([[items[0], items[4]], [*items[:3], items[5]], [items[4]]], processor)
    assert difference(state.embedding(), expected) < 1e-5
    assert torch.equal(state.embedding(["d", "a"]).both, state.embedding().both[[2, 0]])
    held = state.nbytes
    state.clear(["c"])
    assert state.users == ["a", "c", "d"] and state.lengths == [2, 0, 1] and state.nbytes <= held
    assert not state.embedding(["c"]).both.any()
    state.append({"c": items[1]})
    assert difference(state.embedding(["c"]), model.encode_histories([[items[1]]], processor)) < 1e-5
    with pytest.raises(ValueError, match="`users` holds 'z'"):
        state.clear(["z"])


def test_cached_features_and_prepared_items_are_taken(tiny, items, monkeypatch):
    model, processor = tiny("qwen3_vl")
    catalogue = PreparedCatalogue(items, processor).cache_features(model)
    expected = model.encode_histories([items], processor)
    _, vision = runs_of(model, monkeypatch)
    state = HistoryState(model, processor)
    state.extend([list(catalogue)])
    assert difference(state.embedding(), expected) < 1e-5 and not vision
    pixels = processor.prepare_items([items[0], items[0]], keys=["same", "same"])
    two = HistoryState(model, processor, users=range(2))
    two.append(pixels)
    assert vision == [1] and two.nbytes < 2 * state.nbytes


def test_a_bare_item_of_features_is_an_item():
    model, processor = tiny_vlm("parts", ["mug"], feature_size=8, hidden_size=32)
    bare = {"image_features": torch.randn(4, 8).numpy()}
    state = HistoryState(model, processor)
    state.append(bare)
    assert difference(state.embedding(), model.encode_histories([[bare]], processor)) < 1e-5


def test_texts_are_kept_as_far_as_they_are_shown(tiny):
    model, processor = tiny()
    state = HistoryState(model, processor)
    state.append("a mug and " * 200)
    ((_, kept),) = state._histories[0].window
    assert len(kept.text) == processor.max_history_item_tokens and kept.pixel_values is None


def test_evaluation_mode_is_forced_and_given_back(tiny, items):
    model, processor = tiny(max_history=4)
    expected = model.encode_histories([items[:3]], processor)
    model.config.get_text_config().attention_dropout = 0.5
    for layer in model.vlm.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    state = HistoryState(model, processor)
    state.extend([items[:3]])
    result = state.embedding()
    assert model.training and not result.both.requires_grad
    assert difference(result, expected) < 1e-5


def test_adapters(tiny, items):
    from peft import get_peft_model

    from vlm2rec_hf import default_lora_config

    model, processor = tiny(max_history=4)
    plain = model.encode_histories([items[:3]], processor)
    wrapped = get_peft_model(model, default_lora_config(4))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    state = HistoryState(wrapped, processor)
    for item in items[:3]:
        state.append(item)
        result = state.embedding()
    assert difference(result, wrapped.encode_histories([items[:3]], processor)) < 1e-5
    assert (result.both - plain.both).abs().max() > 1e-3
    with wrapped.disable_adapter(), pytest.raises(ValueError, match="adapters .* have changed"):
        state.embedding()
    assert torch.equal(state.embedding().both, result.both)
    wrapped.merge_adapter()
    with pytest.raises(ValueError, match="adapters .* have changed"):
        state.embedding()


@pytest.mark.parametrize("change", ["step", "load", "cast"])
def test_changed_weights_are_refused(tiny, items, change):
    model, processor = tiny()
    state = HistoryState(model, processor)
    state.append(items[0])
    state.embedding()
    if change == "step":
        weight = model.vlm.language_model.layers[0].mlp.up_proj.weight
        weight.grad = torch.ones_like(weight)
        torch.optim.AdamW([weight], lr=1e-3).step()
    elif change == "load":
        model.load_state_dict(model.state_dict())
    else:
        model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="weights, adapters or dtype have changed"):
        state.embedding()
    with pytest.raises(ValueError, match="weights, adapters or dtype have changed"):
        state.append(items[1])  # or its image would pass other weights than those before
    assert state.lengths == [1]


@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_numbers_in_a_row_count_what_its_view_shows(tiny, items, fusion):
    model, processor = tiny("qwen2_vl", fusion, max_history=4, history_template="{number}. {text}\n")
    shown = [items[1], PreparedItem(), items[2], items[0], items[5], items[4], items[3]]  # the second says nothing
    state = HistoryState(model, processor, views=VIEWS)
    for count, item in enumerate(shown, 1):  # beyond four the window slides
        state.append(item)
        assert difference(state.embedding(), model.encode_histories([shown[:count]], processor)) < 1e-5
    whole = HistoryState(model, processor, views=VIEWS)
    whole.extend([shown])
    assert difference(whole.embedding(), state.embedding()) < 1e-5


@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_moving_a_state_moves_no_features_of_others(tiny, items, fusion):
    model, processor = tiny("qwen2_vl", fusion)
    catalogue = PreparedCatalogue(items[:3], processor).cache_features(model)
    state = HistoryState(model, processor, users=["a", "b"], views=VIEWS)
    state.extend([list(catalogue), list(catalogue)])
    other = state.select(["b"])
    state.to("meta")
    shown = [item for history in state._histories for _, item in history.window]
    shown += [p.image for h in state._histories for row in h.rows.values() for p in row.pieces if p.image is not None]
    moved = [item.features for item in shown if item.features is not None]
    assert moved and all(features.tokens.device.type == "meta" for features in moved)
    assert len({id(features) for features in moved}) == sum(item.features is not None for item in catalogue)
    assert all(item.features.tokens.device.type == "cpu" for item in catalogue if item.features is not None)
    assert difference(other.embedding(), model.encode_histories([items[:3]], processor)) < 1e-5


def test_wrong_use_is_refused_and_changes_nothing(tiny, items):
    model, processor = tiny()
    state = HistoryState(model, processor, users=["a", "b"])
    state.append([items[0], items[1]])
    before = state.embedding()
    for wrong, error, words in (
        (lambda: state.append(items[0]), ValueError, "a single dict for 2 users"),
        (lambda: state.append([items[0]]), ValueError, "1 entries for 2 users"),
        (lambda: state.append({"zoe": items[0]}), ValueError, "'zoe'.*take in new users with `add`"),
        (lambda: state.append([items[0], 3]), TypeError, "holds a int"),
        (lambda: state.append({"a": items[0], "b": {"text": " "}}), ValueError, "needs a text or an image"),
        (lambda: state.append([items[0]] * 2, users=["a", "a"]), ValueError, "names a user twice"),
        (lambda: state.append({"a": items[0]}, users=["a"]), ValueError, "a mapping names its users itself"),
        (lambda: state.extend({"a": items[:1]}, users=["b"]), ValueError, "a mapping names its users itself"),
        (lambda: state.extend([items[0], items[1]]), TypeError, "pass a list of items per user"),
        (lambda: state.append([PreparedItem(grid=(1, 4, 4)), None]), ValueError, "neither `pixel_values` nor"),
        (lambda: state.embedding(["zoe"]), ValueError, "'zoe'"),
        (lambda: state.add(["b"]), ValueError, "twice"),
        (lambda: state.add("cid"), ValueError, "`users` must be a list of ids, got the text 'cid'"),
        (lambda: state.add(["text"]), ValueError, "other than .*'image_features', 'text'.*, got 'text'"),
        (lambda: HistoryState(model, processor, views=["both"]), ValueError, "needs both rows"),
        (lambda: HistoryState(model, processor, views=["title"]), ValueError, "`views` must be a list of some"),
        (lambda: HistoryState(model, tiny(fusion="internal")[1]), ValueError, "fusion 'internal', the model 'ext"),
        (lambda: HistoryState(model, tiny("qwen3_vl")[1]), ValueError, "backbone_type 'qwen3_vl'"),
    ):
        with pytest.raises(error, match=words):
            wrong()
    assert torch.equal(state.embedding().both, before.both) and state.lengths == [1, 1]


def test_sliding_attention_is_refused(items):
    model, processor = tiny_vlm()
    model.config.get_text_config().layer_types[0] = "sliding_attention"
    with pytest.raises(ValueError, match="sliding-window attention"):
        HistoryState(model, processor)
