import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def printed(script, *options):
    """The JSON line of a benchmark run in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_encode_throughput_compares_vectors_and_prints_its_line():
    options = "--items 14 --repeats 1 --threads 1 --workers 1 --hidden-size 32 --vision-hidden-size 32 --image-size 84"
    result = printed("encode_throughput.py", *options.split(), "--layers", "1", "--vision-layers", "1")
    assert {"claim", "ours", "other", "ratio", "bar", "unit", "met", "all_images_differ"} <= set(result)
    shared, apart = result["with_variants"], result["all_images_differ"]
    assert shared["distinct_images"] < shared["images"]
    assert apart["distinct_images"] == apart["images"] > 5
    for side in ("ours", "ours_with_workers", "sentence_transformers"):
        assert shared["threads_1"][side]["seconds"] > 0
        assert shared["threads_1"][side]["largest_difference"] < 1e-5
    assert result["met"] == (min(result["ratio"].values()) >= result["bar"])


@pytest.mark.slow
def test_real_shapes_runs_tiny_and_skips_without_a_device():
    options = "--tiny --items 6 --histories 3 --history 2 --batch 2 --image-size 84 --peak-tflops 1"
    result = printed("real_shapes.py", *options.split())
    assert set(result["models"]) == {"Qwen2.5-VL-3B", "Qwen3-VL-2B"}
    for actual in result["models"].values():
        for kind in ("items", "items_cached", "histories", "histories_cached"):
            assert actual[f"{kind}_padded"]["per_second"] > 0 and actual[f"{kind}_packed"]["per_second"] > 0
            assert 0 < actual[f"{kind}_padded"]["mfu"] < 1
        assert actual["training"]["steps_per_second"] > 0
    if not torch.cuda.is_available():
        assert "CUDA" in printed("real_shapes.py")["skipped"]


@pytest.mark.slow
def test_the_real_shapes_are_those_of_the_checkpoints():
    """Built on `meta`, where weights take no memory: 3.75 and 2.13 billion parameters without the output matrix."""
    code = (
        "import sys, json, argparse; sys.path.insert(0, 'benchmarks'); import real_shapes;"
        "o = argparse.Namespace(tiny=False, image_size=448, attention='sdpa');"
        "print(json.dumps({n: sum(p.numel() for p in real_shapes.build(n, o, 'meta')[0].parameters())"
        " for n in real_shapes.SHAPES}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert abs(counts["Qwen2.5-VL-3B"] - 3.75e9) < 0.02e9 and abs(counts["Qwen3-VL-2B"] - 2.13e9) < 0.02e9
