"""How long evaluating all test users of MovieLens-1M takes once their vectors exist, beside exact search by faiss.

Ours is `evaluate_views`: the exact rank of every target among all items and the best 20, seen items left out, for the
text, image and fused view. faiss (`IndexFlatIP`) gives no ranks; per view it searches as many items as the longest
history asks for, and the seen ones are struck out afterwards (the same lists as ours). The split is the real one; the
vectors are seeded noise that leans towards the targets, of a real model's length: the time does not depend on what
they say. Both sides take turns in one process, with the same number of threads. The last line printed is one JSON
object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_ranking import K, search_faiss_excluding

from vlm2rec_hf import load_recsys, make_demo_shop
from vlm2rec_hf.evaluation import SeenItems, evaluate_views

Views = dict[str, np.ndarray]


def open_examples(data: Path | None, k_core: int) -> Any:
    """Test examples of the dataset, or of a small generated shop."""
    if data is None:
        return make_demo_shop(200, n_users=300).dataset().examples("test")
    return load_recsys(data).k_core(k_core).leave_one_out().examples("test")


def make_vectors(targets: np.ndarray, n_items: int, dim: int, seed: int) -> tuple[Views, Views]:
    """Vectors of users and items: unit text and image parts, and their sums."""
    rng = np.random.default_rng(seed)
    users, items = {}, {}
    for view in ("text", "image"):
        made = rng.standard_normal((n_items, dim), dtype=np.float32)
        items[view] = made / np.linalg.norm(made, axis=1, keepdims=True)
        made = rng.standard_normal((len(targets), dim), dtype=np.float32)
        made = made / np.linalg.norm(made, axis=1, keepdims=True) + 0.05 * items[view][targets]
        users[view] = made / np.linalg.norm(made, axis=1, keepdims=True)
    for vectors in (users, items):
        vectors["both"] = vectors["text"] + vectors["image"]
    return users, items


def by_faiss(users: Views, items: Views, facts: dict[str, np.ndarray]) -> Views:
    """The best items of each view, by cosine."""
    import faiss

    found = {}
    for view in users:
        left, right = users[view].copy(), items[view].copy()
        faiss.normalize_L2(left)
        faiss.normalize_L2(right)
        found[view] = search_faiss_excluding({**facts, "users": left, "items": right})
    return found


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, processor seconds, and what came out."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def measure(examples: Any, dim: int, repeats: int, seed: int) -> dict[str, Any]:
    """Both sides in turn for vectors of one length.

    Raises:
        RuntimeError: the best items are not those of faiss.
    """
    users, items = make_vectors(examples.targets, examples.sequences.n_items, dim, seed)
    seen = SeenItems.from_examples(examples)
    lengths = seen.stops - seen.starts
    flat = np.concatenate([seen.items[a:b] for a, b in zip(seen.starts, seen.stops, strict=True)]).astype(np.int64)
    facts = {"targets": examples.targets, "seen": flat, "lengths": lengths}
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: evaluate_views(users, items, examples, k=K)}
    if importlib.util.find_spec("faiss"):
        sides["faiss"] = lambda: by_faiss(users, items, facts)
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    found = {}
    for _ in range(repeats):
        for side, call in sides.items():
            wall, cpu, found[side] = timed(call)
            runs[side].append((wall, cpu))
    wall = {side: statistics.median(run[0] for run in done) for side, done in runs.items()}
    cpu = {side: statistics.median(run[1] for run in done) for side, done in runs.items()}
    result = {"seconds": round(wall["ours"], 3), "users_per_second": round(len(examples) / wall["ours"])}
    result |= {"cpu_seconds": round(cpu["ours"], 3)}
    if "faiss" in found:
        same = [float((found["ours"][view].top_items == found["faiss"][view]).mean()) for view in users]
        if min(same) < 0.999:
            raise RuntimeError(f"Only {min(same):.2%} of the best items are those of faiss.")
        result |= {"faiss_seconds": round(wall["faiss"], 3), "ratio": round(wall["faiss"] / wall["ours"], 2)}
        result |= {"ratio_cpu": round(cpu["faiss"] / cpu["ours"], 2), "same_as_faiss": round(min(same), 6)}
    return result


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--data", type=Path, help="folder of the dataset; a small generated shop without it")
    parser.add_argument("--k_core", type=int, default=5)
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, in turn; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(args.threads)
    examples = open_examples(args.data, args.k_core)
    by_dim = {}
    for dim in args.dims:
        by_dim[str(dim)] = measure(examples, dim, args.repeats, args.seed)
        if not args.json:
            print(f"{dim} dimensions: {by_dim[str(dim)]}", flush=True)
    result = {
        "claim": f"evaluating {len(examples):,} users over {examples.sequences.n_items:,} items, three views, exact "
        "ranks, seen items left out, after vectors exist",
        "unit": "s, by dimensions of the vectors; the other is faiss, without ranks",
        "ours": {dim: found["seconds"] for dim, found in by_dim.items()},
        "other": {dim: found.get("faiss_seconds") for dim, found in by_dim.items()},
        "ratio": {dim: found.get("ratio") for dim, found in by_dim.items()},
        "bar": None,
        "threads": args.threads,
        "data": args.data.name if args.data else "generated",
        "vectors": "seeded noise that leans towards the targets",
        "by_dim": by_dim,
        "other_is": f"faiss IndexFlatIP per view: add, search of {K} + the longest history, seen items struck out; no "
        "ranks"
        if importlib.util.find_spec("faiss")
        else "not installed here: pip install faiss-cpu",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
