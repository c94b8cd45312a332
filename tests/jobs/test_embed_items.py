"""One shard: the vectors of its items, and its bad rows."""

import json

import numpy as np
import pytest
import torch

from vlm2rec_hf.jobs.embed_items import embed_items

from .small_jobs import BAD_ALONE, BAD_IMAGE, N_ITEMS, NOTHING, ONLY_A_PATH, TEXT_ONLY, small_model


@pytest.fixture(scope="module")
def whole(dataset, loaded):
    return embed_items(dataset, range(N_ITEMS), *loaded, batch_size=8)


def matrix(table, view):
    return np.array(table[view].to_pylist(), dtype=np.float32)


def test_rows_are_the_items_in_order_with_the_models_vectors(dataset, loaded, whole):
    model, processor = loaded
    vectors, _ = whole
    assert vectors["item_id"].to_pylist() == [f"i{i}" for i in range(N_ITEMS)]
    fine = [i for i in range(N_ITEMS) if i not in (BAD_ALONE, NOTHING)]
    expected = model.encode_items([dataset.item(i) for i in fine], processor)
    for view in ("both", "text", "image"):
        np.testing.assert_allclose(matrix(vectors, view)[fine], expected.view(view).numpy(), atol=1e-5)
    assert np.array(vectors["has_image"])[fine].tolist() == expected.has_image.tolist()


def test_an_item_with_a_bad_image_keeps_its_text(whole):
    vectors, _ = whole
    row = vectors.slice(BAD_IMAGE, 1).to_pylist()[0]
    assert row["has_text"] and not row["has_image"]
    assert row["both"] == row["text"] and any(row["text"]) and not any(row["image"])
    for index in (BAD_ALONE, NOTHING):
        row = vectors.slice(index, 1).to_pylist()[0]
        assert not (row["has_text"] or row["has_image"] or any(row["both"]))


def test_every_bad_row_is_told_with_its_reason(whole):
    _, bad = whole
    result = [(row["number"], json.loads(row["row"])["item_id"], row["reason"]) for row in bad.to_pylist()]
    assert result == [
        (BAD_IMAGE, f"i{BAD_IMAGE}", "image:not_an_image"),
        (BAD_ALONE, f"i{BAD_ALONE}", "image:not_an_image"),
        (BAD_ALONE, f"i{BAD_ALONE}", "neither_text_nor_image"),
        (NOTHING, f"i{NOTHING}", "neither_text_nor_image"),
        (ONLY_A_PATH, f"i{ONLY_A_PATH}", "image:no_bytes"),
    ]
    assert TEXT_ONLY not in {number for number, _, _ in result}  # lacking an image is no fault


@pytest.mark.parametrize("rows", [range(2, 6), range(20, 24), range(7, 8)])
def test_a_shard_is_a_slice_of_the_whole(dataset, loaded, whole, rows):
    vectors, bad = embed_items(dataset, rows, *loaded)
    expected = whole[0].slice(rows.start, len(rows))
    assert vectors["item_id"].equals(expected["item_id"]) and vectors["has_image"].equals(expected["has_image"])
    np.testing.assert_allclose(matrix(vectors, "both"), matrix(expected, "both"), atol=1e-5)
    assert bad["number"].to_pylist() == [number for number in whole[1]["number"].to_pylist() if number in rows]


def test_vectors_that_are_no_numbers_are_refused(dataset):
    model, processor = small_model()
    with torch.no_grad():
        next(model.vlm.language_model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite for 2 of 4 items, such as 'i4'"):
        embed_items(dataset, range(4, 8), model, processor)
