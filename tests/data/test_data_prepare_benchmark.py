import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_prints_its_json_line():
    """Both ways must agree on the counts (the script raises otherwise), on data small enough for a test."""
    command = [sys.executable, str(ROOT / "benchmarks" / "data_prepare.py"), "--json", "--interactions", "20000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"claim", "ours", "other", "ratio", "bar", "peak_rss_mb", "n", "n_compared"} <= set(result)
    assert result["n"] == result["n_compared"] == 20000
    assert 0 < result["counts"]["test"] == result["counts"]["users"]
    assert abs(result["ratio"] - result["other"] / result["ours"]) < 0.05
