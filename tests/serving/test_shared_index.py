"""Servers that share an index with others: the embedder's own, and a content head's over its embedder's index."""

import asyncio
import threading

import numpy as np
import pytest
import torch

from vlm2rec_hf import SeqRecConfig, SequentialRecommender, recommender
from vlm2rec_hf.serving.engine import Engine
from vlm2rec_hf.serving.guard import Refused
from vlm2rec_hf.serving.metrics import Metrics
from vlm2rec_hf.serving.schemas import ClicksRequest
from vlm2rec_hf.serving.service import Service
from vlm2rec_hf.serving.settings import ServerSettings

from ..indexing.small_index import small


@pytest.fixture
def embedder(open_copy):
    """A recommender of the embedder, as another process has it."""
    return open_copy()


@pytest.fixture
def head(embedder, shop):
    """A recommender of a content head over the embedder's index, opened by itself."""
    index = embedder.index
    config = SeqRecConfig(
        n_items=shop.n_items, encoder="sasrec", hidden_size=8, item_representation="content",
        content_dims={"both": index.facts.views["both"]},
    )  # fmt: skip
    model = SequentialRecommender(config).eval()
    model.set_catalogue(list(shop.item_ids), torch.arange(shop.n_items))
    vectors = np.array(index.vectors([str(item) for item in shop.item_ids])["both"])
    model.set_content({"both": torch.from_numpy(vectors)}, embedder_revision=index.facts.revision)
    return recommender(model, shop, index=index.path)


def served(ready, use):
    """What `use(service)` gives, awaited while a service over a recommender runs."""

    async def main():
        engine = Engine(ready)
        engine.warm_up()
        service = Service(engine, ServerSettings(), Metrics())
        service.start()
        try:
            return await use(service)
        finally:
            await service.close()

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["embedder", "head"])
def test_a_server_tells_that_the_index_it_follows_was_switched_to_another_model(kind, open_copy, head, tmp_path):
    ready = open_copy() if kind == "embedder" else head

    async def told(service):
        before = service.health()
        small(tmp_path / "index", ["a", "b"], fingerprint="another")
        ready.recommend([[]], 1)
        service.measure()
        return before, service.health(), service.metrics.text().decode()

    before, after, numbers = served(ready, told)
    assert before == {"status": "ok", "items": 60, "version": "v000001", "superseded": False}
    assert after == before | {"superseded": True} and "vlm2rec_superseded 1.0" in numbers


@pytest.mark.parametrize("kind", ["embedder", "head"])
def test_an_item_that_another_process_put_in_can_be_clicked_at_once(kind, open_copy, embedder, head):
    ready = open_copy() if kind == "embedder" else head
    threads, follow = [], ready.side.follow

    def followed():
        threads.append(threading.current_thread().name)
        follow()

    async def clicked(service):
        embedder.upsert([{"item_id": "new", "text": "red tent"}])
        ready.side.follow = followed
        first = await service.click("anna", ClicksRequest(items=["new"]))
        with pytest.raises(Refused, match="none such") as refused:
            await service.click("anna", ClicksRequest(items=["none such", "new"]))
        assert refused.value.status == 422 and len(threads) == 2
        return first, await service.click("anna", ClicksRequest(items=["none such", "new"], on_unknown="skip"))

    assert served(ready, clicked) == ({"length": 1, "n_unknown": 0}, {"length": 2, "n_unknown": 1})
    # A head is changed by what it takes; so it follows where lists are made, and nowhere else.
    assert len(threads) == 3 and all(name.startswith("vlm2rec-batch") == (kind == "head") for name in threads)
