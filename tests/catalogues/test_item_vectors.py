"""Item vectors with their ids: what is written is read, and every id stands for one row."""

import pytest
import torch

from vlm2rec_hf import ItemVectors
from vlm2rec_hf.catalogues.item_vectors import read_item_vectors


def test_ids_are_texts_and_each_stands_for_one_row(tmp_path):
    vectors = ItemVectors([1, "b"], {"both": torch.arange(6.0, requires_grad=True).view(2, 3)}, "model", "commit")
    assert torch.equal(vectors.for_items(["b", 1]).views["both"], vectors.views["both"][[1, 0]])
    again = read_item_vectors(vectors.save(tmp_path / "vectors.parquet"), ["b", "1"])
    assert torch.equal(again.views["both"], vectors.views["both"][[1, 0]]) and again.revision == "commit"
    with pytest.raises(ValueError, match="`item_ids` must be unique, got 'a' twice"):
        ItemVectors(["a", "b", "a"], {"both": torch.zeros(3, 2)})


def test_a_table_without_items_is_read(tmp_path):
    path = ItemVectors([], {"both": torch.zeros(0, 4)}).save(tmp_path / "none.parquet")
    assert read_item_vectors(path, []).views["both"].shape == (0, 4)
    with pytest.raises(ValueError, match="lack 1 of the dataset's 1 items, such as 'a'"):
        read_item_vectors(path, ["a"])
