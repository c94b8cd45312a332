"""How much memory a training step over a million items needs, and how long it takes.

Steps of `SeqRecTrainer` on generated sequences, full softmax over the whole catalogue: rows of 50 items, each place
predicting the next. Beside it, on a catalogue that it can still hold, the same step with PyTorch's own cross-entropy,
which writes every score down: both must give the same losses. Each run has a process of its own, in turn; memory is
the peak of that whole process (Python, PyTorch and data included). The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

BAR_MB = 6 * 1024.0


def make_dataset(n_items: int, n_users: int, length: int, seed: int) -> Any:
    """Users with `length + 1` training items each (and two that are held out), over `n_items` bare ids."""
    import numpy as np
    import pyarrow as pa

    from vlm2rec_hf import RecDataset

    rng = np.random.default_rng(seed)
    per_user = length + 3
    items = rng.integers(0, n_items, n_users * per_user)
    interactions = pa.table(
        {
            "user_id": [f"u{u:06d}" for u in range(n_users) for _ in range(per_user)],
            "item_id": [f"i{i:07d}" for i in items.tolist()],
            "position": np.tile(np.arange(per_user), n_users),
        }
    )
    catalogue = pa.table({"item_id": [f"i{i:07d}" for i in range(n_items)]})
    return RecDataset.from_tables(interactions, catalogue).leave_one_out()


def work(worker: str, options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Train some steps; returns seconds of each, the losses and the peak memory."""
    import torch
    from transformers import TrainerCallback

    from vlm2rec_hf.modeling.configuration_seqrec import SeqRecConfig
    from vlm2rec_hf.modeling.modeling_seqrec import SequentialRecommender
    from vlm2rec_hf.trainers.seqrec_args import SeqRecTrainingArguments
    from vlm2rec_hf.trainers.seqrec_trainer import SeqRecTrainer

    class StepTimes(TrainerCallback):
        """Notes how long each step takes, the optimiser's part included."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.begin = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begin = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.begin)

    torch.manual_seed(options.seed)
    dataset = make_dataset(options.items, options.batch * options.steps, options.length, options.seed)
    config = SeqRecConfig(n_items=dataset.n_items, hidden_size=options.dim, max_length=options.length, dropout=0.0)
    times = StepTimes()
    trainer = SeqRecTrainer(
        SequentialRecommender(config),
        SeqRecTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            logging_strategy="steps",
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=dataset,
        callbacks=[times],
    )
    if worker == "plain":

        def plain(hidden: torch.Tensor, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(hidden @ items.T, targets)

        trainer.loss = plain  # type: ignore[assignment]
    trainer.train()
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {"seconds": times.seconds, "losses": losses, "peak_rss_mb": peak}


def measure(worker: str, options: argparse.Namespace, items: int) -> dict[str, Any]:
    """One way in a fresh process."""
    command = [sys.executable, __file__, "--worker", worker, "--items", str(items)]
    for name in ("batch", "length", "dim", "steps", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode != 0:
        raise RuntimeError(f"{worker} with {items:,} items failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--compare", type=int, default=40_000, help="items of the comparison with plain cross-entropy")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="the second has the optimiser's state in memory")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each way on the small catalogue, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", choices=["ours", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with tempfile.TemporaryDirectory(prefix="million_items_") as scratch:
            print(json.dumps(work(options.worker, options, scratch)))
        return

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    compare = min(options.compare, options.items)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(options.repeats):
        for worker, done in runs.items():
            done.append(measure(worker, options, compare))
            say(f"{worker}, {compare:,} items: {min(done[-1]['seconds']):.2f} s, {done[-1]['peak_rss_mb']:,.0f} MB")
    losses = {worker: done[0]["losses"] for worker, done in runs.items()}
    if any(abs(a - b) > 1e-3 for a, b in zip(losses["ours"], losses["plain"], strict=True)):
        raise RuntimeError(f"The two ways disagree: {losses}")
    full = measure("ours", options, options.items)
    say(f"ours, {options.items:,} items: {min(full['seconds']):.1f} s, {full['peak_rss_mb']:,.0f} MB")
    seconds = {worker: min(min(run["seconds"]) for run in done) for worker, done in runs.items()}
    peaks = {worker: max(run["peak_rss_mb"] for run in done) for worker, done in runs.items()}
    positions = options.batch * options.length
    result = {
        "claim": f"a training step with {options.items:,} items and batch {options.batch} x {options.length}, full "
        f"softmax, d {options.dim}: in under {BAR_MB / 1024:.0f} GB",
        "ours": round(full["peak_rss_mb"] / 1024, 2),
        # What one matrix of scores would take; plain cross-entropy holds it two or three times.
        "other": round(positions * options.items * 4 / 1024**3, 2),
        "ratio": round(positions * options.items * 4 / 1024**2 / full["peak_rss_mb"], 2),
        "bar": {"peak_rss_mb": BAR_MB},
        "unit": "GB",
        "peak_rss_mb": round(full["peak_rss_mb"]),
        "seconds_per_step": round(min(full["seconds"]), 2),
        "n_items": options.items,
        "other_is": "one float32 matrix of all scores of the batch, computed, not measured",
        "compared": {
            "n_items": compare,
            "seconds_per_step": {worker: round(value, 3) for worker, value in seconds.items()},
            "peak_rss_mb": {worker: round(value) for worker, value in peaks.items()},
            "losses": losses,
            "plain_is": "torch cross_entropy(hidden @ items.T, targets), the rest the same",
        },
        "losses": full["losses"],
        "met": full["peak_rss_mb"] < BAR_MB,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
