"""How long reading, 5-coring and splitting a large interaction table takes, and how much memory it needs.

Both ways do the same work on the same parquet file, each in a process of its own (so that the peak memory is that
work's alone), in turn. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BAR_SECONDS, BAR_MB = 60.0, 4096.0


def generate(folder: Path, n: int, n_users: int, n_items: int, seed: int) -> None:
    """Write interactions in random order: Zipf items, log-normal activity of users, times over three years."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, n_users)
    user_ids = pa.array([f"user-{i:07d}" for i in range(n_users)])
    item_ids = pa.array([f"B{i:09d}" for i in range(n_items)])
    rank_share = 1.0 / np.arange(1, n_items + 1) ** 0.9
    writer = None
    for start in range(0, n, 1_000_000):
        size = min(1_000_000, n - start)
        users = _draw(rng, activity, size)
        items = _draw(rng, rank_share, size)
        table = pa.table(
            {
                "user_id": user_ids.take(pa.array(users)),
                "item_id": item_ids.take(pa.array(items)),
                "timestamp": pa.array(rng.integers(1_600_000_000, 1_700_000_000, size)),
                "rating": pa.array(rng.integers(1, 6, size).astype(np.float32)),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "interactions.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
    pq.write_table(pa.table({"item_id": item_ids, "title": item_ids}), folder / "items.parquet")


def _draw(rng, weights, size):  # noqa: ANN001, ANN202
    import numpy as np

    edges = np.cumsum(weights)
    return np.searchsorted(edges, rng.random(size) * edges[-1], side="right").clip(max=len(weights) - 1)


def work_ours(folder: Path) -> dict[str, int]:
    """Read, 5-core, leave-one-out with this package, up to the arrays that training reads."""
    from vlm2rec_hf.data.readers import read_parquet
    from vlm2rec_hf.data.sequences import TEST

    dataset = read_parquet(folder).k_core(5).leave_one_out()
    sequences = dataset.sequences()
    return {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(sequences.items),
        "test": int((sequences.split == TEST).sum()),
    }


def work_pandas(folder: Path) -> dict[str, int]:
    """The same with pandas, the way one would write it down."""
    import pandas as pd

    frame = pd.read_parquet(folder / "interactions.parquet")
    items = pd.read_parquet(folder / "items.parquet")
    frame = frame[frame["item_id"].isin(items["item_id"])]
    while True:
        user_counts = frame.groupby("user_id")["item_id"].transform("size")
        item_counts = frame.groupby("item_id")["user_id"].transform("size")
        keep = (user_counts >= 5) & (item_counts >= 5)
        if keep.all():
            break
        frame = frame[keep]
    frame = frame.sort_values(["user_id", "timestamp"], kind="stable")
    frame["item"] = frame["item_id"].astype("category").cat.codes
    from_end = frame.groupby("user_id").cumcount(ascending=False)
    frame["split"] = from_end.map({0: 2, 1: 1}).fillna(0).astype("int8")
    return {
        "users": frame["user_id"].nunique(),
        "items": frame["item_id"].nunique(),
        "interactions": len(frame),
        "test": int((frame["split"] == 2).sum()),
    }


def measure(worker: str, folder: Path) -> dict[str, float]:
    """Run one way in a fresh process; seconds exclude starting Python, but include importing what it needs."""
    command = [sys.executable, __file__, "--worker", worker, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{worker} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=None, help="default: one per 20 interactions")
    parser.add_argument("--items", type=int, default=None, help="default: one per 100 interactions")
    parser.add_argument("--compare", type=int, default=None, help="interactions for the comparison; default: as many")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each way, in turn; the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", choices=["ours", "pandas"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        start = time.perf_counter()
        counts = (work_ours if args.worker == "ours" else work_pandas)(args.folder)
        seconds = time.perf_counter() - start
        # ru_maxrss is in KiB on Linux and in bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
        print(json.dumps({"seconds": seconds, "peak_rss_mb": peak, "counts": counts}))
        return

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    n, compare = args.interactions, min(args.compare or args.interactions, args.interactions)
    with tempfile.TemporaryDirectory(prefix="data_prepare_") as scratch:
        folders = {}
        for size in sorted({n, compare}):
            folders[size] = Path(scratch) / str(size)
            folders[size].mkdir()
            users, items = args.users or max(size // 20, 10), args.items or max(size // 100, 10)
            generate(folders[size], size, users, items, args.seed)
            say(f"generated {size:,} interactions of {users:,} users with {items:,} items")
        runs: dict[str, list[dict]] = {"ours": [], "pandas": []}
        for _ in range(args.repeats):
            for worker, done in runs.items():
                done.append(measure(worker, folders[compare]))
                say(f"{worker}: {done[-1]['seconds']:.1f} s, peak {done[-1]['peak_rss_mb']:.0f} MB")
        full = runs["ours"] if n == compare else [measure("ours", folders[n])]
    same = all(run["counts"] == runs["ours"][0]["counts"] for done in runs.values() for run in done)
    if not same:
        raise RuntimeError(f"The two ways disagree: {runs}")
    ours, other = (min(run["seconds"] for run in runs[w]) for w in ("ours", "pandas"))
    seconds, peak = min(run["seconds"] for run in full), max(run["peak_rss_mb"] for run in full)
    result = {
        "claim": f"reading parquet, 5-core and leave-one-out of {n:,} interactions: under {BAR_SECONDS:.0f} s and "
        f"{BAR_MB / 1024:.0f} GB",
        "ours": round(ours, 2),
        "other": round(other, 2),
        "ratio": round(other / ours, 2),
        "bar": {"seconds": BAR_SECONDS, "peak_rss_mb": BAR_MB},
        "unit": "s",
        "n": n,
        "n_compared": compare,
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(peak),
        "other_peak_rss_mb": round(max(run["peak_rss_mb"] for run in runs["pandas"])),
        "other_is": "pandas: groupby-transform k-core, sort_values, groupby-cumcount",
        "counts": full[0]["counts"],
        "met": seconds < BAR_SECONDS and peak < BAR_MB,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
