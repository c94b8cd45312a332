"""A dataset's items, read one by one, and some of them only."""

from vlm2rec_hf import make_demo_shop
from vlm2rec_hf.data.catalogue_items import CatalogueItems
from vlm2rec_hf.data.images import image_digest


def test_a_part_is_the_same_part_of_the_whole():
    dataset = make_demo_shop(60, n_users=60).dataset()
    whole, part = dataset.catalogue_items(), CatalogueItems(dataset, range(5, 9))
    images = [cell["bytes"] if (cell := dataset.items[row]["image"]) else None for row in range(60)]
    assert len({image for image in images if image}) > 40  # else a wrong row might have the right image
    expected = [None if image is None else image_digest(image) for image in images]
    assert [whole.image_source(i) for i in range(60)] == expected
    assert len(part) == 4 and [part.image_source(i) for i in range(4)] == expected[5:9]
    assert part.image_source(-1) == expected[8]
    assert list(part.texts()) == list(whole.texts())[5:9]
    assert [item["text"] for item in part[1:3]] == [whole[6]["text"], whole[7]["text"]]
