"""Peak memory of a training step on 1,024 users with gradient caching, beside a plain step on 32.

Both train all weights but the frozen vision tower of a small, vision-heavy Qwen2-VL; images are decoded and encoded
in every step (no cached features). Each side has a process of its own: one step to allocate everything that stays
(optimizer states, the allocator's arenas), then the high-water mark of resident memory is set back (`/proc`, so Linux
only) and read after the next step. It holds all of the process, Python and libraries included; `above_start` leaves
out what was resident before the first step. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from embedder_training import add_options, batch_of, make_trainer, train_step

BAR = 1.25


def memory_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def work(options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Two steps; memory and seconds of the second."""
    users = options.batch if options.worker == "cached" else options.plain
    tokens = options.tokens if options.worker == "cached" else None
    trainer = make_trainer(
        options,
        users,
        scratch,
        objective="wpcl+crtr",
        cache_vision_features=False,
        gradient_cache_tokens=tokens,
    )
    before = memory_mb("VmRSS")
    for number in range(2):
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        # The batch belongs to the step: with a plain one it holds the pixels of all images.
        loss = train_step(trainer, batch_of(trainer, users, number))
        seconds = time.perf_counter() - start
    return {"peak_mb": memory_mb("VmHWM"), "before_mb": before, "seconds": seconds, "loss": loss}


def measure(worker: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, __file__, "--worker", worker]
    for name, value in vars(options).items():
        if name not in ("worker", "json", "repeat"):
            command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode != 0:
        raise RuntimeError(f"{worker} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--batch", type=int, default=1024, help="users with gradient caching")
    parser.add_argument("--plain", type=int, default=32, help="users of the plain step")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens per forward pass with gradient caching")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side; the highest peak counts")
    parser.add_argument("--worker", choices=("cached", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(work(options, scratch)))
        return
    found: dict[str, list[dict[str, Any]]] = {"cached": [], "plain": []}
    for _ in range(options.repeat):
        for worker, runs in found.items():
            runs.append(measure(worker, options))
            if not options.json:
                print(worker, runs[-1], file=sys.stderr)
    peak = {worker: max(run["peak_mb"] for run in runs) for worker, runs in found.items()}
    own = {worker: max(run["peak_mb"] - run["before_mb"] for run in runs) for worker, runs in found.items()}
    ratio = peak["cached"] / peak["plain"]
    result = {
        "benchmark": "grad_cache_memory",
        "claim": f"batch {options.batch} with gradient caching needs at most {BAR} times the peak memory of batch "
        f"{options.plain} without",
        "unit": "MiB of resident memory at the peak",
        "ours": round(peak["cached"], 1),
        "other": round(peak["plain"], 1),
        "ratio": round(ratio, 3),
        "bar": BAR,
        "met": ratio <= BAR,
        "above_start": {worker: round(value, 1) for worker, value in own.items()},
        "ratio_above_start": round(own["cached"] / own["plain"], 3),
        "seconds_per_step": {worker: round(runs[-1]["seconds"], 2) for worker, runs in found.items()},
        "settings": {name: value for name, value in vars(options).items() if name not in ("worker", "json")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
