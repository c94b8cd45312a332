"""`vlm2rec embed` in processes of its own, on a saved shop and model."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(shop, output, *options):
    words = ["--dataset", str(shop / "data"), "--model", str(shop / "model"), "--output", str(output)]
    return [*words, "--shard_size", "4", "--embed_batch_size", "4", *map(str, options)]


def start(shop, output, *options, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "vlm2rec_hf.cli.main", "embed", *command(shop, output, *options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
