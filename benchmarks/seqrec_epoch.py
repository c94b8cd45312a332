"""How long an epoch of SASRec takes beside RecTools, RePlay and RecBole, and what it is worth.

All train on the same rows of MovieLens-1M (5-core, all but each user's last two interactions) with the same size
(dimension 64, 2 blocks, 2 heads, the last 50 items, full softmax, batch 128, learning rate 1e-3, dropout 0.2) for the
same number of epochs, each in a process of its own, in turn. Then the second-last interactions are ranked over the
whole catalogue, seen items left out, and every list is scored by the same code. Peers live in environments of their
own, named by their Python; those not named are skipped, and the result says so.

    python benchmarks/seqrec_epoch.py --data ../shared/data/ml1m-mm --rectools envs/rectools/bin/python \
        --replay envs/replay/bin/python --recbole envs/recbole/bin/python

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PEERS = ("rectools", "replay", "recbole")
BARS = {"rectools": 1.5, "replay": 1.5, "recbole": 20.0}


def open_split(data: Path) -> Any:
    """The dataset, filtered and split."""
    from vlm2rec_hf.data.readers import load_recsys

    return load_recsys(str(data)).k_core(5).leave_one_out()


def write_train_rows(data: Path, folder: Path) -> Any:
    """Write what the peers train on as `train.npz` (user, item, position; catalogue indices); returns the targets."""
    import numpy as np

    sequences = open_split(data).sequences()
    keep = np.flatnonzero(sequences.split == 0)
    user = np.searchsorted(sequences.offsets, keep, side="right") - 1
    position = keep - sequences.offsets[user]
    np.savez(folder / "train.npz", user=user, item=sequences.items[keep].astype(np.int64), position=position)
    target = np.flatnonzero(sequences.split == 1)
    owner = np.searchsorted(sequences.offsets, target, side="right") - 1
    targets = np.full(sequences.n_users, -1, dtype=np.int64)
    targets[owner] = sequences.items[target]
    return targets


def work_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Train with this package; returns the seconds of each epoch and writes the top lists."""
    import numpy as np
    import torch
    from transformers import TrainerCallback

    from vlm2rec_hf import SeqRecConfig, SeqRecTrainer, SeqRecTrainingArguments, SequentialRecommender
    from vlm2rec_hf.evaluation import rank_head

    class Clock(TrainerCallback):
        seconds: list[float] = []

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    dataset = open_split(args.data)
    torch.manual_seed(args.seed)
    head = SequentialRecommender(SeqRecConfig(n_items=dataset.n_items, hidden_size=64, max_length=50, dropout=0.2))
    arguments = SeqRecTrainingArguments(
        str(args.folder / "run"), num_train_epochs=args.epochs, per_device_train_batch_size=128, learning_rate=1e-3,
        warmup_steps=0, lr_scheduler_type="constant", eval_strategy="no", save_strategy="no", seed=args.seed,
        load_best_model_at_end=False, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = SeqRecTrainer(head, arguments, dataset, callbacks=[Clock()])
    trainer.train()
    examples = dataset.examples("validation", max_history=50)
    top = np.full((dataset.n_users, 10), -1, dtype=np.int64)
    top[examples.user] = rank_head(trainer.head, examples, k=10).top_items
    np.save(args.folder / "top.npy", top)
    return {"epoch_seconds": Clock.seconds}


def ndcg_at_10(top: Any, targets: Any) -> float:
    """Mean over the users with a target; `top` holds catalogue indices, best first."""
    import numpy as np

    known = targets >= 0
    hits = top[known] == targets[known, None]
    return float((hits / np.log2(np.arange(2, 12))).sum(axis=1).mean())


def measure(worker: str, python: str, args: argparse.Namespace, folder: Path, targets: Any) -> dict[str, Any]:
    """One training in a fresh process of an environment."""
    import numpy as np

    script = Path(__file__).resolve()
    script = script if worker == "ours" else script.with_name("seqrec_peers.py")
    command = [python, str(script), "--worker", worker, "--data", str(args.data.resolve())]
    command += ["--folder", str(folder.resolve())]
    command += ["--epochs", str(args.epochs), "--seed", str(args.seed), "--threads", str(args.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    (folder / "top.npy").unlink(missing_ok=True)
    # Some peers write logs where they stand, so that is the scratch folder.
    ours = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([ours, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"{worker} failed:\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if (folder / "top.npy").is_file():
        found["ndcg@10"] = ndcg_at_10(np.load(folder / "top.npy"), targets)
    return found


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--data", type=Path, required=True, help="the folder ml1m-mm")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="trainings of each, in turn; the fastest counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", help=f"Python of an environment with {peer}; skipped if not given")
    parser.add_argument("--worker", choices=["ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        import torch

        torch.set_num_threads(args.threads)
        print(json.dumps(work_ours(args)))
        return
    pythons = {"ours": sys.executable, **{peer: getattr(args, peer) for peer in PEERS if getattr(args, peer)}}
    skipped = {peer: f"no environment given (--{peer})" for peer in PEERS if peer not in pythons}
    for peer, python in list(pythons.items()):
        if not Path(python).is_file():
            skipped[peer] = f"{python} is not there"
            del pythons[peer]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory(prefix="seqrec_epoch_") as scratch:
        targets = write_train_rows(args.data, Path(scratch))
        for _ in range(args.repeats):
            for name, python in pythons.items():
                runs[name].append(measure(name, python, args, Path(scratch), targets))
                if not args.json:
                    print(f"{name}: {runs[name][-1]}", flush=True)
    seconds = {name: min(statistics.median(run["epoch_seconds"]) for run in done) for name, done in runs.items()}
    ratios = {peer: round(seconds[peer] / seconds["ours"], 2) for peer in PEERS if peer in seconds}
    quality = {name: max(run["ndcg@10"] for run in done) for name, done in runs.items() if "ndcg@10" in done[0]}
    faster = all(ratio >= BARS[peer] for peer, ratio in ratios.items())
    print(
        json.dumps(
            {
                "claim": "an epoch of SASRec (d 64, 2 blocks, length 50, full softmax) on MovieLens-1M",
                "ours": round(seconds["ours"], 2),
                "other": {peer: round(seconds[peer], 2) for peer in ratios},
                "ratio": ratios,
                "bar": BARS,
                "unit": "s",
                "ndcg@10": {name: round(value, 4) for name, value in quality.items()},
                "epochs": args.epochs,
                "threads": args.threads,
                "notes": {name: done[0]["note"] for name, done in runs.items() if "note" in done[0]},
                "skipped": skipped,
                "met": bool(ratios) and faster and quality["ours"] >= max(quality.values()) - 1e-9,
            }
        )
    )


if __name__ == "__main__":
    main()
