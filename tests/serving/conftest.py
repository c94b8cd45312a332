"""A small run folder and servers over copies of its index."""

import base64
import io
import shutil

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

import uvicorn.protocols.http.h11_impl  # noqa: E402, F401  servers are forked: what is imported here is not again

import vlm2rec_hf.serving.app  # noqa: E402, F401
from vlm2rec_hf import make_demo_shop, recommender  # noqa: E402
from vlm2rec_hf.recommending.opening import open_recommender  # noqa: E402

from ..conftest import make_image  # noqa: E402
from .live import Live  # noqa: E402


@pytest.fixture(scope="session")
def shop():
    return make_demo_shop(60, n_users=20).dataset()


@pytest.fixture(scope="session")
def run_folder(shop, tiny, tmp_path_factory):
    """What a quickstart leaves behind, as far as a server reads it."""
    folder = tmp_path_factory.mktemp("served") / "run"
    model, processor = tiny("qwen2_vl", max_history=4)
    model.save_pretrained(folder / "embedder")
    processor.save_pretrained(folder / "embedder")
    shop.save(folder / "shop")
    open_recommender(folder)  # makes the index
    return folder


@pytest.fixture(scope="session")
def loaded(run_folder):
    """The model, loaded once for all servers."""
    return open_recommender(run_folder).side.loaded


@pytest.fixture
def open_copy(run_folder, loaded, shop, tmp_path):
    """`open_copy()`: a recommender over this test's copy of the index; a server calls it in its own process."""
    shutil.copytree(run_folder / "index", tmp_path / "index")
    return lambda: recommender(loaded, shop, index=tmp_path / "index")


@pytest.fixture
def live(open_copy, tmp_path):
    """`live(**settings)`: a server over the copy."""
    servers = []

    def make(**settings):
        servers.append(Live(open_copy, tmp_path / "server.log", **settings))
        return servers[-1]

    yield make
    for one in servers:
        one.__exit__()


@pytest.fixture(scope="session")
def image():
    """An image file in base64."""
    buffer = io.BytesIO()
    make_image(5, (40, 40)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
