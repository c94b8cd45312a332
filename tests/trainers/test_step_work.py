"""What a training step does no more than once, and what it never waits for."""

import pickle
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from vlm2rec_hf import PreparedCatalogue
from vlm2rec_hf.trainers.collator import ITEM, USER, ContrastiveCollator, tokens_per_item
from vlm2rec_hf.trainers.prefetch import prefetched
from vlm2rec_hf.trainers.step_views import assemble

# Windows that share items: 6 distinct ones in 9 + 5 image slots.
WINDOWS = [
    {"items": np.array(items), "targets": np.array(targets), "past": np.array([], dtype=np.int64)}
    for items, targets in (([1, 2, 3], [2, 3, 4]), ([2, 3, 4], [1]), ([4, 5], [5, 6]), ([6], [4]))
]
TARGETS, DISTINCT = [1, 2, 3, 4, 5, 6], 6


class Tower:
    """Counts the images that pass a model's vision tower, and its calls."""

    def __init__(self, model, patch):
        self.calls, self.images = 0, 0
        whole = type(model).encode_images

        def counting(embedder, pixel_values, grid):
            self.calls, self.images = self.calls + 1, self.images + len(grid)
            return whole(embedder, pixel_values, grid)

        patch.setattr(type(model), "encode_images", counting)


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_each_image_of_a_step_passes_the_tower_once(tiny, trainer, monkeypatch, family, freeze):
    model, processor = tiny(family)
    run = trainer(model, processor, cache_vision_features=False, freeze_vision=freeze)
    run.current_gradient_accumulation_steps = 1
    tower = Tower(model, monkeypatch)
    run.training_step(run.model, run.data_collator(WINDOWS))
    assert (tower.calls, tower.images) == (1, DISTINCT)


def test_with_gradient_caching_each_chunk_has_one_tower_pass_per_turn(tiny, trainer, monkeypatch):
    model, processor = tiny()
    run = trainer(model, processor, cache_vision_features=False, gradient_cache_tokens=60)
    run.current_gradient_accumulation_steps = 1
    tower = Tower(model, monkeypatch)
    batch = run.data_collator(WINDOWS)
    distinct = [len({i for _, _, items in chunk for i in items}) for chunk in batch["chunks"]]
    assert len(distinct) > 2
    run.training_step(run.model, batch)
    assert (tower.calls, tower.images) == (2 * len(distinct), 2 * sum(distinct))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("pass_tokens", [None, 40])
def test_passes_and_shared_images_change_no_vector(tiny, demo_dataset, family, fusion, pass_tokens):
    model, processor = tiny(family, fusion)
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    batch = ContrastiveCollator(catalogue, pass_tokens)(WINDOWS)
    assert (len(batch["groups"]) > 4) == (pass_tokens is not None)
    outputs = model(groups=batch["groups"], **batch["images"])
    users, items = assemble(torch.cat([output.embeddings for output in outputs]), batch["owners"], batch)
    histories = [
        [catalogue[int(i)] for i in window["items"][: click + 1]]
        for window in WINDOWS
        for click in range(len(window["items"]) - len(window["targets"]), len(window["items"]))
    ]
    alone = (processor.collate(histories, "user"), processor.collate([[catalogue[i]] for i in TARGETS], "item"))
    for found, group in zip((users, items), alone, strict=True):
        assert (found.fused - model(**group).embeddings).abs().max() < 1e-5
        assert torch.equal(found.has_text | found.has_image, group["has_text"] | group["has_image"])


def test_rows_of_a_pass_are_of_like_length_and_few_tokens(tiny, demo_dataset):
    _, processor = tiny()
    collator = ContrastiveCollator(PreparedCatalogue(demo_dataset.catalogue_items(), processor), 200)
    batch = collator([window for window in WINDOWS for _ in range(5)])
    for group in batch["groups"]:
        lengths = group["attention_mask"].sum(-1)
        assert group["input_ids"].numel() <= 200 or len(lengths) == 1
        assert lengths.min() >= 0.75 * lengths.max()
    assert batch["real_tokens"] == sum(int(group["attention_mask"].sum()) for group in batch["groups"])
    assert batch["padded_tokens"] == sum(group["input_ids"].numel() for group in batch["groups"])


def test_a_batch_is_cut_into_chunks_that_hold_everything_once(tiny, demo_dataset):
    _, processor = tiny()
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    tokens = tokens_per_item(catalogue)
    collator = ContrastiveCollator(catalogue, None, 60, tokens)
    chunks = collator(WINDOWS)["chunks"]
    examples = [(USER, i, tuple(window["items"].tolist())) for i, window in enumerate(WINDOWS)]
    assert [one for chunk in chunks for one in chunk] == examples + [(ITEM, i, (t,)) for i, t in enumerate(TARGETS)]
    sizes = [[int(tokens[list(items)].sum()) for _, _, items in chunk] for chunk in chunks]
    assert all(sum(chunk) <= 60 or len(chunk) == 1 for chunk in sizes) and len(chunks) > 1


def test_chunks_travel_cheaply(tiny, demo_dataset):
    """What workers send for a batch with gradient caching: indices, never pixels."""
    _, processor = tiny()
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    collator = ContrastiveCollator(catalogue, None, 60, tokens_per_item(catalogue))
    light = len(pickle.dumps(collator(WINDOWS)))
    heavy = len(pickle.dumps(ContrastiveCollator(catalogue)(WINDOWS)))
    assert light < 4000 < heavy / 10
    again = pickle.loads(pickle.dumps(collator))(WINDOWS)
    assert again["chunks"] == collator(WINDOWS)["chunks"]


class Piece:
    """Something big."""


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_prefetching_keeps_order_and_a_bound(threads):
    alive, most, lock, by = weakref.WeakSet(), 0, threading.Lock(), set()

    def make(number):
        nonlocal most
        piece = Piece()
        piece.number = number
        with lock:
            alive.add(piece)
            most = max(most, len(alive))
            by.add(threading.current_thread().name.split("_")[0])
        return piece

    numbers = []
    pieces = prefetched(make, range(12), threads=threads)
    for piece in pieces:
        numbers.append(piece.number)
        time.sleep(0.002)
        del piece
    assert numbers == list(range(12))
    assert most <= threads + 1
    assert by == ({"prefetch"} if threads else {"MainThread"})


def test_an_error_while_preparing_is_raised_where_the_piece_is_used():
    def make(number):
        if number == 2:
            raise ValueError("broken image")
        return number

    found = []
    with pytest.raises(ValueError, match="broken image"):
        for number in prefetched(make, range(5)):
            found.append(number)
    assert found == [0, 1]


class SlowItems:
    """The shop's items, each of which takes its time."""

    def __init__(self, items, seconds):
        self.items, self.seconds = items, seconds

    def __len__(self):
        return len(self.items)

    def texts(self):
        return self.items.texts()

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.items[index]


def waits(tiny, trainer, demo_dataset, **options):
    """Seconds that each step waited for data, and its loss; a step takes at least 0.4 seconds."""
    model, processor = tiny()
    catalogue = PreparedCatalogue(SlowItems(demo_dataset.catalogue_items(), 0.004), processor)
    run = trainer(model, processor, catalogue=catalogue, cache_vision_features=False, max_steps=7, **options)
    step = run.training_step

    def long_step(*args, **kwargs):
        time.sleep(0.4)
        return step(*args, **kwargs)

    run.training_step = long_step
    run.train()
    logs = [record for record in run.state.log_history if "loss" in record]
    return [record["data_wait"] for record in logs], [record["loss"] for record in logs]


def test_with_workers_a_step_does_not_wait_for_slow_images(tiny, trainer, demo_dataset):
    """About 20 items a step: 0.1 seconds of reading, behind a step of 0.4 seconds or before it."""
    inline, losses = waits(tiny, trainer, demo_dataset)
    workers, same = waits(tiny, trainer, demo_dataset, dataloader_num_workers=2)
    assert losses == same
    # Two fetches stand before the first step, none before the last.
    assert min(inline[1:-1]) > 0.06
    assert min(workers[2:-1]) < 0.03 and np.median(workers[2:-1]) < np.median(inline[1:-1]) / 2, (workers, inline)
