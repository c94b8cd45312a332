"""A catalogue knows its items by id, and is refused where other items, or another order, are needed."""

import numpy as np
import pytest

from vlm2rec_hf import PreparedCatalogue, RecDataset
from vlm2rec_hf.data.described_items import DescribedItems
from vlm2rec_hf.evaluation.embedder import encode_users, evaluate_embedder
from vlm2rec_hf.evaluation.generated import rank_generated
from vlm2rec_hf.evaluation.pixrec import evaluate_pixrec


@pytest.fixture
def permuted(demo_dataset):
    """The same shop with its item table the other way round."""
    rows = list(range(demo_dataset.n_items))[::-1]
    other = RecDataset.from_tables(demo_dataset.interactions, demo_dataset.items.select(rows), timestamp_unit="s")
    assert set(other.item_ids) == set(demo_dataset.item_ids)
    return other


def test_ids_come_from_the_items(tiny, demo_dataset):
    _, processor = tiny("qwen2_vl")
    ids = demo_dataset.item_ids
    assert np.array_equal(PreparedCatalogue(demo_dataset.catalogue_items(), processor).item_ids, ids)
    assert np.array_equal(PreparedCatalogue(DescribedItems(demo_dataset), processor).item_ids, ids)
    assert PreparedCatalogue(["red tent", "mug"], processor).item_ids is None
    assert PreparedCatalogue(["red tent", "mug"], processor, item_ids=["a", 7]).item_ids.tolist() == ["a", "7"]
    with pytest.raises(ValueError, match=r"`item_ids` must have one id per item \(2\), got 1\."):
        PreparedCatalogue(["red tent", "mug"], processor, item_ids=["a"])


def test_some_rows_of_a_dataset_have_their_own_ids(demo_dataset):
    from vlm2rec_hf.data.catalogue_items import CatalogueItems

    assert CatalogueItems(demo_dataset, range(3, 6)).item_ids.tolist() == demo_dataset.item_ids[3:6].tolist()


def test_other_items_are_named(tiny):
    _, processor = tiny("qwen2_vl")
    catalogue = PreparedCatalogue(["red tent", "mug", "lamp"], processor, item_ids=["a", "b", "c"])
    catalogue.check_items(["a", "b", "c"])
    catalogue.check_items(np.array(["a", "b", "c"], dtype=object))
    with pytest.raises(ValueError, match="`catalogue` holds 3 items, but the dataset has 2; prepare the items"):
        catalogue.check_items(["a", "b"])
    with pytest.raises(ValueError, match="`mine` must hold .* but item 1 is 'b' instead of 'c'; prepare the items"):
        catalogue.check_items(["a", "c", "b"], "mine")
    without_ids = PreparedCatalogue(["red tent", "mug"], processor)
    without_ids.check_items(["any", "two"])
    with pytest.raises(ValueError, match="holds 2 items, but the dataset has 3"):
        without_ids.check_items(["a", "b", "c"])


def test_an_embedder_is_not_evaluated_on_items_in_another_order(tiny, demo_dataset, permuted):
    model, processor = tiny("qwen2_vl")
    catalogue = PreparedCatalogue(permuted.catalogue_items(), processor)
    examples = demo_dataset.examples("validation")
    message = f"`catalogue` must hold the dataset's items .* item 0 is '{permuted.item_ids[0]}'"
    with pytest.raises(ValueError, match=message):
        evaluate_embedder(model, catalogue, examples)
    with pytest.raises(ValueError, match=message):
        encode_users(model, catalogue, examples)


def test_pixrec_is_not_evaluated_on_items_in_another_order(tiny_pix, demo_dataset, permuted):
    model, processor = tiny_pix("qwen2_vl")
    catalogue = PreparedCatalogue(DescribedItems(permuted), processor)
    examples = demo_dataset.examples("validation").spread(3)
    message = f"`catalogue` must hold the dataset's items .* item 0 is '{permuted.item_ids[0]}'"
    with pytest.raises(ValueError, match=message):
        evaluate_pixrec(model, catalogue, examples)
    with pytest.raises(ValueError, match=message):
        rank_generated(model, catalogue, permuted.item_texts(), examples)
    own = PreparedCatalogue(DescribedItems(demo_dataset), processor)
    with pytest.raises(ValueError, match=r"`texts` must have one entry per item of the catalogue \(80\), got 79"):
        rank_generated(model, own, demo_dataset.item_texts()[1:], examples)


def test_a_catalogue_says_what_it_is(tiny, demo_dataset):
    model, processor = tiny("qwen2_vl")
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    assert repr(catalogue) == "PreparedCatalogue(80 items with ids)"
    assert repr(catalogue.cache_features(model)) == "PreparedCatalogue(80 items with ids, vision features cached)"
    assert repr(PreparedCatalogue(["mug"], processor)) == "PreparedCatalogue(1 items without ids)"
