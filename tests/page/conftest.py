"""A small shop with an untrained model, and windows over copies of its index."""

import shutil

import pytest

from vlm2rec_hf import build_index, make_demo_shop, recommender
from vlm2rec_hf.loading import load_with_processor
from vlm2rec_hf.page.shop_window import ShopWindow


@pytest.fixture(scope="session")
def page_shop():
    return make_demo_shop(60, n_users=20).dataset()


@pytest.fixture(scope="session")
def page_model(page_shop, tiny, tmp_path_factory):
    """The model, loaded, and the folder of its index."""
    folder = tmp_path_factory.mktemp("page")
    model, processor = tiny("qwen2_vl", max_history=4)
    model.save_pretrained(folder / "embedder")
    processor.save_pretrained(folder / "embedder")
    loaded = load_with_processor(str(folder / "embedder"))
    build_index(loaded, page_shop, folder / "index")
    return loaded, folder / "index"


@pytest.fixture
def open_shop(page_model, page_shop, tmp_path):
    """A recommender over this test's copy of the index."""
    loaded, index = page_model
    shutil.copytree(index, tmp_path / "index")
    return recommender(loaded, page_shop, index=tmp_path / "index")


@pytest.fixture
def window(open_shop):
    return ShopWindow(open_shop)
