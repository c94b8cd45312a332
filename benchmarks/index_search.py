"""How well and how fast an index finds: recall@10 against exact search, and questions per second, one at a time.

Compares, over the same vectors, an exact index (`store="exact"`), LanceDB as `vlm2rec index` makes it (`"lance"`),
both through `ItemIndex.search` with its exact scores, and (where faiss is installed) faiss HNSW with 32 links, built
with efConstruction 200 and asked with efSearch 64. Vectors are drawn around a number of centres, as item vectors lie,
and questions lie close to items, as users do after training. The last line printed is one JSON object.

    python benchmarks/index_search.py                          # 100,000 vectors
    python benchmarks/index_search.py --items 100000 1000000 --dim 1024
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlm2rec_hf.indexing.item_index import ItemIndex
from vlm2rec_hf.indexing.rebuilding import write_index
from vlm2rec_hf.indexing.rows import IndexFacts, rows_table
from vlm2rec_hf.indexing.scoring import Query

BAR, K, PART = 0.95, 10, 50_000


class Vectors:
    """Rows of an index of made-up vectors, which `write_index` takes."""

    def __init__(self, matrix: np.ndarray, store: str) -> None:
        self.matrix = matrix
        columns = {"price": "double"}
        self.facts = IndexFacts("vlm2rec", None, "r", "f", {"both": matrix.shape[1]}, columns=columns, store=store)

    def tables(self, earlier: ItemIndex | None):  # noqa: ANN201
        """All rows, part by part."""
        for start in range(0, len(self.matrix), PART):
            part = self.matrix[start : start + PART]
            ids = [f"item{i}" for i in range(start, start + len(part))]
            prices = [float(i % 100) for i in range(len(part))]
            yield rows_table(self.facts, {"item_id": ids, "price": prices}, {"both": part})

    def again(self, table):  # noqa: ANN001, ANN201
        """Nothing changes here."""
        return table


def draw(n_items: int, n_queries: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of items `(n, dim)` and of questions `(q, dim)`."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n_items // 500), dim), dtype=np.float32)
    items = centres[rng.integers(0, len(centres), n_items)]
    items += 0.7 * rng.standard_normal((n_items, dim), dtype=np.float32)
    queries = items[rng.integers(0, n_items, n_queries)] + 0.5 * rng.standard_normal(
        (n_queries, dim), dtype=np.float32
    )
    return tuple(m / np.linalg.norm(m, axis=1, keepdims=True) for m in (items, queries))  # type: ignore[return-value]


def timed(ask: Callable[[np.ndarray], list[int]], queries: np.ndarray) -> tuple[list[list[int]], float]:
    """What is found for each question, asked one by one, and questions per second."""
    ask(queries[0])
    start = time.perf_counter()
    found = [ask(query) for query in queries]
    return found, len(queries) / (time.perf_counter() - start)


def ours(folder: Path, store: str, items: np.ndarray) -> tuple[Callable[[np.ndarray], list[int]], float]:
    """An index of ours, and the seconds that it took to write."""
    start = time.perf_counter()
    index = write_index(folder / store, lambda: Vectors(items, store))
    seconds = time.perf_counter() - start

    def ask(query: np.ndarray) -> list[int]:
        hits = index.search(Query({"both": query[None]}, {"both": 1.0}), K)[0]
        return [int(item.removeprefix("item")) for item in hits.item_ids]

    return ask, seconds


def faiss_hnsw(items: np.ndarray) -> tuple[Callable[[np.ndarray], list[int]], float]:
    """HNSW by faiss, and the seconds that it took to build."""
    import faiss

    start = time.perf_counter()
    index = faiss.IndexHNSWFlat(items.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(items)
    index.hnsw.efSearch = 64
    return lambda query: index.search(query[None], K)[1][0].tolist(), time.perf_counter() - start


def measure(n_items: int, dim: int, n_queries: int, with_faiss: bool) -> dict[str, dict[str, float]]:
    """One size: side -> recall@10, questions per second, seconds to build."""
    items, queries = draw(n_items, n_queries, dim, seed=0)
    results: dict[str, dict[str, float]] = {}
    truth: list[list[int]] = []
    with tempfile.TemporaryDirectory() as folder:
        sides: list[str] = ["exact", "lance", *(["faiss_hnsw"] if with_faiss else [])]
        for side in sides:
            ask, seconds = faiss_hnsw(items) if side == "faiss_hnsw" else ours(Path(folder), side, items)
            found, rate = timed(ask, queries)
            truth = truth or found
            recall = float(np.mean([len({*a} & {*b}) / K for a, b in zip(truth, found, strict=True)]))
            results[side] = {"recall": recall, "per_second": rate, "build_seconds": seconds}
            print(f"{n_items:>9,} x {dim} {side:<11} recall@10 {recall:.4f}, {rate:,.0f}/s, built in {seconds:.1f} s")
    return results


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    try:
        import faiss  # noqa: F401

        with_faiss = True
    except ImportError:
        print("faiss is not installed (pip install faiss-cpu); it is left out.")
        with_faiss = False
    results = {str(n): measure(n, options.dim, options.queries, with_faiss) for n in options.items}
    print(json.dumps(summary(results, options.dim)))


def summary(results: dict[str, dict[str, dict[str, float]]], dim: int) -> dict[str, object]:
    """One object of all sizes; the worst recall is what the bar is for."""
    recall = min(sides["lance"]["recall"] for sides in results.values())
    sizes = " and ".join(f"{int(n):,}" for n in results)
    return {
        "claim": f"what the approximate index finds at its defaults, of {sizes} vectors of {dim} numbers, "
        "against exact search",
        "unit": "recall@10",
        "ours": recall,
        "other": min(sides["exact"]["recall"] for sides in results.values()),
        "ratio": recall,
        "bar": BAR,
        "met": recall >= BAR,
        "results": results,
    }


if __name__ == "__main__":
    main()
