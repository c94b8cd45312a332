"""What the page shows is what the model recommends, for every button of it, and nothing breaks out of it."""

import base64
import importlib.util
import io
import math
import re

import pytest
import torch
from PIL import Image

from vlm2rec_hf import SeqRecConfig, SequentialRecommender, recommender, show_page
from vlm2rec_hf.page import look
from vlm2rec_hf.page.blocks import DELETE_UPLOADS_S
from vlm2rec_hf.page.shop_window import HISTORY, LARGEST_IMAGE, ShopWindow, _details
from vlm2rec_hf.recommending.cards import IMAGE_PIXELS, ShownItem, card

from ..conftest import make_image


def png(seed=5, size=(400, 300)):
    buffer = io.BytesIO()
    make_image(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def ids(shelf):
    return [item.item_id for item in shelf.items]


def test_clicks_make_a_history(window):
    a, b, *_ = ids(window.browse())
    assert window.click(window.click(window.click([], a), b), a) == [b, a]
    for unknown in ("no such item", None, {"$": 1}):
        assert window.click([a], unknown) == [a]
    history = []
    for item in window.side.index.item_ids():
        history = window.click(history, item)
    assert len(history) == HISTORY and history[-1] == item


def test_lists_and_reasons_are_the_models(window, open_shop):
    assert window.recommend([]).heading == "Popular now"
    history = ids(window.browse())[:3]
    shelf = window.recommend(history)
    (best,) = open_shop.recommend([history], k=12, explain=True)
    assert ids(shelf) == best.item_ids and not set(history) & set(best.item_ids)
    assert [item.why for item in shelf.items] == best.reasons
    assert set(shelf.names) == set(history)
    text = look.shelf(shelf)
    assert text.count('class="bar"') == 12 and "most because of" in text
    assert [item.why for item in window.recommend(history, explain=False).items] == [None] * 12
    (by_text,) = open_shop.recommend([history], k=12, view_weights={"text": 1})
    (mostly_images,) = open_shop.recommend([history], k=12, view_weights={"text": 0.5, "image": 1})
    assert ids(window.recommend(history, 0.0)) == by_text.item_ids != best.item_ids
    assert ids(window.recommend(history, 0.75)) == mostly_images.item_ids
    assert ids(window.similar(history[0])) == open_shop.similar([history[0]], 12)[0].item_ids
    with pytest.raises(ValueError, match="`balance`"):
        window.recommend(history, 2.0)


def test_browsing_shows_every_item_once_and_begins_again(window):
    pages = [ids(window.browse(number)) for number in range(4)]
    assert sorted(sum(pages[:3], [])) == sorted(window.side.index.item_ids()) and pages[3] == pages[0]


def test_images_are_small_and_come_from_the_dataset(window, page_shop):
    (item,) = window.shown([str(page_shop.item_ids[0])])
    assert item.title == page_shop.items[0]["title"]
    image = Image.open(io.BytesIO(base64.b64decode(item.image.split(",")[1])))
    assert max(image.size) <= IMAGE_PIXELS


def test_a_new_item_is_found_and_ranked_at_once(window, open_shop):
    history = ids(window.browse())[:2]
    item, said = window.put("  green parasol <b>  ", png(), history)
    assert item.title == "green parasol <b>" and item.image.startswith("data:image/jpeg;base64,")
    assert ids(window.browse())[0] == item.item_id and "61 items" in window.browse().heading
    (ranked,) = open_shop.recommend([history], k=100, exclude_seen=False)
    assert f"number {ranked.item_ids.index(item.item_id) + 1};" in said.replace(".", ";")
    assert ids(window.recommend([*history, item.item_id]))  # it can be clicked, too
    image = Image.open(io.BytesIO(base64.b64decode(item.image.split(",")[1])))
    assert image.size == (IMAGE_PIXELS, 180)
    found = open_shop.side.index.metadata([item.item_id])
    assert found[0]["title"] == "green parasol <b>"
    _, said = window.put("nothing clicked yet", None)
    assert "click an item" in said


def test_an_item_that_is_in_the_shop_is_never_said_not_to_be(window, open_shop, page_shop):
    gone, _ = window.put("gone tomorrow", None)
    open_shop.delete([gone.item_id])
    item, said = window.put("put in beside it", None, [gone.item_id])
    assert "is in the shop, one of 61 items; click an item" in said  # what left the shop left the history, too
    by_images = ShopWindow(recommender(open_shop.side.loaded, page_shop, index=open_shop.side.index, view="image"))
    _, said = by_images.put("words alone", None, [item.item_id])
    assert "one of 62 items; your history says nothing" in said
    with pytest.raises(ValueError, match="compares items by their images alone; search by an image"):
        by_images.search("words alone")
    assert ids(by_images.search("words", png()))


def test_numbers_below_a_title_are_written_out():
    row = {"item_id": "a", "brand": "", "price": 1299000.0, "colour": math.nan}
    assert _details(row) == "1299000" and _details(row | {"price": 12345.67}) == "12345.67"
    assert _details(row | {"price": None}) == "a"


def test_search_by_text_and_by_image(window):
    by_text, _ = window.put("striped hammock", None)
    by_image, _ = window.put(None, png(9))
    found = window.search("striped hammock")
    assert ids(found)[0] == by_text.item_id and found.items[0].score == pytest.approx(1, abs=1e-4)
    found = window.search(image=png(9))
    assert ids(found)[0] == by_image.item_id and found.items[0].score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "image", "message"),
    [
        (" ", None, "needs a text or an image"),
        ("x" * 2001, None, "`text` has 2,001"),
        ("a", b"<svg onload=alert(1)>", "cannot be read: not_an_image"),
        ("a", b"", "cannot be read: empty"),
        ("a", b"0" * (LARGEST_IMAGE + 1), "at most 10,000,000"),
    ],
)
def test_what_cannot_be_put_in_changes_nothing(window, text, image, message):
    with pytest.raises(ValueError, match=message):
        window.put(text, image)
    with pytest.raises(ValueError, match=message if text.strip() else "Write what you look for"):
        window.search(text, image)
    assert len(window.side.index) == 60


@pytest.mark.parametrize("where", [{"port": 65536}, {"port": "7860"}, {"port": 0, "host": "no host"}])
def test_where_nobody_can_listen_is_said(open_shop, where):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the extra `demo` is not installed")
    with pytest.raises(ValueError, match="`port`"):
        show_page(open_shop, block=False, **where)


def test_no_upload_gets_older_than_an_hour():
    assert sum(DELETE_UPLOADS_S) <= 3600  # they are looked through every so often, and go at an age


def test_a_page_may_take_no_items(open_shop):
    with pytest.raises(ValueError, match="no new items"):
        ShopWindow(open_shop, new_items=False).put("a", None)
    with pytest.raises(ValueError, match="`k`"):
        ShopWindow(open_shop, k=0)


def test_a_head_is_searched_by_words_and_takes_no_items(page_shop):
    head = SequentialRecommender(SeqRecConfig(n_items=page_shop.n_items, encoder="sasrec", hidden_size=16)).eval()
    head.set_catalogue(list(page_shop.item_ids), torch.arange(page_shop.n_items))
    titles = page_shop.items["title"]
    window = ShopWindow(recommender(head, page_shop))
    assert not (window.takes_items or window.weighs or window.encodes)
    word = titles[7].split()[-2]
    found = window.search(word.upper())
    assert found.items and all(word.lower() in item.title.lower() for item in found.items)
    assert window.search("no such words").items == []
    with pytest.raises(ValueError, match="words alone"):
        window.search(image=png())
    assert len(window.recommend(ids(found)[:2]).items) == 12


def test_a_head_shows_the_images_of_items_that_its_embedders_index_keeps(open_shop, page_shop):
    index = open_shop.side.index
    vectors = torch.from_numpy(index.vectors(list(page_shop.item_ids))["both"])
    options = {"item_representation": "content", "content_dims": {"both": vectors.shape[1]}}
    head = SequentialRecommender(SeqRecConfig(n_items=page_shop.n_items, hidden_size=16, **options)).eval()
    head.set_content({"both": vectors}, embedder_revision=index.facts.revision)
    head.set_catalogue(list(page_shop.item_ids), torch.arange(page_shop.n_items))
    window = ShopWindow(recommender(head, page_shop, index=index))
    open_shop.upsert([{"item_id": "new", "title": "a parasol", "image": png()}])
    assert len(window.browse().items) == 24  # which follows the index
    new, old = window.shown(["new", str(page_shop.item_ids[0])])
    assert new.image.startswith("data:image/jpeg") and old.image.startswith("data:image/jpeg")


def test_titles_cannot_break_out_of_a_card():
    evil = '"></button><script>alert(1)</script>${1+1}{{value}}'
    text = card(ShownItem('"><i>', evil, note="<u>"), action=("add", "Add"))
    text += look.strip([ShownItem("a", evil)]) + look.said(evil) + look.mast(evil)
    assert "<script" not in text and "<i>" not in text and "<u>" not in text and "</button><" not in text[:200]
    assert re.findall(r'data-item="([^"]*)"', text)[0] == "&quot;&gt;&lt;i&gt;"
