"""Items described by their columns."""

import numpy as np
import pytest

from vlm2rec_hf import PreparedCatalogue
from vlm2rec_hf.data.described_items import DescribedItems, describe


@pytest.fixture
def dataset():
    from vlm2rec_hf import RecDataset

    interactions = [{"user_id": "u", "item_id": str(i), "timestamp": i} for i in range(4)]
    items = [
        {"item_id": "0", "title": "red tent", "category": ["Camping", "Tents"], "brand": "Alpina", "price": 30.0},
        {"item_id": "1", "title": "blue mug", "category": None, "brand": " ", "price": None},
        {"item_id": "2", "title": None, "category": ["Lamps"], "brand": None, "price": 7.5},
        {"item_id": "3", "title": None, "category": None, "brand": None, "price": float("nan")},
    ]
    import pyarrow as pa

    return RecDataset.from_tables(pa.Table.from_pylist(interactions), pa.Table.from_pylist(items))


def test_what_is_missing_is_left_out(dataset):
    texts = list(DescribedItems(dataset).texts())
    assert texts == [
        "red tent, category: Camping / Tents, brand: Alpina, price: 30",
        "blue mug",
        "category: Lamps, price: 7.5",
        None,
    ]
    assert list(DescribedItems(dataset, ["brand"]).texts()) == ["brand: Alpina", "blue mug", None, None]
    assert list(DescribedItems(dataset, []).texts()) == dataset.item_texts()
    with pytest.raises(ValueError, match="`columns`.*colour"):
        DescribedItems(dataset, ["title", "colour"])


@pytest.mark.parametrize(
    ("price", "words"),
    [
        (19.99, "19.99"),
        (19999.99, "19999.99"),
        (1234567.0, "1234567"),
        (0.00001, "0.00001"),
        (30.0, "30"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_keep_their_digits(price, words):
    """A price of 19999.99 is not 20000; in single precision 19.99 is not 19.989999771118164."""
    assert describe({"price": price}, ["price"]) == f"price: {words}"
    if len(words) < 8:
        assert describe({"price": float(np.float32(price))}, ["price"]) == f"price: {words}"


def test_without_such_columns_it_is_the_items_text(demo_dataset):
    items = DescribedItems(demo_dataset)
    assert items.columns == () and list(items.texts()) == demo_dataset.item_texts()
    assert items[3]["image"] is not None
    assert DescribedItems(demo_dataset, images=False)[3]["image"] is None


def test_a_catalogue_reads_it(dataset, tiny_pix):
    _, processor = tiny_pix()
    catalogue = PreparedCatalogue(DescribedItems(dataset), processor)
    assert processor.tokenizer.decode(catalogue[1].text) == "blue mug"
    assert [catalogue.is_empty(i) for i in range(4)] == [False, False, False, True]
