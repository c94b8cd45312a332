"""Small indexes of made-up vectors, for tests that need no model."""

import numpy as np

from vlm2rec_hf.indexing.rebuilding import write_index
from vlm2rec_hf.indexing.rows import EDITED, FROM_DATASET, IndexFacts, rows_table

SIZE = 6


def facts(store="exact", fingerprint="one"):
    views = {"both": SIZE, "text": SIZE, "image": SIZE}
    columns = {"title": "string", "price": "double", "stock": "int64", "sale": "bool"}
    return IndexFacts("vlm2rec", "m", f"rev-{fingerprint}", fingerprint, views, "cosine", True, columns, store)


def vector(item_id, fingerprint="one"):
    """The vectors of an item, decided by its id and the model."""
    seed = [sum(map(ord, fingerprint)), *map(ord, item_id)]
    text, image = np.random.default_rng(seed).normal(size=(2, SIZE)).astype(np.float32)
    return {"both": text + image, "text": text, "image": image}


def vectors(item_ids, fingerprint="one"):
    found = [vector(item, fingerprint) for item in item_ids]
    return {view: np.array([one[view] for one in found]).reshape(-1, SIZE) for view in ("both", "text", "image")}


def metadata(item_ids):
    numbers = [sum(map(ord, item)) for item in item_ids]
    return {
        "item_id": list(item_ids), "title": [f"t {item}" for item in item_ids],
        "price": [None if n % 7 == 0 else n % 50 / 2 for n in numbers], "stock": [n % 5 for n in numbers],
        "sale": [n % 2 == 0 for n in numbers], "_popularity": [n % 11 for n in numbers],
    }  # fmt: skip


class Source:
    """Rows of a dataset of some ids, under a model."""

    def __init__(self, item_ids, store="exact", fingerprint="one"):
        self.ids, self.facts = item_ids, facts(store, fingerprint)

    def table(self, item_ids, **columns):
        return rows_table(self.facts, metadata(item_ids) | columns, vectors(item_ids, self.facts.fingerprint))

    def tables(self, earlier):
        kept, gone = [], set()
        if earlier is not None:
            rows = earlier.rows(earlier.item_ids(), ["_source"]).to_pylist()
            kept, gone = [r["item_id"] for r in rows if r["_source"] != FROM_DATASET], set(earlier.deleted)
        yield self.table([item for item in self.ids if item not in {*kept, *gone}])
        if kept:
            yield self.again(earlier.rows(kept))

    def again(self, table):
        return self.table(table["item_id"].to_pylist(), _source=[EDITED] * len(table))


def small(folder, item_ids, store="exact", fingerprint="one"):
    return write_index(folder, lambda: Source(item_ids, store, fingerprint))


def put(index, *item_ids):
    columns = metadata(item_ids) | {"_source": [EDITED] * len(item_ids)}
    fingerprint = index.facts.fingerprint
    index.upsert(columns, vectors(item_ids, fingerprint), fingerprint=fingerprint)
