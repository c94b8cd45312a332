"""What runs through the backbone: bit-equal states, several images of several sizes, the three views and fusions."""

import pytest
import torch

from vlm2rec_hf.modeling.family_qwen_vl import multimodal_positions
from vlm2rec_hf.modeling.family_vlm2rec import ImageFeatures

from ..conftest import QWEN, make_image


@pytest.fixture(scope="module")
def mixed_rows(items):
    """Histories whose internal rows mix words and images of different shapes, and rows without any."""
    wide, tall = (
        {"text": "wide", "image": make_image(7, (200, 30))},
        {"text": "tall", "image": make_image(8, (20, 160))},
    )
    return [[wide, "red tent", tall], ["blue mug"], [tall, items[2], wide, items[3]], [items[2]]]


def free_size(processor):
    """Let images keep their own shape, so that grids differ."""
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return processor


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", QWEN)
def test_mixed_rows_have_the_backbones_positions_and_states(tiny, mixed_rows, family, side):
    model, processor = tiny(family, "internal")
    free_size(processor).tokenizer.padding_side = side
    batch = processor(histories=mixed_rows)
    rows, mask = batch["input_ids"], batch["attention_mask"]
    grid = batch["image_grid_thw"][batch["image_index"]]
    assert len({tuple(one) for one in grid.tolist()}) > 2 and mask.sum(-1).unique().numel() > 2
    placeholders = rows == model.config.vlm_config.image_token_id
    kept = rows.clone(), mask.clone()
    ours = multimodal_positions(mask, placeholders, grid, model.config.vlm_config.vision_config.spatial_merge_size)
    theirs, _ = model.vlm.get_rope_index(
        rows, mm_token_type_ids=placeholders.int(), image_grid_thw=grid, attention_mask=mask
    )
    assert torch.equal(ours, theirs)
    options = {"image_grid_thw": grid, "mm_token_type_ids": placeholders.int(), "use_cache": False}
    with torch.no_grad():
        images = model._gather_images(batch["pixel_values"], batch["image_grid_thw"], batch["image_index"], None, None)
        states = model.family.run(model.vlm, rows, mask, images)
        expected = model.vlm(
            input_ids=rows, attention_mask=mask, pixel_values=batch["pixel_values"], **options
        ).last_hidden_state
    real = mask.bool()
    if side == "left":  # the same attention mask, so the same kernel: not a bit may differ
        assert torch.equal(states[real], expected[real])
    assert (states[real] - expected[real]).abs().max() < 1e-6
    assert torch.equal(rows, kept[0]) and torch.equal(mask, kept[1])


def test_internal_and_external_fusion_differ(tiny, items):
    (external, processor), (internal, its_processor) = tiny(), tiny(fusion="internal")
    assert all(torch.equal(a, b) for a, b in zip(external.parameters(), internal.parameters(), strict=True))
    a, b = external.encode_items([items[0]], processor), internal.encode_items([items[0]], its_processor)
    assert torch.nn.functional.cosine_similarity(a.both, b.both).item() < 0.999
    for view in ("text", "image"):  # alone in a row, a modality is the same in both
        assert (a.view(view) - b.view(view)).abs().max() < 1e-6


@pytest.mark.parametrize("family", QWEN)
def test_additivity_of_histories(tiny, items, family):
    model, processor = tiny(family)
    history = [items[0], items[3]]
    both = model.encode_histories([history], processor)
    text = model.encode_histories([[item["text"] for item in history]], processor)
    image = model.encode_histories([[item["image"] for item in history]], processor)
    assert (both.both - text.both - image.both).abs().max() < 1e-6
    assert not text.has_image.any() and not image.has_text.any() and not text.image.any()


def test_order_of_a_history_matters(tiny, items):
    model, processor = tiny()
    forth, back = (model.encode_histories([[items[0], items[3]][::step]], processor) for step in (1, -1))
    for view in ("text", "image"):
        assert (forth.view(view) - back.view(view)).abs().max() > 1e-4


def test_rows_that_lost_a_placeholder_are_refused(tiny, items):
    model, processor = tiny()
    batch = processor(items=[items[0]])
    batch["image_rows"], batch["image_rows_mask"] = batch["image_rows"][:, :-3], batch["image_rows_mask"][:, :-3]
    with pytest.raises(ValueError, match="truncated inside an image"):
        model(**batch)
    internal, _ = tiny(fusion="internal")
    with pytest.raises(ValueError, match="`image_rows` belong to external"):
        internal(**processor(items=[items[0]]))


def test_features_are_selected_with_repeats_and_any_lengths():
    tokens = torch.arange(6.0).unsqueeze(-1)
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 2, 6]])
    result = ImageFeatures(tokens, grid, (tokens * 10,)).select(torch.tensor([2, 0, 2]), torch.tensor([1, 2, 3]))
    assert result.tokens.flatten().tolist() == [3, 4, 5, 0, 3, 4, 5]
    assert result.layers[0].flatten().tolist() == [30, 40, 50, 0, 30, 40, 50]
    assert torch.equal(result.grid, grid[[2, 0, 2]])


def test_a_lazy_sequence_is_read_in_chunks(tiny):
    model, processor = tiny()

    class Lazy:
        asked: list = []
        written: list = []

        def __len__(self):
            return 40

        def __getitem__(self, index):
            self.asked.append(index)
            return f"tent {index}"

    model.vlm.language_model.register_forward_hook(lambda *_: Lazy.written.append(len(Lazy.asked)))
    result = model.encode_items(Lazy(), processor, batch_size=1)
    assert Lazy.asked == list(range(40)) and Lazy.written[0] == 16  # 16 batches at a time, not the whole
    expected = model.encode_items([f"tent {i}" for i in range(40)], processor)
    assert (result.both - expected.both).abs().max() < 1e-5


def test_the_progress_bar_is_off_unless_asked_for(tiny, capsys):
    model, processor = tiny()
    model.encode_items(["a"] * 3, processor)
    assert capsys.readouterr().err == ""
    model.encode_items(["a"] * 3, processor, show_progress=True)
    assert "Items" in capsys.readouterr().err


@pytest.mark.parametrize("n_layers", [0, 2])
def test_features_split_by_image_and_joined_again(n_layers):
    tokens = torch.randn(6, 4)
    whole = ImageFeatures(tokens, torch.arange(9).view(3, 3), tuple(tokens + i for i in range(1, n_layers + 1)))
    parts = whole.split([1, 2, 3])
    assert [len(part.tokens) for part in parts] == [1, 2, 3]
    assert torch.equal(parts[2].tokens, tokens[3:]) and torch.equal(parts[2].grid, whole.grid[2:])
    joined = ImageFeatures.joined(parts)
    assert torch.equal(joined.tokens, tokens) and torch.equal(joined.grid, whole.grid)
    assert len(joined.layers) == n_layers
    assert all(torch.equal(a, b) for a, b in zip(joined.layers, whole.layers, strict=True))
    assert parts[1].nbytes == 2 * 4 * 4 * (1 + n_layers)
    own = parts[1].clone()
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in (own.tokens, own.grid, *own.layers))
    moved = whole.to("meta")
    assert all(part.is_meta for part in (moved.tokens, moved.grid, *moved.layers))
