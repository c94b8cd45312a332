"""Worker processes prepare ahead: same vectors, no waiting, and errors that say which item."""

import multiprocessing
import os
import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image

from vlm2rec_hf.modeling.encoding_vlm2rec import Feed

from ..conftest import make_image
from .test_encoding import largest_difference, many_items


class Lazy:
    """Items that note which process reads them, and take their time."""

    def __init__(self, items, folder=None, seconds=0.0):
        self.items, self.folder, self.seconds = items, folder, seconds

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        if self.folder is not None:
            (self.folder / str(os.getpid())).touch()
        item = self.items[index]
        if item is None:
            raise OSError("the image is cut short")
        return item


@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_same_vectors_and_this_process_reads_nothing(tiny, tmp_path, fusion):
    model, processor = tiny(fusion=fusion)
    items = many_items(20)
    items += items[3:6]
    result = model.encode_items(Lazy(items, tmp_path), processor, workers=2, batch_size=4)
    assert largest_difference(result, model.encode_items(items, processor)) < 1e-5
    readers = {int(path.name) for path in tmp_path.iterdir()}
    assert len(readers) == 2 and os.getpid() not in readers
    histories = [items[:3], items[2:9], items[5:6]]
    result = model.encode_histories(histories, processor, workers=1, batch_size=2)
    assert largest_difference(result, model.encode_histories(histories, processor)) < 1e-5


def test_the_model_does_not_wait_in_steady_state(tiny):
    """Two workers take 0.1 s per piece between them, the consumer 0.2 s: after the start everything is there."""
    _, processor = tiny()
    slow = Lazy([{"text": f"tent {i}", "image": make_image(i, (30, 30))} for i in range(40)], seconds=0.05)

    def waits(workers):
        feed = Feed(slow, "item", processor, 4, workers)
        for piece in feed:
            assert len(piece) == 4
            time.sleep(0.2)
        return feed.waits

    ahead, behind = waits(2), waits(0)
    assert len(ahead) == len(behind) == 10
    assert min(behind) >= 0.2  # 4 items at 0.05 s
    assert sum(sorted(ahead[2:])[:-1]) < 0.25 * sum(sorted(behind[2:])[:-1])  # one hiccup of a busy machine is allowed


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_the_item(tiny, workers):
    model, processor = tiny()
    items = many_items(12)
    items[7] = None
    with pytest.raises(OSError, match="cut short") as caught:
        model.encode_items(Lazy(items), processor, workers=workers, batch_size=4)
    assert "items[7]" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    items[7] = {"text": " "}
    with pytest.raises(ValueError, match="needs a text or an image") as caught:
        model.encode_items(items, processor, workers=workers, batch_size=4)
    assert "items[7]" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    with pytest.raises(ValueError, match="empty history") as caught:
        model.encode_histories([["tent"], []], processor, workers=workers)
    assert "histories[1]" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert torch.isfinite(model.encode_items(["tent"], processor, workers=workers).both).all()


def test_what_cannot_be_pickled_is_said_where_processes_start_afresh(tiny):
    model, processor = tiny()

    class Local(Lazy):
        pass

    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        with pytest.raises(ValueError, match="`workers=1`.*another process"):
            model.encode_items(Local(["tent"]), processor, workers=1)
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_way_to_start_a_process(tiny, start):
    model, processor = tiny()
    items = many_items(6)
    feed = Feed(Lazy(items), "item", processor, 4, 1, prepare=lambda raw: model)
    assert len(pickle.dumps(feed.pieces)) < 10**7
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(start, force=True)
    try:
        result = model.encode_items(Lazy(items), processor, workers=1, batch_size=4)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert largest_difference(result, model.encode_items(items, processor)) < 1e-5


def test_workers_must_be_a_number(tiny):
    model, processor = tiny()
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match="`workers`"):
            model.encode_items(["tent"], processor, workers=wrong)


def test_images_shared_within_a_piece_travel_once(tiny):
    _, processor = tiny()
    image = make_image(5, (50, 50))
    items = [{"text": "a", "image": image}, {"text": "b", "image": Image.fromarray(np.array(image))}]
    (piece,) = list(Feed(items, "item", processor, 8, 1))
    (first,), (second,) = piece
    assert first.key == second.key and torch.equal(first.pixel_values, second.pixel_values)
    assert first.pixel_values.data_ptr() == second.pixel_values.data_ptr()
    assert first.text != second.text
